//! A model with its text side, as the server needs it, wherever it is computed.

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_checkpoint::{ConfigFile, HubEnvironment, LoadOptions, ModelFiles, Quantization};
use sluice_core::{Clock, Digest, PromptVariants};
use sluice_http::{ModelText, SamplingDefaults};
use sluice_model::ModelInfo;

use crate::config::{EngineConfig, EngineConfigs, ModelConfig, ModelSource, ServedName};
use crate::device::{self, Device};
use crate::engine::MakeExecutor;
#[cfg(feature = "cuda")]
use crate::on_gpu;
use crate::{on_cpu, text};

/// Everything the server needs of a model.
pub struct ServedModel {
    pub name: String,
    pub text: Arc<dyn ModelText>,
    pub defaults: SamplingDefaults,
    pub computed: Computed,
}

/// What a model is to those who only have it computed.
pub struct Computed {
    /// For people: what it is and where.
    pub description: String,
    /// As it holds on the device.
    pub engine: EngineConfig,
    pub max_model_len: u32,
    pub kv_bytes_per_token: u64,
    pub variants: PromptVariants,
    /// Blocks of the KV cache of each replica.
    pub blocks: u32,
    pub executor: MakeExecutor,
    /// UUID of the card under each replica, as NVML writes it; none on the CPU.
    pub cards: Vec<Option<String>>,
}

pub fn load(model: &ModelConfig, engine: &EngineConfigs, clock: &Arc<dyn Clock>) -> Result<ServedModel> {
    let files = find(&model.source)?;
    let text = text::load(&files, vocab(&files)?).context("the model's text side cannot be served")?;
    let computed = match device::find(engine.device)? {
        Device::Cpu => on_cpu::load(&files, model, &engine.on_cpu, clock)?,
        #[cfg(feature = "cuda")]
        Device::Gpus(gpus) => on_gpu::load(&files, model, &engine.on_gpu, gpus, clock)?,
    };
    let name = match &model.served_name {
        ServedName::OfTheModel => files.name(),
        ServedName::Given(name) => name.clone(),
    };
    Ok(ServedModel { name, text: text.model, defaults: text.defaults, computed })
}

fn vocab(files: &ModelFiles) -> Result<usize> {
    let blueprint = sluice_model::blueprint(&ConfigFile::read(files)?).context("the model cannot be served")?;
    Ok(blueprint.dimensions.vocab)
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

/// `device` is where it is computed.
pub(crate) fn description(info: &ModelInfo, load: &LoadOptions, device: &str) -> String {
    let parameters = info.parameters as f64 / 1e6;
    let quantization = match load.quantization {
        Quantization::None => String::new(),
        quantization => format!(" in {quantization}"),
    };
    format!("{}, {parameters:.1} M parameters{quantization} on {device}", info.architecture)
}

impl ServedModel {
    /// A process serves one model, so nothing but that one is in its cache; the salt keeps block hashes that leave the
    /// process from meaning the same for models that go by other names or are loaded in another way.
    pub(crate) fn cache_salt(&self) -> Vec<u8> {
        Digest::of(format!("{}\0{}", self.name, self.computed.description).as_bytes()).0.to_vec()
    }
}
