"""The official `openai` client against a running server, with its answers held to the client's own schema.

All but streamed plain completions: the schema wants a finish reason in every chunk, while OpenAI and all that speak
like it send null until the last. Their chunks are held to that here.

usage: openai_client.py BASE_URL
"""

import sys

import openai


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")
    print(f"ok: {message}")


def models(client):
    listed = client.models.list().data
    check(len(listed) == 1 and listed[0].object == "model", "one model is listed")
    check(client.models.retrieve(listed[0].id).id == listed[0].id, "it can be retrieved by its id")
    return listed[0].id


def chat(client, model):
    ask = dict(model=model, messages=[{"role": "user", "content": "What is Sluice?"}], temperature=0, max_tokens=64)
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


def completion(client, unchecked, model):
    ask = dict(model=model, prompt="Sluice is", temperature=0, max_tokens=16)
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


def errors(client, model):
    user = [{"role": "user", "content": "hi"}]
    cases = [
        (openai.NotFoundError, "model_not_found", dict(model="no-such-model", messages=user)),
        (openai.BadRequestError, "context_length_exceeded", dict(model=model, messages=[{"role": "user", "content": "word " * 9000}])),
        (openai.BadRequestError, None, dict(model=model, messages=user, temperature=-1)),
        (openai.BadRequestError, None, dict(model=model, messages=[])),
    ]
    for kind, code, ask in cases:
        try:
            client.chat.completions.create(**ask)
            check(False, f"{kind.__name__} expected")
        except kind as error:
            check(code is None or error.code == code, f"{kind.__name__}: {error.body['message']}")


def main():
    settings = dict(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=60)
    client = openai.OpenAI(**settings, _strict_response_validation=True)
    model = models(client)
    chat(client, model)
    completion(client, openai.OpenAI(**settings), model)
    errors(client, model)


main()
