//! One GPU: `cargo bench --features cuda --bench gpu -- check` holds every operation against the host's own arithmetic and
//! whole models against the CPU; `-- decode`, `-- prefill` and `-- mixed` time steps of Qwen2.5-14B's shape on random
//! weights.
//!
//! Further words choose: `none`, `int8` or `nf4`; numbers of sequences; of what is checked, `models` or the names of
//! operations, such as `norm` or `product nf4`; and `seed=N` repeats what another run has drawn. With `keep-dequantized`,
//! quantised weights are kept in bf16 too. With `like-rtx-4090`, the card does what a card of that
//! generation does, if all is built with `SLUICE_CUDA_PTX_ONLY=1`.

mod check;
mod configurations;
mod timing;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use sluice_checkpoint::{LoadOptions, ModelFiles, Quantization, Silent};
use sluice_core::{Clock, Nanos};
use sluice_kernels::Card;
use sluice_kernels::cuda::CudaDevice;
use sluice_model::StepLimits;
use sluice_model::gpu::{Dequantized, GpuExecutor, GpuModel};

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

const QUANTIZATIONS: [Quantization; 3] = [Quantization::None, Quantization::Int8, Quantization::Nf4];
const SEQUENCES: [u32; 8] = [1, 4, 8, 16, 32, 64, 128, 256];

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen = Chosen::of(&words);
    words.retain(|word| ![LIKE_RTX_4090, KEEP].contains(&word.as_str()));
    match words.first().map(String::as_str) {
        Some("check") => check::run(&words[1..], &chosen),
        Some("decode") => timing::decode(&chosen),
        Some("prefill") => timing::prefill(&chosen),
        Some("mixed") => timing::mixed(&chosen),
        // Without a word there is nothing to do, as where all benchmarks are run.
        _ => Ok(()),
    }
}

struct Chosen {
    quantizations: Vec<Quantization>,
    sequences: Vec<u32>,
    dequantized: Dequantized,
    like: Option<Card>,
}

const LIKE_RTX_4090: &str = "like-rtx-4090";

const KEEP: &str = "keep-dequantized";

impl Chosen {
    fn of(words: &[String]) -> Self {
        let mut quantizations: Vec<Quantization> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let mut sequences: Vec<u32> = words.iter().filter_map(|word| word.parse().ok()).collect();
        if quantizations.is_empty() {
            quantizations = QUANTIZATIONS.to_vec();
        }
        if sequences.is_empty() {
            sequences = SEQUENCES.to_vec();
        }
        let like = words.iter().any(|word| word == LIKE_RTX_4090).then(Card::rtx_4090);
        let kept = words.iter().any(|word| word == KEEP);
        let dequantized = if kept { Dequantized::Kept } else { Dequantized::Anew };
        Self { quantizations, sequences, dequantized, like }
    }

    fn open(&self) -> Result<CudaDevice> {
        let Some(like) = &self.like else { return Ok(CudaDevice::open(0)?) };
        Ok(CudaDevice::open_like(0, like)?)
    }

    fn load(&self, files: &ModelFiles, options: LoadOptions, limits: StepLimits) -> Result<GpuExecutor<CudaDevice>> {
        let model = GpuModel::read(files.clone(), options, None)?;
        Ok(model.load(self.open()?, limits, self.dequantized, Box::new(Silent), clock())?)
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Monotonic(Instant::now()))
}
