//! Runs policy components: load, limit, call, swap. The only crate that knows wasmtime.
mod bindings;
