"""Makes the seeds in `corpus` that are not recorded or componentised: `python3 make_seeds.py`, with Python alone."""

import base64
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
TEXT = HERE.parent / "host/text/testdata"


def write(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def templates():
    chats = {chat["name"]: chat["request"] for chat in json.loads((TEXT / "chats.json").read_text())}
    for index, (name, chat) in enumerate(sorted(chats.items())):
        sources = sorted(TEXT.glob("templates/*.jinja"))
        if index % 4 == 0:
            source = sources[index // 4 % len(sources)]
            body = json.dumps(chat, ensure_ascii=False)
            write("templates", f"{source.stem}-{index}", source.read_text() + "\0" + body)
    write("templates", "loops", "{% for i in range(9) %}{{ loop.index0 ~ messages | tojson(indent=2) }}{% endfor %}")
    write("templates", "macro", "{% macro m(x, y=1) %}{{ x[::-1] }}{{ y }}{% endmacro %}{{ m('ab') | upper }}")
    write("templates", "namespace", "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a | length }}")
    write("templates", "python", "{{ 'a,b'.split(',') | join(';') }}{{ strftime_now('%d %b %Y') }}{{ 1e300 * 10 }}")


def alphabet():
    """GPT-2's: a printable character for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def added(token, content, special=True):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    return {"id": token, "content": content, "special": special, **flags}


def tokenizer(model, **parts):
    empty = dict(truncation=None, padding=None, added_tokens=[], normalizer=None, pre_tokenizer=None, post_processor=None)
    return json.dumps({"version": "1.0", **empty, "decoder": None, **parts, "model": model}, ensure_ascii=False)


def bpe(vocab, merges, **settings):
    defaults = dict(dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None)
    defaults |= dict(fuse_unk=False, byte_fallback=False, ignore_merges=False)
    return {"type": "BPE", **defaults, **settings, "vocab": vocab, "merges": merges}


def tokenizers():
    letters = alphabet()
    names = [letters[byte] for byte in range(256)] + ["he", "ll", "hell", "hello", "Ġa"]
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "a"]]
    split = {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"}}
    split |= dict(behavior="Isolated", invert=False)
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
    vocab = {name: token for token, name in enumerate(names)}
    write("tokenizers", "byte_level.json", tokenizer(
        bpe(vocab, merges), added_tokens=[added(261, "<|im_end|>")], normalizer={"type": "NFC"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]}, decoder=level, post_processor=level))

    names = ["<unk>", "<s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "a", "b", "▁a"]
    vocab = {name: token for token, name in enumerate(names)}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    write("tokenizers", "byte_fallback.json", tokenizer(
        bpe(vocab, [["▁", "a"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True), added_tokens=[added(1, "<s>")],
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        decoder={"type": "Sequence", "decoders": decoders}))

    pieces = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.5], ["ab", -3.0]]}
    meta = dict(type="Metaspace", replacement="▁", prepend_scheme="always", split=True)
    write("tokenizers", "unigram.json", tokenizer(pieces, pre_tokenizer=meta, decoder=meta))
    words = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}}
    write("tokenizers", "word_piece.json", tokenizer(
        words, pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        normalizer=dict(type="BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None,
                        lowercase=True)))


def tiktoken():
    tokens = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello", b" a", "é".encode()]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    write("tiktoken", "small.tiktoken", "\n".join(lines) + "\n")
    write("tiktoken", "alone.tiktoken", "IQ== 0\n")


def safetensors():
    tensors = [("f32.input", "F32", [5, 150], b"\0\0\x80?" * 750), ("f16.input", "F16", [5, 150], b"\0<" * 750),
               ("bf16.input", "BF16", [5, 150], b"\x80?" * 750), ("scales.input", "F32", [300], b"\0\0\x80?" * 300)]
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(header).encode()
    write("safetensors", "plain.safetensors", struct.pack("<Q", len(header)) + header + data)


def gguf():
    def text(value):
        encoded = value.encode()
        return struct.pack("<Q", len(encoded)) + encoded

    def value(content):
        match content:
            case bool(): return struct.pack("<I?", 7, content)
            case int(): return struct.pack("<II", 4, content)
            case float(): return struct.pack("<If", 6, content)
            case str(): return struct.pack("<I", 8) + text(content)
            case [str(), *_]: return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(map(text, content))
            case _: return struct.pack("<IIQ", 9, 5, len(content)) + struct.pack(f"<{len(content)}i", *content)

    letters = alphabet()
    tokens = [letters[byte] for byte in range(256)] + ["he", "ll", "<|im_end|>"]
    values = {
        "general.architecture": "qwen3", "qwen3.block_count": 1, "qwen3.context_length": 128,
        "qwen3.embedding_length": 32, "qwen3.feed_forward_length": 64, "qwen3.attention.head_count": 2,
        "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 16, "qwen3.attention.value_length": 16,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6, "qwen3.rope.freq_base": 1e6, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 258 + [3], "tokenizer.ggml.merges": ["h e", "l l"],
        "tokenizer.ggml.eos_token_id": 258, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    }
    q8_0 = struct.pack("<e32b", 0.5, *range(-16, 16))
    tensors = [("token_embd.weight", [32, 259], 8, q8_0 * 259), ("output_norm.weight", [32], 0, b"\0\0\x80?" * 32),
               ("blk.0.attn_q.weight", [32, 32], 1, b"\0<" * 1024)]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    out += b"".join(text(key) + value(content) for key, content in values.items())
    offset = 0
    for name, sizes, kind, content in tensors:
        out += text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        out += struct.pack("<IQ", kind, offset)
        offset += -(-len(content) // 32) * 32
    for _, _, _, content in tensors:
        out += bytes(-len(out) % 32) + content
    write("gguf", "qwen3.gguf", out)


def requests():
    """The digit chooses the path: chat, completion, tokenize, detokenize."""
    user = {"role": "user", "content": "Hello!"}
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]
    turns = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, user,
             {"role": "assistant", "content": None, "tool_calls": calls},
             {"role": "tool", "tool_call_id": "a", "content": "7"}, {**user, "name": "x"}]
    sampling = dict(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, seed=-1, presence_penalty=1, frequency_penalty=-1,
                    repetition_penalty=1.1, logit_bias={"5": -100, "6": 1.5}, min_tokens=1, ignore_eos=True,
                    stop=["a", "\n"], stop_token_ids=[7])
    told = dict(priority=-5, ttft_target_ms=1, tpot_target_ms=1, deadline_ms=9, prompt_cache_key="k", user="u",
                metadata={}, response_format={"type": "text"}, tool_choice="none", tools=None)
    bodies = {
        "chat": ("0", dict(model="fuzz", messages=[user], max_tokens=4)),
        "chat-stream": ("0", dict(messages=turns[:2], n=2, stream=True, stream_options={"include_usage": True},
                                  logprobs=True, top_logprobs=3, max_completion_tokens=3)),
        "chat-all": ("0", dict(messages=[user], chat_template_kwargs={"enable_thinking": False}, **sampling, **told)),
        "chat-turns": ("0", dict(messages=turns, max_tokens=2)),
        "completion": ("1", dict(model="fuzz", prompt="a b", max_tokens=4, echo=True, logprobs=2)),
        "completion-many": ("1", dict(prompt=["a", "b"], n=2, stream=True, echo=True, logprobs=0, max_tokens=2)),
        "completion-tokens": ("1", dict(prompt=[[1, 2], [3]], max_tokens=0, echo=True, truncate_prompt_tokens=1)),
        "completion-all": ("1", dict(prompt=[1, 2, 3], include_stop_str_in_output=True, **sampling, **told)),
        "tokenize": ("2", dict(model="fuzz", prompt="a b", add_special_tokens=True, return_token_strs=True)),
        "tokenize-chat": ("2", dict(messages=[user], add_generation_prompt=False)),
        "detokenize": ("3", dict(model="fuzz", tokens=[1, 2, 300])),
        "broken": ("0", "{"),
        "deep": ("1", dict(prompt=json.loads("[" * 50 + "]" * 50))),
    }
    for name, (path, body) in bodies.items():
        write("requests", name, path + (body if isinstance(body, str) else json.dumps(body)))


def keys():
    entry = '[[key]]\nname = "{}"\nsha256 = "{}"\nscopes = [{}]\n'
    one = entry.format("ops", "0" * 64, '"inference", "metrics", "deploy"') + "weight = 2.5\n"
    write("keys", "one.toml", one)
    write("keys", "two.toml", one + entry.format("team-a", "ab" * 32, '"inference"'))
    write("keys", "none.toml", "# nobody\n")


requests()
keys()
templates()
tokenizers()
tiktoken()
safetensors()
gguf()
