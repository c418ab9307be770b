//! How much of a card's memory a replica may take, and how long a context fits into it.

use anyhow::{Result, bail, ensure};

use crate::config::{EngineConfig, KvBlocks};
use crate::room::shown;

/// Bytes that weights, activations and cache may take together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Budget(u64);

/// Blocks of a replica, and the length that they serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GpuRoom {
    pub(super) blocks: u32,
    pub(super) max_model_len: u32,
}

/// What CUDA takes later: for recorded steps, and for cuBLASLt's kernels.
const UNPLANNED: u64 = 512 << 20;

impl Budget {
    /// The share is of the whole card, and what others have taken counts.
    pub(super) fn of(total: u64, free: u64, utilization: f64) -> Self {
        let share = (total as f64 * utilization) as u64;
        Self(share.saturating_sub(total.saturating_sub(free)).min(free.saturating_sub(UNPLANNED)))
    }
}

impl GpuRoom {
    /// `fixed` is what is taken whatever the cache. The cache takes all that is left: what is not needed for sequences
    /// keeps prefixes. `longest` is the model's own length, `typed` the one that was asked for; only the model's own is
    /// lowered to what fits.
    pub(super) fn find(
        engine: &EngineConfig,
        Budget(budget): Budget,
        fixed: u64,
        per_block: u64,
        longest: u32,
        typed: Option<u32>,
    ) -> Result<Self> {
        ensure!(
            fixed < budget,
            "the weights and the activations of a step take {} and may take {}: quantise the weights, lower \
             --max-num-batched-tokens or --max-num-seqs, or raise --gpu-memory-utilization",
            shown(fixed),
            shown(budget)
        );
        let left = budget - fixed;
        // The kernels number slots in 31 bits.
        let most =
            u32::try_from(left / per_block.max(1)).unwrap_or(u32::MAX).min(i32::MAX as u32 / engine.block_tokens);
        let blocks = match engine.kv_blocks {
            KvBlocks::Fitting => most,
            KvBlocks::Exactly(blocks) => {
                ensure!(
                    blocks <= most,
                    "engine.kv_blocks: {blocks} blocks take {}, and {} are left: take at most {most}",
                    shown(u64::from(blocks).saturating_mul(per_block)),
                    shown(left)
                );
                blocks
            }
        };
        let (length, fits) = (longest.min(typed.unwrap_or(longest)), blocks.saturating_mul(engine.block_tokens));
        if length <= fits {
            return Ok(Self { blocks, max_model_len: length });
        }
        if typed.is_some() || fits < 2 {
            bail!(
                "one sequence of {length} tokens does not fit into a KV cache of {fits}: lower --max-model-len or \
                 --max-num-batched-tokens, or raise --gpu-memory-utilization"
            );
        }
        Ok(Self { blocks, max_model_len: fits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServeConfig, Settings};

    const GIB: u64 = 1 << 30;
    /// Of Qwen2.5-14B: 3 MiB a block of 16 tokens.
    const BLOCK: u64 = 3 << 20;

    fn check(kv_blocks: KvBlocks, budget: u64, typed: Option<u32>, expected: Result<(u32, u32), &str>) {
        let engine = EngineConfig { kv_blocks, ..ServeConfig::of(Settings::default()).unwrap().engine.on_gpu };
        match (GpuRoom::find(&engine, Budget(budget), 10 * GIB, BLOCK, 32_768, typed), expected) {
            (Ok(room), Ok(expected)) => assert_eq!((room.blocks, room.max_model_len), expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, and {expected:?} was expected"),
        }
    }

    #[test]
    fn the_share_is_of_the_card_and_others_count() {
        assert_eq!(Budget::of(24 * GIB, 24 * GIB, 0.5), Budget(12 * GIB));
        assert_eq!(Budget::of(24 * GIB, 20 * GIB, 0.5), Budget(8 * GIB));
        assert_eq!(Budget::of(24 * GIB, GIB, 0.5), Budget(0));
        assert_eq!(Budget::of(24 * GIB, 20 * GIB, 1.0), Budget(20 * GIB - UNPLANNED));
    }

    #[test]
    fn the_cache_takes_what_weights_leave() {
        let fitting = KvBlocks::Fitting;
        check(fitting, 22 * GIB, None, Ok((4096, 32_768)));
        check(fitting, 13 * GIB, None, Ok((1024, 16_384)));
        check(fitting, 13 * GIB, Some(20_000), Err("lower --max-model-len"));
        check(fitting, 13 * GIB, Some(8192), Ok((1024, 8192)));
        check(fitting, 10 * GIB, None, Err("take 10.0 GiB and may take 10.0 GiB: quantise the weights"));
        check(fitting, 10 * GIB + 1, None, Err("KV cache of 0"));
        check(KvBlocks::Exactly(100), 22 * GIB, None, Ok((100, 1600)));
        check(KvBlocks::Exactly(5000), 22 * GIB, None, Err("take at most 4096"));
    }
}
