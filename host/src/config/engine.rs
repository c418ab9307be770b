//! How much the engine holds and computes at once.

use std::time::Duration;

use super::server::seconds;
use super::{ConfigError, EngineSection, at_least_one};

/// What holds depends on what models are computed on, which is found when the server starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EngineConfigs {
    pub device: DeviceChoice,
    pub on_cpu: EngineConfig,
    pub on_gpu: EngineConfig,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// A GPU where there is one.
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EngineConfig {
    pub replicas: u32,
    pub max_sequences: u32,
    pub max_batched_tokens: u32,
    pub block_tokens: u32,
    pub kv_blocks: KvBlocks,
    /// Of a GPU's memory, between 0 and 1.
    pub gpu_memory_utilization: f64,
    pub keep_dequantized: KeepDequantized,
    pub max_queued_requests: u32,
    pub max_queued_tokens: u64,
    pub starvation: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvBlocks {
    /// Enough for all sequences at their longest, within a share of memory; on a GPU all that is left of its share.
    Fitting,
    Exactly(u32),
}

/// Whether quantised weights are kept in bf16 too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepDequantized {
    /// Where they leave the KV cache at least half of what it would have.
    Auto,
    Always,
    Never,
}

/// Of a step where nobody says otherwise: sequences and tokens. A GPU reads its weights once for all of them.
const ON_CPU: (u32, u32) = (64, 512);
const ON_GPU: (u32, u32) = (256, 2048);

/// At most; so are the others. Far more than any machine computes at once: they bound what a slip of the hand reserves.
const REPLICAS: u32 = 64;
const SEQUENCES: u32 = 1 << 14;
const BATCHED_TOKENS: u32 = 1 << 20;
const BLOCK_TOKENS: u32 = 1 << 12;

impl EngineConfigs {
    pub(super) fn of(typed: &EngineSection) -> Result<Self, ConfigError> {
        Ok(Self {
            device: device(&typed.device())?,
            on_cpu: EngineConfig::of(typed, ON_CPU)?,
            on_gpu: EngineConfig::of(typed, ON_GPU)?,
        })
    }
}

impl EngineConfig {
    fn of(typed: &EngineSection, (sequences, batched_tokens): (u32, u32)) -> Result<Self, ConfigError> {
        let config = Self {
            replicas: typed.replicas(),
            // One that is typed may leave no room for the other's default.
            max_sequences: typed
                .max_num_seqs
                .unwrap_or(sequences.min(typed.max_num_batched_tokens.unwrap_or(sequences))),
            max_batched_tokens: typed
                .max_num_batched_tokens
                .unwrap_or(batched_tokens.max(typed.max_num_seqs.unwrap_or(0))),
            block_tokens: typed.block_size(),
            kv_blocks: typed.kv_blocks.map_or(KvBlocks::Fitting, KvBlocks::Exactly),
            gpu_memory_utilization: typed.gpu_memory_utilization(),
            keep_dequantized: keep_dequantized(&typed.keep_dequantized())?,
            max_queued_requests: typed.max_queued_requests(),
            max_queued_tokens: typed.max_queued_tokens(),
            starvation: seconds("engine.starvation", typed.starvation())?,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        at_least_one("engine.replicas", u64::from(self.replicas))?;
        at_least_one("engine.max_num_seqs", u64::from(self.max_sequences))?;
        at_least_one("engine.block_size", u64::from(self.block_tokens))?;
        at_least_one("engine.max_queued_requests", u64::from(self.max_queued_requests))?;
        at_least_one("engine.max_queued_tokens", self.max_queued_tokens)?;
        at_most("engine.replicas", self.replicas, REPLICAS)?;
        at_most("engine.max_num_seqs", self.max_sequences, SEQUENCES)?;
        at_most("engine.max_num_batched_tokens", self.max_batched_tokens, BATCHED_TOKENS)?;
        at_most("engine.block_size", self.block_tokens, BLOCK_TOKENS)?;
        if self.max_batched_tokens < self.max_sequences {
            let problem = format!(
                "{} tokens a step leave none for some of {} sequences: raise it, or lower max_num_seqs",
                self.max_batched_tokens, self.max_sequences
            );
            return Err(ConfigError::new("engine.max_num_batched_tokens", problem));
        }
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            let problem = format!("is {}, expected more than 0 and at most 1", self.gpu_memory_utilization);
            return Err(ConfigError::new("engine.gpu_memory_utilization", problem));
        }
        Ok(())
    }
}

fn device(typed: &str) -> Result<DeviceChoice, ConfigError> {
    match typed {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda),
        other => {
            let problem = format!("unknown device `{other}`: there are `auto`, `cpu` and `cuda`");
            Err(ConfigError::new("engine.device", problem))
        }
    }
}

fn keep_dequantized(typed: &str) -> Result<KeepDequantized, ConfigError> {
    match typed {
        "auto" => Ok(KeepDequantized::Auto),
        "always" => Ok(KeepDequantized::Always),
        "never" => Ok(KeepDequantized::Never),
        other => {
            let problem = format!("unknown choice `{other}`: there are `auto`, `always` and `never`");
            Err(ConfigError::new("engine.keep_dequantized", problem))
        }
    }
}

fn at_most(key: &str, value: u32, limit: u32) -> Result<(), ConfigError> {
    if value > limit { Err(ConfigError::new(key, format!("is {value}, at most {limit} are possible"))) } else { Ok(()) }
}
