//! What a model is to its executor, and how one is loaded: by the architecture that its configuration names.

use std::sync::Arc;

use sluice_checkpoint::{ConfigFile, LoadError, LoadOptions, ModelFiles, Progress, Weights};
use sluice_core::PromptVariants;

use crate::blueprint::Blueprint;
use crate::decoder::Decoder;
use crate::kv::KvCache;
use crate::scratch::Scratch;
use crate::step::Step;
use crate::{qwen, qwen2, qwen3};

/// Shared by the replicas that serve it: it holds weights and nothing of any sequence.
pub trait Model: Send + Sync {
    fn info(&self) -> &ModelInfo;

    /// Called once per step. Writes the step's keys and values into the cache, and what the layers make of its tokens
    /// into `scratch`.
    fn forward(&self, step: &Step, cache: &mut KvCache, scratch: &mut Scratch);

    /// Called after `forward` for some of the step's tokens at a time, by their index, as many as `scratch` has room
    /// for: writes one row of logits for each. A token's logits depend on its sequence alone.
    fn logits(&self, tokens: &[usize], scratch: &mut Scratch);
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelInfo {
    /// As `config.json` names it.
    pub architecture: &'static str,
    /// Numbers in the checkpoint; a tied head counts once.
    pub parameters: u64,
    /// Positions that the model was made for.
    pub max_model_len: u32,
    pub dimensions: Dimensions,
    /// Which prompts may share keys and values.
    pub variants: PromptVariants,
}

/// The sizes of a decoder of the Llama family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dimensions {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
}

type Describe = fn(&ConfigFile) -> Result<Blueprint, LoadError>;

/// Every model that is served: how `config.json` names its architecture, and who reads the rest of the file.
const ARCHITECTURES: [(&str, Describe); 3] = [
    (qwen::ARCHITECTURE, qwen::blueprint),
    (qwen2::ARCHITECTURE, qwen2::blueprint),
    (qwen3::ARCHITECTURE, qwen3::blueprint),
];

/// What the model of this configuration is made of.
pub fn blueprint(config: &ConfigFile) -> Result<Blueprint, LoadError> {
    let found = config.architecture()?;
    match ARCHITECTURES.iter().find(|(name, _)| *name == found) {
        Some((_, describe)) => {
            if let Some(stored) = config.section("quantization_config")? {
                stored.refuse("quant_method", &["bitsandbytes"])?;
            }
            describe(config)
        }
        None => {
            let supported = ARCHITECTURES.map(|(name, _)| name).to_vec();
            Err(LoadError::UnknownArchitecture { file: config.file().to_owned(), found, supported })
        }
    }
}

/// Loads the model whose `config.json` is among `files`, or whose GGUF file they are; `progress` hears how far it came.
pub fn load(
    files: &ModelFiles,
    options: LoadOptions,
    progress: Box<dyn Progress>,
) -> Result<Arc<dyn Model>, LoadError> {
    let config = ConfigFile::read(files)?;
    let blueprint = blueprint(&config)?;
    let weights = Weights::open(files, options, progress)?;
    Ok(Arc::new(Decoder::load(&blueprint, &weights)?))
}

impl ModelInfo {
    /// Keys and values in F32.
    pub fn kv_bytes_per_token(&self) -> u64 {
        let size = &self.dimensions;
        (2 * size.layers * size.kv_heads * size.head_dim * size_of::<f32>()) as u64
    }
}

impl Dimensions {
    /// Queries, keys and values of one token side by side.
    pub(crate) fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}
