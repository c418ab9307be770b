//! Weights, Qwen3 over paged KV, sampling, and the executor of the CPU.
