"""Times llama.cpp's steps on a GGUF file, by the same measures as `checkpoint_step`: one JSON line.

`python peer.py FILE.gguf THREADS`. A decode step computes one token of each sequence after 128 that are in the cache; a
prefill step computes 128 tokens of each sequence. Printed is the median of the steps, in milliseconds.
"""

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as ll

CONTEXT, PREFILL, DECODES, PREFILLS = 128, 128, 20, 4


class Llama:
    def __init__(self, path, threads):
        ll.llama_backend_init()
        quiet = ll.llama_log_callback(lambda level, text, data: None)
        self.quiet = quiet
        ll.llama_log_set(quiet, ctypes.c_void_p(0))
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        parameters = ll.llama_context_default_params()
        parameters.n_ctx = 8 * 512
        parameters.n_batch = 2048
        parameters.n_ubatch = 512
        parameters.n_seq_max = 8
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        self.context = ll.llama_init_from_model(self.model, parameters)
        if not self.context:
            sys.exit(f"llama.cpp does not load {path}")
        self.memory = ll.llama_get_memory(self.context)
        self.batch = ll.llama_batch_init(8 * PREFILL, 0, 1)

    def clear(self):
        ll.llama_memory_clear(self.memory, True)

    def step(self, sequences, start, tokens):
        """The next `tokens` of each sequence; logits of the last of each."""
        batch, index = self.batch, 0
        for sequence in range(sequences):
            for position in range(start, start + tokens):
                batch.token[index] = (position * 7919 + sequence * 31 + 256) % 150_000
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = sequence
                batch.logits[index] = position == start + tokens - 1
                index += 1
        batch.n_tokens = index
        began = time.perf_counter()
        if ll.llama_decode(self.context, batch) != 0:
            sys.exit("llama.cpp did not compute a step")
        ll.llama_synchronize(self.context)
        return (time.perf_counter() - began) * 1000


def main():
    llama = Llama(sys.argv[1], int(sys.argv[2]))
    result = {}
    for sequences in (1, 8):
        times = []
        for _ in range(PREFILLS):
            llama.clear()
            times.append(llama.step(sequences, 0, PREFILL))
        result[f"prefill {sequences}"] = times
        llama.clear()
        llama.step(sequences, 0, CONTEXT)
        result[f"decode {sequences}"] = [llama.step(sequences, CONTEXT + step, 1) for step in range(DECODES)]
    print(json.dumps({name: statistics.median(times) for name, times in result.items()}))


if __name__ == "__main__":
    main()
