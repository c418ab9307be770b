//! wasmtime as narrow as it goes: one compiler, no proposals that a policy has no use for, the same floats everywhere.

use wasmtime::{Config, Strategy};

/// Of a guest's native frames. A policy recurses little, and 256 KiB fit on any thread that steps.
const STACK_BYTES: usize = 256 * 1024;

pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config.strategy(Strategy::Cranelift);
    limits(&mut config);
    determinism(&mut config);
    features(&mut config);
    // Linear memory is at most 64 MiB: reserving that and a small guard keeps bounds checks free.
    config.memory_reservation(64 << 20).memory_guard_size(32 << 20).memory_reservation_for_growth(0);
    config.memory_init_cow(true);
    config.wasm_backtrace_max_frames(None);
    config.concurrency_support(false);
    config
}

fn limits(config: &mut Config) {
    config.consume_fuel(true).epoch_interruption(true).max_wasm_stack(STACK_BYTES);
}

fn determinism(config: &mut Config) {
    config.cranelift_nan_canonicalization(true).wasm_relaxed_simd(false);
}

fn features(config: &mut Config) {
    config.wasm_component_model(true);
    config.wasm_memory64(false).wasm_tail_call(false).wasm_custom_page_sizes(false).wasm_wide_arithmetic(false);
}
