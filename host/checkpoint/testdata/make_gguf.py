"""Makes `qwen2.gguf`, which `src/tests/gguf_made.rs` reads, with llama.cpp's own writer.

    pip install gguf numpy
    python make_gguf.py

Written with gguf 0.19.0. Each layer holds a matrix in one kind as `attn_q`, and what gguf's own reader makes of its bytes in F32 as
`attn_output`. gguf quantises some kinds; of the others the bytes are random, with scales that are finite.
"""

from pathlib import Path

import gguf
import numpy
from gguf import GGMLQuantizationType as Kind
from gguf import quants

ROWS, INPUTS = 2, 256
KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
SUPER = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
# Where the scales in F16 of a block lie.
SCALES = {Kind.Q2_K: [80, 82], Kind.Q3_K: [108], Kind.Q4_K: [0, 2], Kind.Q5_K: [0, 2], Kind.Q6_K: [208]}

generator = numpy.random.default_rng(4)


def random_blocks(kind):
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (ROWS * INPUTS // numbers, size), dtype=numpy.uint8)
    for at in SCALES[kind]:
        blocks[:, at + 1] &= 0xBB
    return blocks.reshape(ROWS, -1)


writer = gguf.GGUFWriter(Path(__file__).with_name("qwen2.gguf"), "qwen2")
writer.add_block_count(len(KINDS + SUPER))
writer.add_context_length(32768)
writer.add_embedding_length(INPUTS)
writer.add_feed_forward_length(4864)
writer.add_head_count(14)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_rope_freq_base(1000000.0)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("qwen2")
writer.add_token_list(["a", "b", "Ġa", "<|endoftext|>", "<|im_end|>"])
writer.add_token_types([1, 1, 1, 3, 3])
writer.add_token_merges(["Ġ a"])
writer.add_eos_token_id(4)
writer.add_pad_token_id(3)
writer.add_bos_token_id(3)
writer.add_add_bos_token(False)
writer.add_chat_template("{{ messages[0].content }}")
for layer, kind in enumerate(KINDS + SUPER):
    if kind in SUPER:
        data = random_blocks(kind)
    else:
        data = quants.quantize(generator.normal(size=(ROWS, INPUTS)).astype(numpy.float32), kind)
    writer.add_tensor(f"blk.{layer}.attn_q.weight", data, raw_dtype=kind)
    writer.add_tensor(f"blk.{layer}.attn_output.weight", quants.dequantize(data, kind).astype(numpy.float32))
writer.add_tensor("output.weight", numpy.ones((5, INPUTS), dtype=numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
