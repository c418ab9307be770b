"""Writes GGUF files of random weights in the shape of Qwen2.5-0.5B or Qwen3-0.6B, and lets llama.cpp quantise them.

`python checkpoints.py DIR` leaves SHAPE-f16.gguf, SHAPE-Q4_K_M.gguf and SHAPE-Q6_K.gguf there for each shape.
"""

import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

SHAPES = {
    "qwen2.5-0.5b": dict(arch="qwen2", layers=24, hidden=896, heads=14, kv_heads=2, head_dim=64, ffn=4864,
                         vocab=151936, bias=True, norms=False),
    "qwen3-0.6b": dict(arch="qwen3", layers=28, hidden=1024, heads=16, kv_heads=8, head_dim=128, ffn=3072,
                       vocab=151936, bias=False, norms=True),
}
QUANTISATIONS = {"Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K}


def byte_spelling():
    """The character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def write(path, shape):
    random = np.random.default_rng(17)
    writer = gguf.GGUFWriter(path, shape["arch"])
    writer.add_context_length(4096)
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    spelled = byte_spelling()
    tokens = spelled + [spelled[0] + spelled[1]] + [f"t{index}" for index in range(257, shape["vocab"] - 1)] + ["<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (shape["vocab"] - 1) + [3])
    writer.add_token_merges([f"{spelled[0]} {spelled[1]}"])
    writer.add_eos_token_id(shape["vocab"] - 1)

    def matrix(name, outputs, inputs):
        spread = (3 / inputs) ** 0.5
        values = random.uniform(-spread, spread, (outputs, inputs)).astype(np.float16)
        writer.add_tensor(f"{name}.weight", values)

    def vector(name, length, middle):
        writer.add_tensor(name, (middle + random.uniform(-0.1, 0.1, length)).astype(np.float32))

    hidden, ffn = shape["hidden"], shape["ffn"]
    query, key = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    matrix("token_embd", shape["vocab"], hidden)
    for layer in range(shape["layers"]):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", hidden, 1)
        for part, outputs in [("q", query), ("k", key), ("v", key)]:
            matrix(f"{block}.attn_{part}", outputs, hidden)
            if shape["bias"]:
                vector(f"{block}.attn_{part}.bias", outputs, 0)
        if shape["norms"]:
            vector(f"{block}.attn_q_norm.weight", shape["head_dim"], 1)
            vector(f"{block}.attn_k_norm.weight", shape["head_dim"], 1)
        matrix(f"{block}.attn_output", hidden, query)
        vector(f"{block}.ffn_norm.weight", hidden, 1)
        matrix(f"{block}.ffn_gate", ffn, hidden)
        matrix(f"{block}.ffn_up", ffn, hidden)
        matrix(f"{block}.ffn_down", hidden, ffn)
    vector("output_norm.weight", hidden, 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, target, kind):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    parameters.nthread = 0
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters) != 0:
        sys.exit(f"llama.cpp did not quantise {source}")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in SHAPES.items():
        full = folder / f"{name}-f16.gguf"
        if not full.exists():
            write(full, shape)
        for kind, number in QUANTISATIONS.items():
            target = folder / f"{name}-{kind}.gguf"
            if not target.exists():
                quantise(full, target, number)


if __name__ == "__main__":
    main()
