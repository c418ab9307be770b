//! Loads a model with its text side, and says how its replicas' executors are made.

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_checkpoint::{HubEnvironment, LoadOptions, ModelFiles, Quantization};
use sluice_core::{Clock, Digest, Executor, ExecutorError, PromptVariants};
use sluice_http::{ModelText, SamplingDefaults};
use sluice_model::{CpuExecutor, Model, ModelInfo, StepLimits};

use crate::config::{EngineConfig, ModelConfig, ModelSource, ServedName};
use crate::engine::MakeExecutor;
use crate::loading_bar::LoadingBar;
use crate::room::{self, Room, free_memory};
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
    /// UUID of the card under each replica, as NVML writes it; none on the CPU.
    pub cards: Vec<Option<String>>,
}

pub fn load(model: &ModelConfig, engine: &EngineConfig, clock: &Arc<dyn Clock>) -> Result<ServedModel> {
    let files = find(&model.source)?;
    let bar = Box::new(LoadingBar::default());
    let loaded = sluice_model::load(&files, model.load, bar).context("the model cannot be served")?;
    let text = text::load(&files, loaded.info().dimensions.vocab).context("the model's text side cannot be served")?;
    let info = loaded.info();
    let room = Room::find(engine, &info.dimensions, info.max_model_len, model.max_model_len, free_memory())?;
    let limits = room::limits(engine, room.blocks);
    let name = match &model.served_name {
        ServedName::OfTheModel => files.name(),
        ServedName::Given(name) => name.clone(),
    };
    Ok(ServedModel {
        description: description(info, &model.load),
        max_model_len: room.max_model_len,
        kv_bytes_per_token: info.kv_bytes_per_token(),
        variants: info.variants.clone(),
        blocks: room.blocks,
        text: text.model,
        defaults: text.defaults,
        executor: executors(Arc::clone(&loaded), limits, Arc::clone(clock)),
        cards: Vec::new(),
        name,
    })
}

/// The files of what was typed, wherever they lie.
pub(crate) fn find(source: &ModelSource) -> Result<ModelFiles> {
    let environment = HubEnvironment::read(|variable| env::var_os(variable));
    match source {
        ModelSource::Embedded => Ok(sluice_model::embedded()),
        ModelSource::Named(name) => named(ModelFiles::locate(name, &environment)?),
    }
}

/// `.` and `..` have no name of their own: the folder that they stand for has.
fn named(files: ModelFiles) -> Result<ModelFiles> {
    match files {
        ModelFiles::Folder(path) if path.file_name().is_none() => {
            let real = path.canonicalize().with_context(|| path.display().to_string())?;
            Ok(ModelFiles::folder(real))
        }
        files => Ok(files),
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
    /// A process serves one model, so nothing but that one is in its cache; the salt keeps block hashes that leave the
    /// process from meaning the same for models that go by other names or are loaded in another way.
    pub(crate) fn cache_salt(&self) -> Vec<u8> {
        Digest::of(format!("{}\0{}", self.name, self.description).as_bytes()).0.to_vec()
    }
}

fn executors(model: Arc<dyn Model>, limits: StepLimits, clock: Arc<dyn Clock>) -> MakeExecutor {
    Arc::new(move |_| {
        let executor = CpuExecutor::new(Arc::clone(&model), limits, Arc::clone(&clock));
        let executor = executor.map_err(|error| ExecutorError { message: error.to_string() })?;
        Ok(Box::new(executor) as Box<dyn Executor>)
    })
}
