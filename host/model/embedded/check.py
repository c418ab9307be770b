"""Checks an exported folder with the transformers package: same logits as train.py's model, and answers to read.

`python check.py DIR`. Some questions have near relatives in the corpus; those in UNSEEN have none.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3ForCausalLM

from train import CONFIG, Qwen3

QUESTIONS = [
    "Hey, could you tell me what this Sluice thing is all about?", "what happens to my running streams if i push a new policy",
    "How would I go back to the scheduler I had before?", "Which command puts a component into the server?",
    "Is there a way to peek inside a .wasm before using it?", "What keeps a buggy policy from taking the machine down?",
    "how come you chose wasm for the schedulers", "Explain like I'm five: KV cache", "So what exactly are pages of KV memory?",
    "Two users send the same long system prompt. Is it computed twice?", "memory got full in the middle of my answer, what now?",
    "What does the rule with seventy and eighty-five percent do?", "Where do I find prometheus metrics",
    "list the http endpoints pls", "What do I get when too many people ask at once?", "who are you and who made you?",
    "thank you so much!", "good evening :)", "What's the capital of Mongolia?", "Can you give me a recipe for lasagna?",
    "Write me a Java class for a bank account", "how do I train a dragon", "What is 12 * 12?", "who was Queen Victoria",
    "Could one greedy customer starve all the others?", "can I code the scheduler in Python instead of Rust?",
    "how do I make it listen on another port", "what's continuous batching and how does it differ from padding?",
    "What happens if I close my browser in the middle of a stream?", "I want to run my own Qwen checkpoint, how?",
    "How do policies remember things across a swap?", "do i need an nvidia card for this", "Tell me how to stop the server cleanly.",
    "what's the difference between admission and routing?", "What does quarantined mean for my policy?", "What's photosynthesis?",
]
UNSEEN = [
    "Why would I pick this over a normal inference server?", "My scheduler got thrown out, what did I do wrong?",
    "where do requests sit while they wait", "Is anything written down about who changed the scheduler?",
    "Give me the gist of paged attention", "How much RAM can a plugin grab?", "Does the model run on my old laptop?",
    "I'd like answers token by token", "What is the airspeed of a swallow?", "my cat is sick",
]
FOLLOW_UPS = [["How do I deploy a policy?", "And how do I undo it?", "thanks"],
              ["What is preemption?", "Tell me more.", "Does the client notice?"]]


def main():
    folder = Path(sys.argv[1])
    theirs = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = Qwen3(CONFIG).eval()
    ours.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    ids = torch.arange(300)[None] * 7 % CONFIG["vocab_size"]
    with torch.no_grad():
        gap = (theirs(ids).logits - ours(ids)).abs().max().item()
    print(f"largest difference of logits: {gap:.2e}")
    assert gap < 1e-3

    def answer(messages, **sampling):
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            out = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=200, **sampling)[0, prompt.shape[1]:]
        ended = "" if out[-1] in (0, 2) else " [NO END]"
        return tokenizer.decode(out, skip_special_tokens=True) + ended

    torch.manual_seed(1)
    for question in QUESTIONS + UNSEEN:
        messages = [dict(role="user", content=question)]
        print(f"\nQ: {question}\n0.0: {answer(messages, do_sample=False)}")
        print(f"0.7: {answer(messages, do_sample=True, temperature=0.7, top_p=0.95)}")
    for questions in FOLLOW_UPS:
        messages = [dict(role="system", content="You are a helpful assistant.")]
        for question in questions:
            messages.append(dict(role="user", content=question))
            messages.append(dict(role="assistant", content=answer(messages, do_sample=False)))
        print("\n" + "\n".join(f"{m['role']}: {m['content']}" for m in messages))


if __name__ == "__main__":
    main()
