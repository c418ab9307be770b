"""lm-eval's `local-completions` against a running server, on a task of what the server itself wrote.

It scores by `echo` and `logprobs` of the prompt. What it finds must be what the server said of the same tokens while
it drew them, to the last bit: sent as tokens and as text, one by one and in batches.

usage: lm_eval_client.py BASE_URL MODEL TOKENIZER_FOLDER
"""

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path

# Nothing is looked up or downloaded: the task is here, and so is the tokenizer.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LMEVAL_LOG_LEVEL"] = "ERROR"
os.environ["TQDM_DISABLE"] = "1"

HERE = Path(__file__).resolve().parent
PROMPTS = ["Sluice is", "A policy is", "The queue", "What is routing?", "When memory runs out,", "One replica"]
# How the server writes: greedily, and by chance, which makes tokens that nobody would choose.
WAYS = [dict(temperature=0), dict(temperature=1.5, top_p=1, seed=1), dict(temperature=2, top_p=1, seed=2)]
RUNS = [dict(tokenized_requests=True, batch_size=1), dict(tokenized_requests=True, batch_size=4),
        dict(tokenized_requests=False, batch_size=1), dict(tokenized_requests=False, batch_size=4)]


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def written(url, model):
    """Documents whose text is read back as the tokens that were drawn: chance may spell a word in two ways."""
    documents = []
    for prompt in PROMPTS:
        context = post(url, "/tokenize", {"model": model, "prompt": prompt})["tokens"]
        for way in WAYS:
            ask = {"model": model, "prompt": prompt, "max_tokens": 12, "logprobs": 1, **way}
            choice = post(url, "/v1/completions", ask)["choices"][0]
            if choice["finish_reason"] != "length":
                continue
            tokens, text = choice["logprobs"]["tokens"], choice["text"]
            again = post(url, "/tokenize", {"model": model, "prompt": prompt + text, "return_token_strs": True})
            same = again["tokens"][: len(context)] == context and again["token_strs"][len(context):] == tokens
            if same:
                score = sum(choice["logprobs"]["token_logprobs"])
                greedy = way["temperature"] == 0
                documents.append({"context": prompt, "continuation": text, "score": score, "greedy": greedy})
    return documents


def evaluated(url, model, tokenizer, settings):
    import lm_eval
    from lm_eval.tasks import TaskManager

    settings = dict(model=model, base_url=url + "/v1/completions", tokenizer=tokenizer, tokenizer_backend="huggingface",
                    max_retries=1, **settings)
    results = lm_eval.simple_evaluate(
        model="local-completions", model_args=settings, tasks=["scores"], bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_path=str(HERE / "lm_eval"), include_defaults=False))
    return results["samples"]["scores"]


def main():
    from checks import check

    url, model, tokenizer = sys.argv[1:]
    tokenizer = str(Path(tokenizer).resolve())
    documents = written(url, model)
    greedy = sum(document["greedy"] for document in documents)
    check(greedy >= 3 and len(documents) - greedy >= 3, f"{len(documents)} texts, {greedy} of them greedy")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["HF_DATASETS_CACHE"] = folder
        Path("scores.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        for settings in RUNS:
            samples = evaluated(url, model, tokenizer, settings)
            found = [tuple(sample["filtered_resps"][0]) for sample in samples]
            expected = [sample["doc"]["score"] for sample in samples]
            check(len(found) == len(documents), f"every text is scored: {settings}")
            check([score for score, _ in found] == expected, f"as the engine drew them, to the last bit: {settings}")
            check(all(likeliest for (_, likeliest), sample in zip(found, samples) if sample["doc"]["greedy"]),
                  "what was greedy is found to be")


main()
