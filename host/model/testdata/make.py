"""Makes the checkpoints beside it, and what Hugging Face's transformers says of them.

    pip install torch transformers
    python make.py

Each folder is a tiny random model as `save_pretrained` writes it, with `golden.json`: for each prompt the logits after
its last token, the greedy answer, and the logits after that. `yarn.json` holds rotary speeds at the models' true sizes.
"""

import json
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = Path(__file__).parent
SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
PROMPTS = (1, 40, 120)
ANSWER = 8


def rounded(values):
    return [float(f"{value:.7g}") for value in values]


def greedy(model, prompt):
    tokens, found = list(prompt), []
    for _ in range(ANSWER + 1):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        found.append(logits.tolist())
        tokens.append(int(logits.argmax()))
    answer = tokens[len(prompt) : len(prompt) + ANSWER]
    return dict(prompt=prompt, logits=rounded(found[0]), answer=answer, last_logits=rounded(found[-1]))


def make(name, kind, config, seed, dtype, shard="1GB"):
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            middle, spread = (1.0, 0.1) if "norm" in tensor_name else (0.0, 0.3)
            tensor.copy_(middle + spread * torch.randn_like(tensor))
    model.to(dtype).save_pretrained(HERE / name, max_shard_size=shard)
    model = kind.from_pretrained(HERE / name, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [[(index * index * 7 + index + length) % 61 for index in range(length)] for length in PROMPTS]
    golden = [greedy(model, prompt) for prompt in prompts]
    (HERE / name / "golden.json").write_text(json.dumps(golden) + "\n")


def yarn(config):
    speeds, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    return dict(
        head_dim=config.hidden_size // config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        attention_factor=attention_factor,
        speeds=rounded(speeds.tolist()),
    )


def main():
    qwen2 = Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False)
    make("qwen2-shards-bf16", Qwen2ForCausalLM, qwen2, 1, torch.bfloat16, shard="24KB")
    qwen3 = Qwen3Config(
        **SIZES, num_key_value_heads=2, head_dim=12, max_position_embeddings=256, tie_word_embeddings=True
    )
    make("qwen3-tied-f16", Qwen3ForCausalLM, qwen3, 2, torch.float16)
    stretched = Qwen2Config(
        **SIZES, num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, rope_parameters=YARN
    )
    make("qwen2-yarn-f16", Qwen2ForCausalLM, stretched, 3, torch.float16)

    large = dict(hidden_size=5120, num_attention_heads=40, max_position_embeddings=131072)
    settings = [
        dict(factor=4.0, original_max_position_embeddings=32768),
        dict(factor=2.0, original_max_position_embeddings=32768, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25),
    ]
    cases = [yarn(Qwen2Config(**large, rope_parameters=dict(rope_type="yarn", rope_theta=1e6, **s))) for s in settings]
    (HERE / "yarn.json").write_text(json.dumps(cases) + "\n")


main()
