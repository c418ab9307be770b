"""Renders chats with transformers' `apply_chat_template`, to hold the crate's rendering against it byte for byte.

    pip install transformers jinja2
    python make_chats.py                       writes a golden file beside each of the templates here
    python make_chats.py FOLDER RENDERER       compares every FOLDER/*.jinja with RENDERER, the built example `render`
"""

import collections
import datetime
import json
import subprocess
import sys
from pathlib import Path

import tokenizers
import transformers
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
NOW = 1_735_689_600
TOKENS = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


def render(template: str, request: dict) -> dict:
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, **TOKENS)
    try:
        text = tokenizer.apply_chat_template(
            request["messages"],
            tools=request.get("tools"),
            chat_template=template,
            add_generation_prompt=request.get("add_generation_prompt", True),
            tokenize=False,
            **request.get("chat_template_kwargs", {}),
        )
        return {"text": text}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def write_golden(chats: list[dict]) -> None:
    for path in sorted((HERE / "templates").glob("*.jinja")):
        answers = [render(path.read_text(), chat["request"]) for chat in chats]
        texts = [{"name": chat["name"], "text": answer.get("text")} for chat, answer in zip(chats, answers)]
        failed = [f"{chat['name']}: {answer['error']}" for chat, answer in zip(chats, answers) if "error" in answer]
        lines = ",\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
        path.with_suffix(".golden.json").write_text(f"[\n{lines}\n]\n")
        print(f"{path.name}: {len(texts) - len(failed)} chats rendered, refused: {failed}")


def kind(mine: dict, theirs: dict) -> str:
    if "error" in theirs:
        return "refused by both" if "error" in mine else "refused by transformers alone"
    return "equal" if mine == theirs else "different"


def compare(chats: list[dict], folder: Path, renderer: str) -> None:
    total = collections.Counter()
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_text()
        jobs = [{"template": template, "tokens": TOKENS, "now": NOW, "request": chat["request"]} for chat in chats]
        lines = "".join(json.dumps(job) + "\n" for job in jobs)
        ours = subprocess.run([renderer], input=lines, capture_output=True, text=True, check=True).stdout
        counts = collections.Counter()
        for chat, line in zip(chats, ours.strip("\n").split("\n"), strict=True):
            mine, theirs = json.loads(line), render(template, chat["request"])
            counts[kind(mine, theirs)] += 1
            if kind(mine, theirs) == "different":
                print(f"  {chat['name']}\n    theirs {theirs}\n    ours   {mine}")
        total += counts
        print(f"{path.name}: {dict(counts)}")
    print(f"all: {dict(total)}")


def main() -> None:
    chat_template_utils.datetime = FixedTime
    chats = json.loads((HERE / "chats.json").read_text())
    if len(sys.argv) == 3:
        compare(chats, Path(sys.argv[1]), sys.argv[2])
    else:
        write_golden(chats)


if __name__ == "__main__":
    main()
