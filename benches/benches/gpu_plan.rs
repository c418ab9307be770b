//! What the host does for a step on a GPU, on a device that does nothing: checks the batch, writes down what the card is
//! told, queues it, and reads what came back. In microseconds, the median and the 99th part of a hundred.

use std::sync::Arc;
use std::time::Instant;

use sluice_benches::decoding::quantile;
use sluice_checkpoint::{LoadOptions, Silent};
use sluice_core::{Batch, BlockId, Clock, Draw, Executor, Nanos, RequestId, Row, SamplingParams, TokenSource};
use sluice_kernels::{Address, Card, Device, DeviceError, Finished, GraphId, Op, Submission};
use sluice_model::gpu::{Dequantized, GpuModel};
use sluice_model::{StepLimits, embedded};

/// Blocks that a sequence of 600 tokens takes.
const BLOCKS: u32 = 38;
const CONTEXT: u32 = 600;
const SEQUENCES: [u32; 5] = [1, 8, 32, 128, 256];
const STEPS: usize = 2000;

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Nanos {
        0
    }
}

/// Every step is done at once, and draws token 0 everywhere.
struct Idle {
    card: Card,
    staging: Vec<u8>,
    results: Vec<u8>,
    used: Option<usize>,
}

impl Device for Idle {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.card.memory_bytes)
    }

    fn reserve(&mut self, _: u64, staging: usize, results: usize, _: usize) -> Result<(), DeviceError> {
        (self.staging, self.results) = (vec![0; staging], vec![0; results]);
        Ok(())
    }

    fn upload(&mut self, _: Address, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(&mut self, _: &[Op]) -> Result<GraphId, DeviceError> {
        Ok(GraphId(0))
    }

    fn staging(&mut self) -> &mut [u8] {
        &mut self.staging
    }

    fn submit(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError> {
        self.used = Some(submission.results.iter().map(|region| region.bytes as usize).sum());
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Finished<'_>>, DeviceError> {
        let results = &self.results;
        Ok(self.used.take().map(|used| Finished { results: &results[..used], device_nanos: 0 }))
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

fn decode(sequences: u32) -> Batch {
    let params = Arc::new(SamplingParams { temperature: 0.7, top_p: 0.9, ..SamplingParams::greedy() });
    let row = |index: u32| Row {
        sequence: RequestId(index.into()),
        start: CONTEXT - 1,
        tokens: 1,
        prompt_tokens: 512,
        token_offset: index as usize,
        block_offset: (index * BLOCKS) as usize,
        block_count: BLOCKS as usize,
        draw: Some(Draw { params: Arc::clone(&params), ..Draw::new(SamplingParams::greedy()) }),
        score: None,
    };
    Batch {
        step: 1,
        rows: (0..sequences).map(row).collect(),
        tokens: vec![TokenSource::Known(5); sequences as usize],
        blocks: (0..sequences * BLOCKS).map(BlockId).collect(),
        history: Vec::new(),
    }
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    let model = GpuModel::read(embedded(), LoadOptions::default(), None).expect("the embedded model is served");
    let limits = StepLimits { blocks: 256 * BLOCKS, block_tokens: 16, max_tokens: 2048, max_rows: 256 };
    let device = Idle { card: Card::h200(), staging: Vec::new(), results: Vec::new(), used: None };
    let mut executor = model
        .load(device, limits, Dequantized::Anew, Box::new(Silent), Arc::new(Stopped))
        .expect("the embedded model is loaded");
    for sequences in SEQUENCES {
        let batch = decode(sequences);
        let mut times: Vec<f64> = (0..STEPS)
            .map(|_| {
                let began = Instant::now();
                executor.submit(&batch, 0).expect("the batch is sound");
                executor.collect(0).expect("the step is done").expect("the step is done");
                began.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        let (median, most) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        println!("{sequences:>3} sequences: {median:.1} us, {most:.1} us");
    }
}
