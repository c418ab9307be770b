//! Loads a model with its text side, and says how its replicas' executors are made.

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_checkpoint::{HubEnvironment, LoadOptions, ModelFiles, Quantization};
use sluice_core::{Clock, Digest, Executor, ExecutorError, PromptVariants};
use sluice_http::{ModelText, SamplingDefaults};
use sluice_model::{CpuExecutor, Model, ModelInfo, StepLimits};

use crate::config::{EngineConfig, KvBlocks, ModelConfig, ModelSource, ServedName};
use crate::engine::MakeExecutor;
use crate::loading_bar::LoadingBar;
use crate::text;

/// Everything the server needs of a model.
pub struct ServedModel {
    pub name: String,
    /// For people: what it is and from where.
    pub description: String,
    pub max_model_len: u32,
    pub kv_bytes_per_token: u64,
    pub variants: PromptVariants,
    /// Blocks of the KV cache of each replica.
    pub blocks: u32,
    pub text: Arc<dyn ModelText>,
    pub defaults: SamplingDefaults,
    pub executor: MakeExecutor,
}

/// Of a replica's KV cache, unless a number of blocks is given.
const KV_BYTES: u64 = 512 << 20;

pub fn load(model: &ModelConfig, engine: &EngineConfig, clock: &Arc<dyn Clock>) -> Result<ServedModel> {
    let files = find(&model.source)?;
    let bar = Box::new(LoadingBar::default());
    let loaded = sluice_model::load(&files, model.load, bar).context("the model cannot be served")?;
    let text = text::load(&files, loaded.info()).context("the model's text side cannot be served")?;
    let info = loaded.info();
    let max_model_len = info.max_model_len.min(model.max_model_len);
    let blocks = blocks(engine, max_model_len, info.kv_bytes_per_token())?;
    let name = match &model.served_name {
        ServedName::OfTheModel => files.name(),
        ServedName::Given(name) => name.clone(),
    };
    Ok(ServedModel {
        description: description(info, &model.load),
        max_model_len,
        kv_bytes_per_token: info.kv_bytes_per_token(),
        variants: info.variants.clone(),
        blocks,
        text: text.model,
        defaults: text.defaults,
        executor: executors(Arc::clone(&loaded), engine, blocks, Arc::clone(clock)),
        name,
    })
}

/// The files of what was typed, wherever they lie.
pub(crate) fn find(source: &ModelSource) -> Result<ModelFiles> {
    let environment = HubEnvironment::read(|variable| env::var_os(variable));
    match source {
        ModelSource::Embedded => Ok(sluice_model::embedded()),
        ModelSource::Named(name) => Ok(ModelFiles::locate(name, &environment)?),
    }
}

fn description(info: &ModelInfo, load: &LoadOptions) -> String {
    let parameters = info.parameters as f64 / 1e6;
    let quantization = match load.quantization {
        Quantization::None => String::new(),
        quantization => format!(" in {quantization}"),
    };
    format!("{}, {parameters:.1} M parameters{quantization} on the CPU", info.architecture)
}

impl ServedModel {
    /// Two models never share a block of the cache.
    pub(crate) fn cache_salt(&self) -> Vec<u8> {
        Digest::of(self.description.as_bytes()).0.to_vec()
    }
}

/// At least one sequence at its longest must fit, or it could never be served.
fn blocks(engine: &EngineConfig, max_model_len: u32, bytes_per_token: u64) -> Result<u32> {
    let one = max_model_len.div_ceil(engine.block_tokens);
    match engine.kv_blocks {
        KvBlocks::Exactly(blocks) => {
            anyhow::ensure!(
                blocks >= one,
                "engine.kv_blocks: {blocks} blocks of {} tokens do not hold one sequence of {max_model_len}: take at \
                 least {one}, or lower max_model_len",
                engine.block_tokens
            );
            Ok(blocks)
        }
        KvBlocks::Fitting => {
            let block = bytes_per_token.max(1) * u64::from(engine.block_tokens);
            let in_memory = u32::try_from(KV_BYTES / block).unwrap_or(u32::MAX);
            Ok(one.saturating_mul(engine.max_sequences).min(in_memory).max(one))
        }
    }
}

fn executors(model: Arc<dyn Model>, engine: &EngineConfig, blocks: u32, clock: Arc<dyn Clock>) -> MakeExecutor {
    let limits = StepLimits {
        blocks,
        block_tokens: engine.block_tokens,
        max_tokens: engine.max_batched_tokens,
        max_rows: engine.max_sequences,
    };
    Arc::new(move |_| {
        let executor = CpuExecutor::new(Arc::clone(&model), limits, Arc::clone(&clock));
        let executor = executor.map_err(|error| ExecutorError { message: error.to_string() })?;
        Ok(Box::new(executor) as Box<dyn Executor>)
    })
}
