//! Loads a model onto GPUs: each replica has a card of its own, and the model on it.

mod room;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use sluice_checkpoint::{ModelFiles, Progress, Silent};
use sluice_core::{Clock, Executor, ExecutorError, ReplicaId};
use sluice_kernels::cuda::{self, CudaDevice};
use sluice_kernels::{Card, Device};
use sluice_model::StepLimits;
use sluice_model::gpu::{Dequantized, GpuModel};

use crate::config::{EngineConfig, KeepDequantized, ModelConfig};
use crate::engine::MakeExecutor;
use crate::loading_bar::LoadingBar;
use crate::model::{Computed, description};
use crate::room::{free_memory, limits, shown};
use room::{Budget, GpuRoom};

/// The cards of this machine, of which there is at least one.
pub(crate) struct Gpus {
    count: usize,
}

/// One that a replica is to have.
struct Found {
    card: Card,
    uuid: String,
    budget: Budget,
}

impl Gpus {
    pub(crate) fn find() -> Result<Self, String> {
        cuda::count().map(|count| Self { count }).map_err(|error| error.to_string())
    }

    /// The first ones, looked at and let go: who loads a model opens its own.
    fn first(&self, engine: &EngineConfig) -> Result<Vec<Found>> {
        let (replicas, cards) = (engine.replicas as usize, self.count);
        ensure!(replicas <= cards, "engine.replicas: {replicas} need a card each, and {cards} are found: lower it");
        let found = |ordinal| {
            let device = CudaDevice::open(ordinal).with_context(|| format!("card {ordinal} cannot be used"))?;
            let (card, free) = (device.card().clone(), device.free_bytes()?);
            let budget = Budget::of(card.memory_bytes, free, engine.gpu_memory_utilization);
            Ok(Found { card, uuid: device.uuid().to_owned(), budget })
        };
        (0..replicas).map(found).collect()
    }
}

pub(crate) fn load(
    files: &ModelFiles,
    model: &ModelConfig,
    engine: &EngineConfig,
    gpus: Gpus,
    clock: &Arc<dyn Clock>,
) -> Result<Computed> {
    let on_gpu = GpuModel::read(files.clone(), model.load, model.max_model_len);
    let on_gpu = Arc::new(on_gpu.context("the model cannot be served")?);
    let found = gpus.first(engine)?;
    if let Some(found) = found.first() {
        check_pinned(on_gpu.pinned_bytes(&found.card, &limits(engine, 0)), engine.replicas)?;
    }
    let info = on_gpu.info();
    let (dequantized, room) =
        choose(engine.keep_dequantized, |dequantized| smallest_room(&on_gpu, engine, &found, model, dequantized))?;
    tell(&on_gpu, &found, engine, dequantized);
    if room.max_model_len < info.max_model_len && model.max_model_len.is_none() {
        let (length, fits) = (info.max_model_len, room.max_model_len);
        tracing::warn!("the model's {length} tokens do not fit into the KV cache: {fits} are served");
    }
    let name = found.first().map_or_else(String::new, |found| found.card.name.clone());
    Ok(Computed {
        description: description(info, &model.load, &name),
        engine: *engine,
        max_model_len: room.max_model_len,
        kv_bytes_per_token: on_gpu.kv_bytes_per_token(),
        variants: info.variants.clone(),
        blocks: room.blocks,
        executor: executors(Arc::clone(&on_gpu), limits(engine, room.blocks), dequantized, Arc::clone(clock)),
        cards: found.into_iter().map(|found| Some(found.uuid)).collect(),
    })
}

/// Every replica has as many blocks as the one with the least room.
fn smallest_room(
    on_gpu: &GpuModel,
    engine: &EngineConfig,
    found: &[Found],
    model: &ModelConfig,
    dequantized: Dequantized,
) -> Result<GpuRoom> {
    let (longest, per_block) = (on_gpu.info().max_model_len, on_gpu.bytes_per_block());
    let rooms = found.iter().map(|found| {
        let fixed = on_gpu.bytes(&found.card, &limits(engine, 0), dequantized);
        let room = GpuRoom::find(engine, found.budget, fixed, per_block, longest, model.max_model_len);
        room.with_context(|| match dequantized {
            Dequantized::Anew => found.card.name.clone(),
            Dequantized::Kept => format!("{}, with --keep-dequantized", found.card.name),
        })
    });
    let smallest = rooms.collect::<Result<Vec<_>>>()?.into_iter().min_by_key(|room| room.blocks);
    smallest.context("a server has at least one replica")
}

/// What became of the wish to keep quantised weights in bf16 too.
fn tell(on_gpu: &GpuModel, found: &[Found], engine: &EngineConfig, dequantized: Dequantized) {
    let Some(found) = found.first() else { return };
    let bytes = |dequantized| on_gpu.bytes(&found.card, &limits(engine, 0), dequantized);
    let more = bytes(Dequantized::Kept).saturating_sub(bytes(Dequantized::Anew));
    match (engine.keep_dequantized, dequantized) {
        (KeepDequantized::Never, _) => {}
        (KeepDequantized::Always, _) if more == 0 => {
            tracing::warn!("--keep-dequantized changes nothing: no weights are quantised");
        }
        (_, Dequantized::Kept) if more == 0 => {}
        (_, Dequantized::Kept) => tracing::info!("the quantised weights are kept in bf16 too, in {} more", shown(more)),
        (_, Dequantized::Anew) => {
            tracing::info!("there is no room to keep the quantised weights in bf16 too, in {} more", shown(more));
        }
    }
}

/// What is kept may cost half of the KV cache, and nothing of a context's length.
fn choose(keep: KeepDequantized, room: impl Fn(Dequantized) -> Result<GpuRoom>) -> Result<(Dequantized, GpuRoom)> {
    use Dequantized::{Anew, Kept};
    match keep {
        KeepDequantized::Never => Ok((Anew, room(Anew)?)),
        KeepDequantized::Always => Ok((Kept, room(Kept)?)),
        KeepDequantized::Auto => {
            let without = room(Anew)?;
            let costs_little =
                |with: &GpuRoom| with.blocks >= without.blocks / 2 && with.max_model_len == without.max_model_len;
            let with = room(Kept).ok().filter(costs_little);
            Ok(with.map_or((Anew, without), |with| (Kept, with)))
        }
    }
}

/// Memory that cannot be swapped out is taken from everybody else.
fn check_pinned(bytes: u64, replicas: u32) -> Result<()> {
    let (all, most) = (bytes.saturating_mul(u64::from(replicas)), free_memory() / 2);
    ensure!(
        all <= most,
        "what {replicas} replicas tell their cards takes {} of this machine's memory, and at most {} may be taken: lower \
         --max-num-seqs, --max-model-len or --max-num-batched-tokens",
        shown(all),
        shown(most)
    );
    Ok(())
}

fn executors(
    model: Arc<GpuModel>,
    limits: StepLimits,
    dequantized: Dequantized,
    clock: Arc<dyn Clock>,
) -> MakeExecutor {
    Arc::new(move |ReplicaId(replica)| {
        let failed = |message: String| ExecutorError { message };
        let device = CudaDevice::open(replica as usize).map_err(|error| failed(error.to_string()))?;
        // They load side by side, and one bar is enough.
        let progress: Box<dyn Progress> = if replica == 0 { Box::new(LoadingBar::default()) } else { Box::new(Silent) };
        let executor = model.load(device, limits, dequantized, progress, Arc::clone(&clock));
        let mut executor = executor.map_err(|error| failed(error.to_string()))?;
        if executor.measure_roof()?.is_none() {
            tracing::info!("the KV cache is too small to measure the card in: there is no roofline share");
        }
        Ok(Box::new(executor) as Box<dyn Executor>)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_twice_where_that_costs_little() {
        let check = |keep, without: (u32, u32), with: Option<(u32, u32)>, expected: Option<(Dequantized, u32)>| {
            let room = |(blocks, max_model_len)| GpuRoom { blocks, max_model_len };
            let found = choose(keep, |dequantized| match dequantized {
                Dequantized::Anew => Ok(room(without)),
                Dequantized::Kept => with.map(room).context("no room"),
            });
            assert_eq!(found.ok().map(|(dequantized, room)| (dequantized, room.blocks)), expected, "{keep:?} {with:?}");
        };
        use Dequantized::{Anew, Kept};
        check(KeepDequantized::Never, (100, 800), Some((90, 800)), Some((Anew, 100)));
        check(KeepDequantized::Always, (100, 800), Some((10, 160)), Some((Kept, 10)));
        check(KeepDequantized::Always, (100, 800), None, None);
        check(KeepDequantized::Auto, (100, 800), Some((50, 800)), Some((Kept, 50)));
        check(KeepDequantized::Auto, (100, 800), Some((49, 784)), Some((Anew, 100)));
        check(KeepDequantized::Auto, (100, 1600), Some((90, 1440)), Some((Anew, 100)));
        check(KeepDequantized::Auto, (100, 800), None, Some((Anew, 100)));
    }
}
