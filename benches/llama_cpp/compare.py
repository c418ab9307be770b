"""Sluice against llama.cpp on the same files and cores, in turns: `python compare.py FILE.gguf...`

Builds `checkpoint_step`, runs it and `peer.py` three times each on every file, and prints the medians as a table.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 3
TOKENS = {"prefill": 128, "decode": 1}


def build():
    command = ["cargo", "bench", "--bench", "checkpoint_step", "-p", "sluice-benches", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = [json.loads(line) for line in out.splitlines()]
    return next(line["executable"] for line in built if line.get("target", {}).get("name") == "checkpoint_step")


def measure(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main():
    ours, threads = build(), str(os.cpu_count())
    environment = f"{threads} threads"
    print(f"| {environment} | | Sluice ms | llama.cpp ms | Sluice tokens/s | llama.cpp tokens/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for file in sys.argv[1:]:
        rounds = {"ours": [], "theirs": []}
        for _ in range(ROUNDS):
            rounds["ours"].append(measure([ours, file]))
            rounds["theirs"].append(measure([sys.executable, HERE / "peer.py", file, threads]))
        for step in rounds["ours"][0]:
            kind, sequences = step.split()
            tokens = TOKENS[kind] * int(sequences)
            mine, theirs = (statistics.median(run[step] for run in rounds[side]) for side in ("ours", "theirs"))
            speeds = f"{tokens / mine * 1000:.0f} | {tokens / theirs * 1000:.0f}"
            print(f"| {Path(file).stem} | {step} | {mine:.1f} | {theirs:.1f} | {speeds} | {theirs / mine:.2f} |", flush=True)


if __name__ == "__main__":
    main()
