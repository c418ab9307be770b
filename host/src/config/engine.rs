//! How much the engine holds and computes at once.

use std::time::Duration;

use super::server::seconds;
use super::{ConfigError, EngineSection, at_least_one};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    pub replicas: u32,
    pub max_sequences: u32,
    pub max_batched_tokens: u32,
    pub block_tokens: u32,
    pub kv_blocks: KvBlocks,
    pub max_queued_requests: u32,
    pub max_queued_tokens: u64,
    pub starvation: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvBlocks {
    /// Enough for all sequences at their longest, within a share of memory.
    Fitting,
    Exactly(u32),
}

/// At most; so are the others. Far more than any machine computes at once: they bound what a slip of the hand reserves.
const REPLICAS: u32 = 64;
const SEQUENCES: u32 = 1 << 14;
const BATCHED_TOKENS: u32 = 1 << 20;
const BLOCK_TOKENS: u32 = 1 << 12;

impl EngineConfig {
    pub(super) fn of(typed: &EngineSection) -> Result<Self, ConfigError> {
        let config = Self {
            replicas: typed.replicas(),
            max_sequences: typed.max_num_seqs(),
            max_batched_tokens: typed.max_num_batched_tokens(),
            block_tokens: typed.block_size(),
            kv_blocks: typed.kv_blocks.map_or(KvBlocks::Fitting, KvBlocks::Exactly),
            max_queued_requests: typed.max_queued_requests(),
            max_queued_tokens: typed.max_queued_tokens(),
            starvation: seconds("engine.starvation", typed.starvation())?,
        };
        at_least_one("engine.replicas", u64::from(config.replicas))?;
        at_least_one("engine.max_num_seqs", u64::from(config.max_sequences))?;
        at_least_one("engine.block_size", u64::from(config.block_tokens))?;
        at_least_one("engine.max_queued_requests", u64::from(config.max_queued_requests))?;
        at_least_one("engine.max_queued_tokens", config.max_queued_tokens)?;
        at_most("engine.replicas", config.replicas, REPLICAS)?;
        at_most("engine.max_num_seqs", config.max_sequences, SEQUENCES)?;
        at_most("engine.max_num_batched_tokens", config.max_batched_tokens, BATCHED_TOKENS)?;
        at_most("engine.block_size", config.block_tokens, BLOCK_TOKENS)?;
        if config.max_batched_tokens < config.max_sequences {
            let problem = format!(
                "{} tokens a step leave none for some of {} sequences: raise it, or lower max_num_seqs",
                config.max_batched_tokens, config.max_sequences
            );
            return Err(ConfigError::new("engine.max_num_batched_tokens", problem));
        }
        Ok(config)
    }
}

fn at_most(key: &str, value: u32, limit: u32) -> Result<(), ConfigError> {
    if value > limit { Err(ConfigError::new(key, format!("is {value}, at most {limit} are possible"))) } else { Ok(()) }
}
