"""`litellm` against a running server, as any other of OpenAI's kind.

usage: litellm_client.py BASE_URL MODEL
"""

import asyncio
import os
import sys

# Prices of models come from the package, not from a network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from checks import PROMPT, QUESTION, check, refused

litellm.suppress_debug_info = True


def chat(settings):
    whole = litellm.completion(messages=QUESTION, **settings)
    text = whole.choices[0].message.content
    check(bool(text), f"an answer: {text!r}")
    check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, "usage adds up")
    options = dict(stream=True, stream_options={"include_usage": True})
    chunks = list(litellm.completion(messages=QUESTION, **settings, **options))
    check("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text,
          "streamed, it is the same")
    rebuilt = litellm.stream_chunk_builder(chunks, messages=QUESTION)
    check(rebuilt.usage.completion_tokens == whole.usage.completion_tokens, "and so is its usage")
    again = asyncio.run(litellm.acompletion(messages=QUESTION, **settings))
    check(again.choices[0].message.content == text, "asynchronously, the same")
    several = litellm.completion(messages=QUESTION, n=2, logprobs=True, top_logprobs=2, **settings)
    check(len(several.choices) == 2 and several.choices[1].logprobs is not None, "two choices with their scores")


def completion(settings):
    whole = litellm.text_completion(prompt=PROMPT, **{**settings, "model": "text-completion-" + settings["model"]})
    check(bool(whole.choices[0].text), f"a completion: {whole.choices[0].text!r}")


def errors(settings):
    with refused(litellm.NotFoundError, "an unknown model", status_code=404):
        litellm.completion(messages=QUESTION, **{**settings, "model": "openai/no-such-model"})
    with refused(litellm.ContextWindowExceededError, "a prompt beyond the context", status_code=400):
        litellm.completion(messages=[{"role": "user", "content": "word " * 9000}], **settings)


def main():
    url, model = sys.argv[1:]
    settings = dict(model=f"openai/{model}", api_base=url + "/v1", api_key="none", temperature=0, max_tokens=32,
                    num_retries=0, max_retries=0, timeout=60)
    chat(settings)
    completion(settings)
    errors(settings)


main()
