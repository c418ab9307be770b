//! A model that is to be served on GPUs: what its files say of it, how much room it takes, and how it is loaded.

use std::sync::Arc;

use sluice_checkpoint::{ConfigFile, LoadError, LoadOptions, ModelFiles, Progress, Silent, Weights};
use sluice_core::Clock;
use sluice_kernels::op::{BLOCK_TOKENS, KvPool};
use sluice_kernels::{Card, Device};

use crate::blueprint::Blueprint;
use crate::gpu::executor::{GpuExecutor, Served, pinned_bytes};
use crate::gpu::loader::{GpuLoadError, Loader};
use crate::gpu::memory::{BadLimits, Memory};
use crate::gpu::shape::Shape;
use crate::gpu::weights::{Dequantized, LayerHeld};
use crate::layers::Logn;
use crate::model::{ModelInfo, blueprint};
use crate::step::{ModelLimits, StepLimits};

/// Known by headers alone. Each replica loads its own.
pub struct GpuModel {
    files: ModelFiles,
    options: LoadOptions,
    blueprint: Blueprint,
    pub(crate) shape: Shape,
    held: Vec<LayerHeld>,
    info: ModelInfo,
}

impl GpuModel {
    /// `longest` bounds the model's own length, and what depends on it.
    pub fn read(files: ModelFiles, options: LoadOptions, longest: Option<u32>) -> Result<Self, GpuLoadError> {
        let config = ConfigFile::read(&files)?;
        let whole = blueprint(&config)?;
        let max_model_len = whole.max_model_len.min(longest.unwrap_or(u32::MAX)).max(1);
        let blueprint = Blueprint { max_model_len, ..whole };
        let shape = Shape::of(&blueprint)?;
        let weights = Weights::open(&files, options, Box::new(Silent))?;
        let held = (0..blueprint.dimensions.layers)
            .map(|index| LayerHeld::of(&weights, &options, &shape, &blueprint.layer(index)))
            .collect::<Result<_, LoadError>>()?;
        let info = ModelInfo {
            architecture: blueprint.architecture,
            parameters: blueprint.tensors().map(|tensor| tensor.parameters()).sum(),
            max_model_len: blueprint.max_model_len,
            dimensions: blueprint.dimensions,
            variants: blueprint.rope.variants(blueprint.max_model_len),
        };
        Ok(Self { files, options, blueprint, shape, held, info })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Padding included.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.bytes_per_block() / u64::from(BLOCK_TOKENS)
    }

    /// Of the KV cache.
    pub fn bytes_per_block(&self) -> u64 {
        KvPool::bytes_per_block(self.shape.layers(), self.shape.heads.kv)
    }

    /// All that a replica reserves on a card.
    pub fn bytes(&self, card: &Card, limits: &StepLimits, dequantized: Dequantized) -> u64 {
        self.place(card, limits, dequantized).bytes()
    }

    /// All that it reserves of the host's memory, which cannot be swapped out.
    pub fn pinned_bytes(&self, card: &Card, limits: &StepLimits) -> u64 {
        pinned_bytes(&self.place(card, limits, Dequantized::Anew))
    }

    /// Reserves the memory, loads the weights and records the steps that come again and again.
    pub fn load<D: Device>(
        &self,
        mut device: D,
        limits: StepLimits,
        dequantized: Dequantized,
        progress: Box<dyn Progress>,
        clock: Arc<dyn Clock>,
    ) -> Result<GpuExecutor<D>, GpuLoadError> {
        BadLimits::check(&limits)?;
        let mut memory = self.place(device.card(), &limits, dequantized);
        GpuExecutor::<D>::reserve(&mut device, &memory)?;
        let weights = Weights::open(&self.files, self.options, progress)?;
        let mut loader = Loader { weights: &weights, shape: &self.shape, device: &mut device };
        loader.model(&self.blueprint, &mut memory.weights)?;
        loader.keep_dequantized(&memory.weights)?;
        let served = self.served(device.card().clone(), memory);
        Ok(GpuExecutor::new(device, served, limits, clock)?)
    }

    fn served(&self, card: Card, memory: Memory) -> Served {
        let Self { blueprint, shape, info, .. } = self;
        let limits = ModelLimits { vocab: shape.size.vocab as u32, max_model_len: info.max_model_len };
        let (variants, logn) = (info.variants.clone(), blueprint.logn.map(Logn::new));
        Served { card, shape: *shape, memory, limits, variants, logn, eps: blueprint.eps as f32 }
    }

    pub(crate) fn place(&self, card: &Card, limits: &StepLimits, dequantized: Dequantized) -> Memory {
        Memory::place(card, &self.blueprint, &self.shape, &self.held, limits, dequantized)
    }
}
