//! Loads a model into this machine's memory, once for all replicas.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_checkpoint::ModelFiles;
use sluice_core::{Clock, Executor, ExecutorError};
use sluice_model::{CpuExecutor, Model, StepLimits};

use crate::config::{EngineConfig, ModelConfig};
use crate::engine::MakeExecutor;
use crate::loading_bar::LoadingBar;
use crate::model::{Computed, description};
use crate::room::{self, Room, free_memory};

pub(crate) fn load(
    files: &ModelFiles,
    model: &ModelConfig,
    engine: &EngineConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Computed> {
    let bar = Box::new(LoadingBar::default());
    let loaded = sluice_model::load(files, model.load, bar).context("the model cannot be served")?;
    let info = loaded.info();
    let room = Room::find(engine, &info.dimensions, info.max_model_len, model.max_model_len, free_memory())?;
    let limits = room::limits(engine, room.blocks);
    Ok(Computed {
        description: description(info, &model.load, "the CPU"),
        engine: *engine,
        max_model_len: room.max_model_len,
        kv_bytes_per_token: info.kv_bytes_per_token(),
        variants: info.variants.clone(),
        blocks: room.blocks,
        executor: executors(Arc::clone(&loaded), limits, Arc::clone(clock)),
        cards: Vec::new(),
    })
}

fn executors(model: Arc<dyn Model>, limits: StepLimits, clock: Arc<dyn Clock>) -> MakeExecutor {
    Arc::new(move |_| {
        let executor = CpuExecutor::new(Arc::clone(&model), limits, Arc::clone(&clock));
        let executor = executor.map_err(|error| ExecutorError { message: error.to_string() })?;
        Ok(Box::new(executor) as Box<dyn Executor>)
    })
}
