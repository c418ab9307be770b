"""The official `openai` client against a running server, with its answers held to the client's own schema.

All but two shapes, in which OpenAI and all that speak like it send a null that the schema does not have: the finish
reason of a streamed plain completion before its last chunk, and the probability of an echoed prompt's first token.
Both are held to that here.

usage: openai_client.py BASE_URL MODEL
"""

import asyncio
import json
import sys
import urllib.request

import openai

from checks import PROMPT, QUESTION, check, refused


def models(client, model):
    listed = client.models.list().data
    check([(card.id, card.object) for card in listed] == [(model, "model")], "one model is listed")
    check(client.models.retrieve(model).id == model, "it can be retrieved by its id")
    check(listed[0].max_model_len > 0, "it says how long a context may be")


def chat(client, model):
    ask = dict(model=model, messages=QUESTION, temperature=0, max_tokens=64)
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    check(text and whole.choices[0].finish_reason in ("stop", "length"), f"a chat answer: {text!r}")
    check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, "usage adds up")

    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    check(streamed == text, "the streamed answer is the same")
    check(chunks[0].choices[0].delta.role == "assistant", "the role comes with the first chunk")
    check(len({chunk.id for chunk in chunks}) == 1, "all chunks have one id")
    check([chunk for chunk in chunks if not chunk.choices] == chunks[-1:], "usage is the last chunk, and alone")
    check(chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, "with the same count")


def choices(client, model):
    ask = dict(model=model, messages=QUESTION, temperature=2, top_p=1, max_tokens=24, seed=5)
    three = client.chat.completions.create(**ask, n=3)
    texts = [choice.message.content for choice in three.choices]
    check([choice.index for choice in three.choices] == [0, 1, 2], "three choices in their order")
    check(len(set(texts)) > 1, "they differ where they are drawn")
    one = client.chat.completions.create(**ask)
    check(one.choices[0].message.content == texts[0], "the first is what one choice of the same seed would be")
    check(three.usage.prompt_tokens == one.usage.prompt_tokens, "the prompt is counted once")

    streamed, reasons = [""] * 3, [[] for _ in range(3)]
    for chunk in client.chat.completions.create(**ask, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            reasons[choice.index] += [choice.finish_reason] if choice.finish_reason else []
    check(streamed == texts, "streamed, the three are the same")
    check(all(len(ended) == 1 for ended in reasons), "each ends once")


def chat_logprobs(client, model):
    ask = dict(model=model, messages=QUESTION, temperature=0, max_tokens=12, logprobs=True, top_logprobs=3)
    choice = client.chat.completions.create(**ask).choices[0]
    content = choice.logprobs.content
    check("".join(entry.token for entry in content) == choice.message.content, "the tokens are the text")
    check(b"".join(bytes(entry.bytes) for entry in content).decode() == choice.message.content, "so are their bytes")
    check(all(len(entry.top_logprobs) == 3 for entry in content), "three alternatives each")
    check(all(entry.logprob == entry.top_logprobs[0].logprob for entry in content), "greedy takes the likeliest")

    chunks = client.chat.completions.create(**ask, stream=True)
    streamed = [entry for chunk in chunks for part in chunk.choices if part.logprobs for entry in part.logprobs.content]
    check(streamed == content, "streamed, the log-probabilities are the same to the last bit")


def completion(client, unchecked, model):
    ask = dict(model=model, prompt=PROMPT, temperature=0, max_tokens=16)
    text = client.completions.create(**ask).choices[0].text
    check(bool(text), f"a plain completion: {text!r}")
    chunks = list(unchecked.completions.create(**ask, stream=True))
    check("".join(chunk.choices[0].text for chunk in chunks) == text, "the streamed completion is the same")
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    check(reasons == [None] * (len(chunks) - 1) + ["length"], "only the last chunk says why it ended")
    check({(chunk.object, chunk.id[:5], chunk.model) for chunk in chunks} == {("text_completion", "cmpl-", model)},
          "all chunks say what they are")
    stopped = client.completions.create(**ask, stop=[text[3:6]])
    check(stopped.choices[0].text == text[: text.index(text[3:6])], "a stop string ends it and is not sent")
    seeds = [client.completions.create(**{**ask, "temperature": 1.0, "seed": 7}).choices[0].text for _ in range(2)]
    check(seeds[0] == seeds[1], "one seed gives one answer")


def batches(client, url, model):
    prompts = [PROMPT, "A policy is", "The queue"]
    ask = dict(model=model, temperature=0, max_tokens=10)
    alone = [client.completions.create(**ask, prompt=prompt).choices[0].text for prompt in prompts]
    together = client.completions.create(**ask, prompt=prompts).choices
    check([choice.text for choice in together] == alone, "three prompts in one request get what each gets alone")
    tokens = [post(url, "/tokenize", {"model": model, "prompt": prompt})["tokens"] for prompt in prompts]
    check(post(url, "/detokenize", {"model": model, "tokens": tokens[0]})["prompt"] == prompts[0], "tokens are text again")
    by_tokens = client.completions.create(**ask, prompt=tokens).choices
    check([choice.text for choice in by_tokens] == alone, "so do their tokens")
    check(client.completions.create(**ask, prompt=tokens[1]).choices[0].text == alone[1], "one list of tokens too")
    twice = client.completions.create(**ask, prompt=prompts[:2], n=2).choices
    check([choice.index for choice in twice] == [0, 1, 2, 3], "two prompts, two choices each")
    check([choice.text for choice in twice] == [alone[0], alone[0], alone[1], alone[1]], "prompt by prompt")


def echo(client, model):
    ask = dict(model=model, prompt=PROMPT, temperature=0, max_tokens=4, logprobs=2, echo=True)
    choice = client.completions.create(**ask).choices[0]
    logprobs = choice.logprobs
    check(choice.text.startswith(PROMPT) and "".join(logprobs.tokens) == choice.text, "the prompt comes first")
    check(logprobs.token_logprobs[0] is None and None not in logprobs.token_logprobs[1:],
          "all but the first token have a probability")
    offsets = [sum(map(len, logprobs.tokens[:at])) for at in range(len(logprobs.tokens))]
    check(logprobs.text_offset == offsets, "offsets are where the tokens stand")
    check(all(top[token] == logprob for token, logprob, top in
              list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]),
          "each token stands among its alternatives, with the same number")
    scored = client.completions.create(**{**ask, "max_tokens": 0, "prompt": choice.text}).choices[0]
    check(scored.logprobs.token_logprobs == logprobs.token_logprobs,
          "the answer scored as a prompt: the same log-probabilities to the last bit")


def shaping(client, url, model):
    ask = dict(model=model, prompt=PROMPT, temperature=0, max_tokens=24)
    plain = client.completions.create(**ask)
    first = post(url, "/tokenize", {"model": model, "prompt": plain.choices[0].text, "add_special_tokens": False})["tokens"][0]
    never = client.completions.create(**ask, logit_bias={str(first): -100}).choices[0].text
    check(never != plain.choices[0].text, "a bias of -100 keeps a token away")
    always = client.completions.create(**{**ask, "max_tokens": 3}, logit_bias={str(first): 100}).choices[0].text
    word = post(url, "/detokenize", {"model": model, "tokens": [first] * 3})["prompt"]
    check(always == word, f"a bias of 100 makes it come always: {always!r}")
    for penalty in (dict(presence_penalty=2), dict(frequency_penalty=2), dict(extra_body={"repetition_penalty": 1.8})):
        long = {**ask, "max_tokens": 96, "extra_body": {"ignore_eos": True}}
        penalised = {**long, **penalty, "extra_body": {**long["extra_body"], **penalty.get("extra_body", {})}}
        check(client.completions.create(**penalised).choices[0].text != client.completions.create(**long).choices[0].text,
              f"a penalty changes what is said: {penalty}")
    narrow = dict(extra_body={"top_k": 1}, temperature=1.5)
    check(client.completions.create(**{**ask, **narrow}).choices[0].text == plain.choices[0].text, "top_k 1 is greedy")
    least = dict(extra_body={"min_tokens": 20, "ignore_eos": True})
    check(client.completions.create(**ask, **least).usage.completion_tokens == 24, "as many tokens as are asked for")


def errors(client, model):
    ask = dict(model=model, messages=QUESTION)
    with refused(openai.NotFoundError, "an unknown model", code="model_not_found"):
        client.chat.completions.create(**{**ask, "model": "no-such-model"})
    with refused(openai.BadRequestError, "a prompt beyond the context", code="context_length_exceeded"):
        client.chat.completions.create(**{**ask, "messages": [{"role": "user", "content": "word " * 9000}]})
    wrong = [dict(temperature=-1), dict(n=0), dict(top_logprobs=99, logprobs=True), dict(logit_bias={"1": 101}),
             dict(presence_penalty=3), dict(stop=["a"] * 5), dict(max_tokens=-1), dict(seed="one")]
    for parameter in wrong:
        name = next(iter(parameter))
        with refused(openai.BadRequestError, f"a wrong {name}", param=name, status_code=400):
            client.chat.completions.create(**{**ask, **parameter})
    with refused(openai.BadRequestError, "no message", param="messages"):
        client.chat.completions.create(**{**ask, "messages": []})


async def asynchronous(settings, model):
    async with openai.AsyncOpenAI(**settings, _strict_response_validation=True) as client:
        ask = dict(model=model, messages=QUESTION, temperature=0, max_tokens=16)
        answers = await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(8)))
        check(len({answer.choices[0].message.content for answer in answers}) == 1, "eight at once get one answer")
        long = {**ask, "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
        stream = await client.chat.completions.create(**long, stream=True)
        first = await anext(aiter(stream))
        await stream.close()
        check(first.choices[0].delta.role == "assistant", "a stream is closed after its first chunk")


async def cancelled(url):
    """What was closed above leaves nothing behind."""
    for _ in range(200):
        with urllib.request.urlopen(url + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        names = ("sluice_http_answers_in_progress", "sluice_requests_running", "sluice_kv_cache_usage_ratio")
        if sum(float(line.split()[-1]) for line in lines if line.startswith(names)) == 0:
            return check(True, "nothing runs and no block is held once it was closed")
        await asyncio.sleep(0.05)
    check(False, "a cancelled stream frees its blocks")


def post(url, path, body):
    """For the paths that the client does not know."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main():
    url, model = sys.argv[1:]
    settings = dict(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
    client, unchecked = openai.OpenAI(**settings, _strict_response_validation=True), openai.OpenAI(**settings)
    models(client, model)
    chat(client, model)
    choices(client, model)
    chat_logprobs(client, model)
    completion(client, unchecked, model)
    batches(client, url, model)
    echo(unchecked, model)
    shaping(client, url, model)
    errors(client, model)
    asyncio.run(asynchronous(settings, model))
    asyncio.run(cancelled(url))


main()
