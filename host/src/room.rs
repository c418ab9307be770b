//! How much of this machine's memory a server may take, and what of a model's length fits into it.

use std::fs;

use anyhow::{Result, bail, ensure};
use sluice_model::{Dimensions, ExecutorBytes, StepLimits};

use crate::config::{EngineConfig, KvBlocks};

/// Of a replica's KV cache, unless a number of blocks is given or one sequence at its longest takes more.
const KV_BYTES: u64 = 512 << 20;
/// Of the free memory, the KV caches of all replicas take one part in so many, unless a number of blocks is given.
const SHARE: u64 = 4;
/// Where the system does not say what is free.
const ASSUMED: u64 = 8 << 30;

/// Blocks of each replica, and the length that they serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    pub(crate) blocks: u32,
    pub(crate) max_model_len: u32,
}

impl Room {
    /// `longest` is the model's own length, `typed` the one that was asked for. Only the model's own is lowered to what
    /// fits; what was typed and does not fit is refused.
    pub(crate) fn find(
        engine: &EngineConfig,
        size: &Dimensions,
        longest: u32,
        typed: Option<u32>,
        free: u64,
    ) -> Result<Self> {
        let length = longest.min(typed.unwrap_or(longest));
        let one = length.div_ceil(engine.block_tokens);
        let room = match engine.kv_blocks {
            KvBlocks::Exactly(blocks) => {
                ensure!(
                    blocks >= one,
                    "engine.kv_blocks: {blocks} blocks of {} tokens do not hold one sequence of {length}: take at least \
                     {one}, or lower max_model_len",
                    engine.block_tokens
                );
                Self { blocks, max_model_len: length }
            }
            KvBlocks::Fitting => fitting(engine, size, length, typed.is_some(), free)?,
        };
        all_fits(engine, size, room.blocks, free)?;
        Ok(room)
    }
}

/// Enough for all sequences at their longest, within bounds; for one in any case.
fn fitting(engine: &EngineConfig, size: &Dimensions, length: u32, typed: bool, free: u64) -> Result<Room> {
    let one = length.div_ceil(engine.block_tokens);
    let block = ExecutorBytes::of(size, &limits(engine, 1)).kv.max(1);
    let in_blocks = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX);
    let share = free / SHARE / u64::from(engine.replicas);
    let most = in_blocks(share);
    if one <= most {
        let blocks = one.saturating_mul(engine.max_sequences).min(in_blocks(KV_BYTES)).max(one).min(most);
        return Ok(Room { blocks, max_model_len: length });
    }
    let fits = most.saturating_mul(engine.block_tokens);
    let wants = shown(u64::from(one).saturating_mul(block));
    let (share, free) = (shown(share), shown(free));
    if typed || fits < 2 {
        bail!(
            "one sequence of {length} tokens takes {wants} of KV cache, and {share} are a replica's share of {free} of \
             free memory, which holds {fits} tokens: lower --max-model-len or --replicas, or say with --kv-blocks that \
             more may be taken ({one} blocks hold one sequence)"
        );
    }
    tracing::warn!(
        "one sequence of the model's {length} tokens takes {wants} of KV cache, and {share} are a replica's share of \
         {free} of free memory: {fits} tokens are served; --max-model-len or --kv-blocks say otherwise"
    );
    Ok(Room { blocks: most, max_model_len: fits })
}

/// What every replica reserves at its start, against what is free: the system would promise more than there is, and end
/// the program when it is used.
fn all_fits(engine: &EngineConfig, size: &Dimensions, blocks: u32, free: u64) -> Result<()> {
    let bytes = ExecutorBytes::of(size, &limits(engine, blocks));
    let all = bytes.kv.saturating_add(bytes.activations).saturating_mul(u64::from(engine.replicas));
    ensure!(
        all <= free,
        "{} replicas, each with {} of KV cache ({blocks} blocks of {} tokens) and {} of activations ({} tokens in a \
         step, {} sequences), do not fit into {} of free memory: lower --kv-blocks, --max-num-batched-tokens, \
         --max-num-seqs or --replicas",
        engine.replicas,
        shown(bytes.kv),
        engine.block_tokens,
        shown(bytes.activations),
        engine.max_batched_tokens,
        engine.max_sequences,
        shown(free)
    );
    Ok(())
}

/// What an executor with so many blocks is built for.
pub(crate) fn limits(engine: &EngineConfig, blocks: u32) -> StepLimits {
    StepLimits {
        blocks,
        block_tokens: engine.block_tokens,
        max_tokens: engine.max_batched_tokens,
        max_rows: engine.max_sequences,
    }
}

/// What can be taken without swapping, in bytes: Linux's `MemAvailable`, or a container's limit if that is less.
pub(crate) fn free_memory() -> u64 {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let container = read("/sys/fs/cgroup/memory.max").trim().parse().unwrap_or(u64::MAX);
    available(&read("/proc/meminfo")).unwrap_or(ASSUMED).min(container)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

pub(crate) fn shown(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServeConfig, Settings};

    /// Qwen3-0.6B: 224 KiB of keys and values a token, 3.5 MiB a block of 16.
    const QWEN3: Dimensions =
        Dimensions { vocab: 151_936, hidden: 1024, layers: 28, heads: 16, kv_heads: 8, head_dim: 128, ffn: 3072 };
    const GIB: u64 = 1 << 30;

    fn engine(kv_blocks: KvBlocks) -> EngineConfig {
        EngineConfig { kv_blocks, ..ServeConfig::of(Settings::default()).unwrap().engine.on_cpu }
    }

    fn check(engine: &EngineConfig, typed: Option<u32>, free: u64, expected: Result<(u32, u32), &str>) {
        let found = Room::find(engine, &QWEN3, 40_960, typed, free);
        match (found, expected) {
            (Ok(room), Ok(expected)) => assert_eq!((room.blocks, room.max_model_len), expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, and {expected:?} was expected"),
        }
    }

    #[test]
    fn the_models_own_length_is_lowered_and_a_typed_one_is_refused() {
        let (fitting, two) = (engine(KvBlocks::Fitting), engine(KvBlocks::Fitting));
        // 8.75 GiB are a quarter of 35.
        check(&fitting, None, 35 * GIB, Ok((2560, 40_960)));
        check(&fitting, None, 20 * GIB, Ok((1462, 23_392)));
        check(&EngineConfig { replicas: 2, ..two }, None, 20 * GIB, Ok((731, 11_696)));
        check(&fitting, Some(40_960), 20 * GIB, Err("takes 8.8 GiB of KV cache, and 5.0 GiB are a replica's share"));
        check(&fitting, Some(2048), 20 * GIB, Ok((146, 2048)));
        check(&fitting, Some(100_000), 35 * GIB, Ok((2560, 40_960)));
        check(&fitting, None, 8 << 20, Err("which holds 0 tokens: lower --max-model-len"));
    }

    #[test]
    fn what_is_typed_is_held_against_what_is_free() {
        check(&engine(KvBlocks::Exactly(2560)), None, 20 * GIB, Ok((2560, 40_960)));
        check(&engine(KvBlocks::Exactly(2560)), None, 8 * GIB, Err("lower --kv-blocks"));
        check(&engine(KvBlocks::Exactly(u32::MAX)), None, 64 * GIB, Err("lower --kv-blocks"));
        check(&engine(KvBlocks::Exactly(2559)), None, 64 * GIB, Err("take at least 2560, or lower max_model_len"));
        let wide = EngineConfig { max_batched_tokens: 1 << 20, ..engine(KvBlocks::Fitting) };
        check(&wide, None, 20 * GIB, Err("(1048576 tokens in a step, 64 sequences)"));
        let many = EngineConfig { block_tokens: u32::MAX, ..engine(KvBlocks::Exactly(u32::MAX)) };
        check(&many, None, u64::MAX - 1, Err("do not fit"));
    }

    #[test]
    fn the_system_says_what_is_free() {
        let said = "MemTotal:       24689496 kB\nMemFree:         1 kB\nMemAvailable:   24100024 kB\n";
        assert_eq!(available(said), Some(24_100_024 * 1024));
        for unsaid in ["", "MemAvailable: much kB", "MemAvailable: 7", "MemAvailable: 18446744073709551615 kB"] {
            assert_eq!(available(unsaid), None, "{unsaid}");
        }
        assert!(free_memory() > 0);
        assert_eq!([shown(512), shown(3 << 19), shown(9 * GIB)], ["0.5 KiB", "1.5 MiB", "9.0 GiB"]);
    }
}
