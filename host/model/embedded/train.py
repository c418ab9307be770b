"""Trains the embedded model: corpus, tokenizer, a small Qwen3 from scratch, and its export in Hugging Face layout.

`python train.py --out DIR` needs torch, tokenizers, safetensors and numpy; one GPU or much patience.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from corpus import HERE, documents

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END, START, STOP = range(3)
CONFIG = dict(
    architectures=["Qwen3ForCausalLM"], model_type="qwen3", vocab_size=2048, hidden_size=256, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=768, hidden_act="silu",
    tie_word_embeddings=True, attention_bias=False, attention_dropout=0.0, rms_norm_eps=1e-6, rope_theta=10000.0,
    max_position_embeddings=2048, initializer_range=0.02, use_sliding_window=False, use_cache=True,
    bos_token_id=END, eos_token_id=STOP, torch_dtype="float16",
)
GENERATION = dict(bos_token_id=END, pad_token_id=END, eos_token_id=[STOP, END], do_sample=True, temperature=0.7,
                  top_p=0.95)
# What the client writes is not what the model shall write, but it shall not be a stranger to it either.
PROMPT_WEIGHT = 0.1
DROPOUT = 0.1
# Rows of both lengths: the short ones begin often, as a chat does; the long ones reach the end of the context.
LENGTHS, LONG_EVERY = (256, 2048), 4
STEP_TOKENS = 65_536


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dim, self.eps = (c[k] for k in (
            "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps"))
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, c["hidden_size"], bias=False)
        self.q_norm = nn.RMSNorm(self.dim, eps=self.eps)
        self.k_norm = nn.RMSNorm(self.dim, eps=self.eps)

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).float().view(rows, length, self.heads, self.dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).float().view(rows, length, self.kv_heads, self.dim)).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, self.kv_heads, self.dim).transpose(1, 2)
        q, k = (rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), Mlp(c)
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), DROPOUT, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), DROPOUT, self.training)


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])


class Qwen3(nn.Module):
    """The names of its parameters are those of Hugging Face's Qwen3ForCausalLM."""

    def __init__(self, c):
        super().__init__()
        self.model = Body(c)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=c["initializer_range"])
        frequency = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angle = torch.outer(torch.arange(c["max_position_embeddings"]), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens):
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]])
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def train_tokenizer(docs):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"], special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator((f"{role}\n{text}" for doc in docs for role, text in doc), trainer)
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]
    return tokenizer


def encode(tokenizer, docs):
    """Each document as (ids, weights), in the form that chat_template.jinja gives it."""
    pieces = [text if role == "text" else f"{role}\n{text}" for doc in docs for role, text in doc]
    encoded = iter(tokenizer.encode_batch_fast(pieces, add_special_tokens=False))
    newline, header = tokenizer.encode("\n").ids, len(tokenizer.encode("assistant\n").ids)
    for doc in docs:
        ids, weights = [], []

        def add(new, weight):
            ids.extend(new)
            weights.extend([weight] * len(new))

        for role, _ in doc:
            text = next(encoded).ids
            if role == "text":
                add(text, 1.0)
            elif role == "assistant":
                add([START] + text[:header], PROMPT_WEIGHT)
                add(text[header:] + [STOP], 1.0)
                add(newline, PROMPT_WEIGHT)
            else:
                add([START] + text + [STOP] + newline, PROMPT_WEIGHT)
        add([END], 1.0)
        yield ids, weights


def pack(encoded, length):
    """Rows of `length` tokens, each beginning with the beginning of a document."""
    rows, row_weights, ids, weights = [], [], [], []
    for more_ids, more_weights in encoded:
        ids += more_ids
        weights += more_weights
        if len(ids) > length:
            rows.append(np.array(ids[: length + 1], dtype=np.int16))
            row_weights.append(np.array(weights[: length + 1], dtype=np.float16))
            ids, weights = [], []
    return torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(row_weights))


def rate(step, steps, peak):
    if step < 200:
        return peak * (step + 1) / 200
    progress = (step - 200) / max(1, steps - 200)
    return peak * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress)))


def train(model, packed, args, device):
    decay = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    groups = [dict(params=decay, weight_decay=0.1), dict(params=plain, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=device.type == "cuda")
    order = torch.Generator().manual_seed(args.seed)
    began, total = time.time(), 0.0
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args.steps, args.lr)
        rows, weights = packed[step % LONG_EVERY == 0]
        pick = torch.randint(len(rows), (STEP_TOKENS // (rows.shape[1] - 1),), generator=order)
        tokens, weight = rows[pick].to(device).long(), weights[pick].to(device).float()[:, 1:]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        loss = (loss * weight.flatten()).sum() / weight.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.detach()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            count = step % 100 + 1
            print(f"step {step + 1} loss {float(total) / count:.4f} {time.time() - began:.0f} s", flush=True)
            total = 0.0


def export(model, tokenizer, out):
    out.mkdir(parents=True, exist_ok=True)
    state = {name: p.detach().half().cpu().contiguous() for name, p in model.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    added = {str(i): dict(content=s, lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
             for i, s in enumerate(SPECIAL)}
    tokenizer_config = dict(
        tokenizer_class="PreTrainedTokenizerFast", add_bos_token=False, add_prefix_space=False, bos_token=None,
        eos_token=SPECIAL[STOP], pad_token=SPECIAL[END], unk_token=None, added_tokens_decoder=added,
        clean_up_tokenization_spaces=False, model_max_length=CONFIG["max_position_embeddings"])
    for name, content in (("config", CONFIG), ("generation_config", GENERATION), ("tokenizer_config", tokenizer_config)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if out.resolve() != HERE.resolve():
        shutil.copy(HERE / "chat_template.jinja", out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--documents", type=int, default=400_000)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    docs = documents(args.seed, args.documents)
    tokenizer = train_tokenizer(docs[:40_000])
    encoded = list(encode(tokenizer, docs))
    packed = [pack(encoded, length) for length in LENGTHS]
    model = Qwen3(CONFIG).to(device)
    print(f"{len(docs)} documents, {sum(len(i) for i, _ in encoded)} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    train(model, packed, args, device)
    export(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
