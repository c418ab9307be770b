"""`langchain-openai` against a running server: chat and completion, whole, streamed and in batches.

usage: langchain_client.py BASE_URL MODEL
"""

import asyncio
import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

from checks import PROMPT, check


def chat(settings):
    model = ChatOpenAI(**settings, stream_usage=True)
    asked = [SystemMessage("Be brief."), HumanMessage("What is Sluice?")]
    answer = model.invoke(asked)
    check(bool(answer.content), f"an answer: {answer.content!r}")
    usage = answer.usage_metadata
    check(usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], "usage adds up")
    chunks = list(model.stream(asked))
    check("".join(chunk.content for chunk in chunks) == answer.content, "streamed, it is the same")
    check(sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) == usage["output_tokens"],
          "and so is its usage")
    both = model.batch([asked, [HumanMessage("What is a policy?")]])
    check(both[0].content == answer.content and bool(both[1].content), "two at once")
    followed = model.invoke([*asked, AIMessage(answer.content), HumanMessage("And what is routing?")])
    check(bool(followed.content), "a second turn")
    check(asyncio.run(model.ainvoke(asked)).content == answer.content, "asynchronously, the same")
    scored = model.bind(logprobs=True, top_logprobs=2).invoke(asked)
    check(len(scored.response_metadata["logprobs"]["content"]) == usage["output_tokens"], "a score for every token")


def completion(settings):
    model = OpenAI(**settings)
    text = model.invoke(PROMPT)
    check(bool(text), f"a completion: {text!r}")
    check("".join(model.stream(PROMPT)) == text, "streamed, it is the same")
    check(model.batch([PROMPT, "A policy is"])[0] == text, "two prompts at once")
    generated = model.generate([PROMPT, "A policy is", "The queue"])
    check([len(part) for part in generated.generations] == [1, 1, 1], "three prompts in one request")
    check(generated.generations[0][0].text == text, "and the same text")


def main():
    settings = dict(base_url=sys.argv[1] + "/v1", api_key="none", model=sys.argv[2], temperature=0, max_tokens=32,
                    max_retries=0, timeout=60)
    chat(settings)
    completion(settings)


main()
