"""Makes a small file of ranks in the layout of Qwen's first models, and ids of texts by Python's tiktoken.

    pip install tiktoken
    python make_tiktoken.py                    writes small.tiktoken and small.tiktoken.json
    python make_tiktoken.py RANKS < TEXTS      prints the ids of texts, one JSON string a line, for another file of ranks

The ranks are the merges of the embedded model's tokenizer, each token after the two that it is merged from.
"""

import base64
import json
import sys
import unicodedata
from pathlib import Path

import tiktoken

HERE = Path(__file__).parent
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "",
    "a",
    "The KV cache is divided into blocks of a fixed number of tokens.",
    "I'll say it's what they've DON'T I'M we'D",
    "don\u2019t \u017ft '\u017f",
    "0123456789 3.14159 1,000,000 ١٢٣ Ⅷ ½",
    "line\nline\n\nline\r\n\r\n  indented\n\t\ttabs  \n   trailing   ",
    "   leading",
    " \u3000\u2003wide\u00a0spaces\u2028and\u2029lines\u0085",
    "fn main() { let x: Vec<u8> = vec![0; 16]; /* … */ }\n",
    "snake_case camelCase kebab-case SCREAMING_CASE __dunder__",
    "https://example.org/a/b?c=d&e=%20f#g",
    "!!!??? ... --- *** ((())) <<<>>> \"'`´",
    "Déjà vu, naïve façade, Ærøskøbing, smörgåsbord, Łódź",
    "De\u0301ja\u0300 vu: e\u0301 \u0065\u0323\u0302 \u1e69 s\u0323\u0307 \u0f73",
    "Привет, как дела? Всё хорошо.",
    "Καλημέρα κόσμε, τί κάνεις;",
    "你好，世界！请介绍一下大型语言模型。",
    "こんにちは、世界。カタカナと漢字。ﾊﾝｶｸ",
    "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "مرحبا بالعالم، كيف حالك؟ بِسْمِ",
    "שָׁלוֹם עוֹלָם",
    "नमस्ते दुनिया, क्षत्रिय हिन्दी",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "தமிழ் வணக்கம் ကြိုဆို ქართული հայերեն",
    "🦀 🚀🚀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 1️⃣ ❤️ 🧑🏿‍🚀",
    "a\u0308\u0323\u0301\u0302\u0303 Z\u0351\u036b\u0343a\u0308lgo",
    "\u200b\u200d\ufeff zero\u200dwidth \u202eright to left\u202c",
    "\u0000\u0001\u001f\u007f control \u0080\u009f",
    "\U0001d54f\U0001d573 math \U00020000 rare han \U0010fffd private \ue000",
    "<|endoftext|>",
    "<|im_start|>system\nObey.<|im_end|>\n<|im_start|>assistant\n",
    "<|extra_0|><|extra_204|> < |im_end|> <|im_end|",
    "ſ K Å Ω ﬁ ﬀ ①",
    "x" * 300,
    " " * 40 + "x" + "\n" * 20,
    "the the the policy policy request requests requested",
]


def ranks_of_merges(tokenizer: Path) -> dict[bytes, int]:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
    spelled = lambda name: bytes(byte_of[c] for c in name)
    tokens = [bytes([byte]) for byte in visible + hidden]
    tokens += [spelled(left + right) for left, right in json.loads(tokenizer.read_text())["model"]["merges"]]
    return {token: rank for rank, token in enumerate(tokens)}


def read(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def encoder(ranks: dict[bytes, int]):
    encoding = tiktoken.Encoding("qwen", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={})
    return lambda text: encoding.encode(unicodedata.normalize("NFC", text), disallowed_special=())


def main() -> None:
    if len(sys.argv) > 1:
        encode = encoder(read(Path(sys.argv[1])))
        for line in sys.stdin:
            print(json.dumps(encode(json.loads(line))))
        return
    ranks = ranks_of_merges(HERE / "../../model/embedded/tokenizer.json")
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    (HERE / "small.tiktoken").write_text("".join(lines))
    encode = encoder(ranks)
    golden = ",\n".join(json.dumps({"text": text, "ids": encode(text)}, ensure_ascii=True) for text in TEXTS)
    (HERE / "small.tiktoken.json").write_text(f"[\n{golden}\n]\n")


if __name__ == "__main__":
    main()
