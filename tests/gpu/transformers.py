"""The server on a GPU against Hugging Face transformers, token by token.

For a machine with a card, torch and transformers; nothing is downloaded. Random checkpoints of Qwen2 and Qwen3 are made
here, and the model that the server carries is taken too. Each is served as it is, in int8 and in nf4; prompts of token
ids are sent one by one and all at once, and every position's log-probability is compared with a float32 forward pass of
transformers on the same tokens. For int8 and nf4 the weights of that pass are what bitsandbytes makes of them; without
bitsandbytes these are left out, and a line says so.

usage: transformers.py SLUICE [--device cuda] [--quantization none,int8,nf4] [--seed N] [--reference torch|sluice]

`--reference sluice` compares with the server on the CPU, on the carried model alone: it needs neither torch nor a card
(with `--device cpu`) and shows that this script works.
"""

import argparse
import concurrent.futures
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing
import urllib.request
from pathlib import Path

# This file is named after the library; its own folder is not where that is looked for.
sys.path = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

CARRIED = Path(__file__).resolve().parents[2] / "host" / "model" / "embedded"
VOCABULARY = 2048
LENGTHS = [1, 16, 17, 130, 700]
ANSWER = 4
ALTERNATIVES = 5
# Seconds.
START, ANSWERED, STOP = 300, 120, 60


class Limits(typing.NamedTuple):
    """What bf16 may make of log-probabilities: of any, and in the mean. The likeliest token is the same wherever the next
    one is further behind than `decided`."""

    worst: float
    mean: float
    decided: float


# A model that was trained is surer than random ones, and its logits lie further apart.
TRAINED, RANDOM = Limits(0.8, 0.06, 0.5), Limits(0.25, 0.04, 0.25)


class Server:
    """`sluice serve`, from `with` to its end."""

    def __init__(self, sluice, model, device, quantization):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [sluice, "serve", "--model", str(model), "--device", device, "--quantization", quantization,
                   "--served-model-name", "model", "--port", "0", "--admin-port", "0"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        ends = time.monotonic() + START
        while time.monotonic() < ends and self.process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", self.said())
            if found:
                self.url = found.group()
                return self
            time.sleep(0.1)
        self.process.kill()
        raise SystemExit(f"FAILED: the server did not say where it listens:\n{self.said()}")

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            ended = self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            ended = "killed"
        if ended != 0 and kind is None:
            raise SystemExit(f"FAILED: the server did not end well ({ended}):\n{self.said()}")

    def said(self):
        return Path(self.log.name).read_text(errors="replace")

    def complete(self, tokens, answer=ANSWER, alternatives=ALTERNATIVES):
        """The log-probabilities of the prompt and of what came after it."""
        body = {"model": "model", "prompt": tokens, "echo": True, "logprobs": alternatives, "max_tokens": answer,
                "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWERED) as response:
            return json.load(response)["choices"][0]["logprobs"]

    def texts(self):
        """Of every token, as the server writes it among log-probabilities."""
        texts = []
        for first in range(0, VOCABULARY, 512):
            texts += self.complete(list(range(first, first + 512)), answer=0, alternatives=0)["tokens"]
        return texts


class Torch:
    """The same model in float32, by transformers."""

    def __init__(self, model, quantization):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch, self.known = torch, {}
        self.place = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
        self.model = loaded.to(self.place).eval()
        if quantization != "none":
            self.quantize(quantization)

    def quantize(self, quantization):
        """All linear layers but the head become what bitsandbytes reads back of them."""
        import bitsandbytes.functional as bnb

        for layer in self.model.model.layers.modules():
            if isinstance(layer, self.torch.nn.Linear):
                weight = layer.weight.data.contiguous()
                if quantization == "nf4":
                    codes, state = bnb.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
                    read = bnb.dequantize_4bit(codes, state)
                else:
                    # bitsandbytes wants 16 bits here, and the checkpoints have no more.
                    codes, largest, _ = bnb.int8_vectorwise_quant(weight.to(self.torch.float16))
                    read = codes.float() * largest.float().view(-1, 1) / 127
                layer.weight.data = read.to(self.torch.float32)

    def scores(self, tokens, _):
        """Of each position but the first, and of the one behind the last: of every token."""
        if tuple(tokens) not in self.known:
            with self.torch.no_grad():
                logits = self.model(self.torch.tensor([tokens], device=self.place)).logits[0].double()
            self.known[tuple(tokens)] = self.torch.log_softmax(logits, -1).cpu().tolist()
        return self.known[tuple(tokens)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        del self.model


class Sluice(Server):
    """The server itself, on the CPU: of the twenty most likely tokens and the given one, by their text."""

    def __init__(self, sluice, model, quantization):
        super().__init__(sluice, model, "cpu", quantization)

    def scores(self, tokens, texts):
        known = self.complete(tokens, answer=1, alternatives=20)["top_logprobs"][1:]
        return [[alternatives.get(text) for text in texts] for alternatives in known]


class Case:
    """What was found of some prompts, and how far it is from what is expected."""

    def __init__(self, texts, limits):
        self.texts, self.limits, self.ids = texts, limits, {}
        for token, text in enumerate(texts):
            self.ids.setdefault(text, []).append(token)
        self.compared, self.sum, self.worst, self.wrong = 0, 0.0, 0.0, []

    def add(self, prompt, found, reference):
        """Tokens that were drawn are known by their texts, which several may share."""
        tokens, length = list(prompt), len(prompt)
        drawn = found["tokens"][length:]
        if found["tokens"][:length] != [self.texts[token] for token in prompt]:
            return self.wrong.append("the echo is not the prompt")
        if len(drawn) != ANSWER:
            return self.wrong.append(f"{len(drawn)} tokens were drawn, not {ANSWER}")
        for text in drawn:
            last = reference.scores(tokens, self.texts)[-1]
            likely = [token for token in self.ids.get(text, []) if last[token] is not None]
            if not likely:
                return self.wrong.append(f"{text!r} was drawn, which nobody expects")
            tokens.append(max(likely, key=lambda token: last[token]))
        expected = reference.scores(tokens, self.texts)
        for place in range(1, len(tokens)):
            self.position(place, tokens[place], expected[place - 1], found)
            if place >= length:
                self.greedy(place, expected[place - 1], found["token_logprobs"][place])

    def position(self, place, token, expected, found):
        """The given token and the alternatives, and the most likely one where that is beyond doubt."""
        logprob, top = found["token_logprobs"][place], found["top_logprobs"][place]
        if expected[token] is not None:
            self.compare(place, logprob, [expected[token]])
        for text, logprob in top.items():
            self.compare(place, logprob, [expected[token] for token in self.ids.get(text, [])])
        known = [(logprob, token) for token, logprob in enumerate(expected) if logprob is not None]
        (best, token), (second, _) = sorted(known, reverse=True)[:2]
        likeliest = max(top, key=top.get)
        if best - second > self.limits.decided and likeliest != self.texts[token]:
            self.wrong.append(f"position {place}: {likeliest!r} is the likeliest, expected {self.texts[token]!r}")

    def greedy(self, place, expected, logprob):
        best = max(known for known in expected if known is not None)
        if not abs(logprob - best) <= self.limits.worst:
            self.wrong.append(f"position {place}: {logprob:.3f} was drawn, the best is {best:.3f}")

    def compare(self, place, found, expected):
        """With the nearest of those that may be meant; a reference may not know any."""
        known = [logprob for logprob in expected if logprob is not None]
        if not known:
            return
        difference = min(abs(found - logprob) for logprob in known)
        self.compared += 1
        self.sum += difference
        # Not a number is no difference that is small enough either.
        if not difference <= self.limits.worst:
            self.wrong.append(f"position {place}: {found:.3f}, expected {known[0]:.3f}")
        self.worst = max(self.worst, difference)

    def report(self, name):
        mean = self.sum / max(self.compared, 1)
        good = not self.wrong and self.compared > 0 and mean <= self.limits.mean
        print(f"{'ok  ' if good else 'FAIL'} {name}: {self.compared} log-probabilities, worst {self.worst:.3f}, "
              f"mean {mean:.4f}", flush=True)
        for wrong in self.wrong[:5]:
            print(f"     {wrong}")
        return good


def prompts(seed):
    chosen = random.Random(seed)
    return [[chosen.randrange(3, VOCABULARY) for _ in range(length)] for length in LENGTHS]


def check(name, options, model, quantization, limits):
    """One by one, then three of each at once: what a batch holds changes no answer by more than rounding."""
    good = True
    with Server(options.sluice, model, options.device, quantization) as server:
        texts, asked = server.texts(), prompts(options.seed)
        alone = [server.complete(prompt) for prompt in asked]
        with concurrent.futures.ThreadPoolExecutor(3 * len(asked)) as pool:
            together = list(pool.map(server.complete, 3 * asked))
    reference = Torch(model, quantization) if options.reference == "torch" else Sluice(options.sluice, model, quantization)
    with reference:
        for how, found in ("one by one", alone), ("at once", together):
            for index, prompt in enumerate(asked):
                case = Case(texts, limits)
                for answer in found[index::len(asked)]:
                    case.add(prompt, answer, reference)
                good &= case.report(f"{name}, {quantization}, {len(prompt)} tokens, {how}")
    return good


def checkpoints(scratch, seed):
    """Random Qwen2 and Qwen3 in bf16, with heads of 64 and of 128 numbers. What is all zeros or all ones in a model that
    is not trained is random, too."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    shared = dict(vocab_size=VOCABULARY, max_position_embeddings=2048, rms_norm_eps=1e-6, initializer_range=0.08,
                  tie_word_embeddings=False, bos_token_id=0, eos_token_id=2, num_hidden_layers=3)
    shapes = {
        "qwen2, heads of 64": (Qwen2ForCausalLM, Qwen2Config(
            hidden_size=448, num_attention_heads=7, num_key_value_heads=1, intermediate_size=1216, **shared)),
        "qwen2, heads of 128": (Qwen2ForCausalLM, Qwen2Config(
            hidden_size=640, num_attention_heads=5, num_key_value_heads=1, intermediate_size=1280, **shared)),
        "qwen3, heads of 64": (Qwen3ForCausalLM, Qwen3Config(
            hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=768, **shared)),
        "qwen3, heads of 128": (Qwen3ForCausalLM, Qwen3Config(
            hidden_size=512, num_attention_heads=8, num_key_value_heads=2, head_dim=128, intermediate_size=1536, **shared)),
    }
    for name, (kind, config) in shapes.items():
        model = kind(config)
        with torch.no_grad():
            for parameter, values in model.named_parameters():
                if parameter.endswith("bias"):
                    values.normal_(0, 0.5)
                elif "norm" in parameter:
                    values.normal_(1, 0.2)
        folder = scratch / name.replace(", ", "-").replace(" ", "-")
        model.to(torch.bfloat16).save_pretrained(folder)
        for file in "tokenizer.json", "tokenizer_config.json", "chat_template.jinja":
            shutil.copy(CARRIED / file, folder / file)
        yield name, folder


def importable(name):
    try:
        __import__(name)
    except ImportError as error:
        print(f"left out: {name} cannot be imported ({error})")
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sluice", help="the program")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quantization", default="none,int8,nf4")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--reference", choices=["torch", "sluice"], default="torch")
    options = parser.parse_args()
    quantizations = options.quantization.split(",")
    by_torch = options.reference == "torch"
    if by_torch and quantizations != ["none"] and not importable("bitsandbytes"):
        quantizations = [name for name in quantizations if name == "none"]
        print("int8 and nf4 are not compared with transformers here")
    print(f"seed {options.seed}, {TRAINED}, of random models {RANDOM}", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        models = [("carried", CARRIED)] + (list(checkpoints(Path(scratch), options.seed)) if by_torch else [])
        for name, model in models:
            for quantization in quantizations:
                limits = TRAINED if model == CARRIED else RANDOM
                good &= check(name, options, model, quantization, limits)
    if not good or not quantizations:
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
