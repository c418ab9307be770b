//! A step of a model of the embedded one's size on the CPU: how many tokens a second, alone and together.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_checkpoint::{EmbeddedFiles, LoadFormat, ModelFiles};
use sluice_core::{Batch, BlockId, Clock, Executor, Nanos, RequestId, Row, SamplingParams, TokenSource};
use sluice_model::{CpuExecutor, StepLimits, load};

/// 3.7 million parameters, as the model that ships.
const CONFIG: &[u8] = br#"{
    "architectures": ["Qwen3ForCausalLM"], "vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768,
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": true
}"#;

const BLOCK_TOKENS: u32 = 16;

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

fn executor() -> CpuExecutor {
    let files = ModelFiles::Embedded(EmbeddedFiles { name: "bench", files: &[("config.json", CONFIG)] });
    let model = load(&files, LoadFormat::Dummy { seed: 0 }).expect("the configuration is whole");
    let limits = StepLimits { blocks: 4096, block_tokens: BLOCK_TOKENS, max_tokens: 2048, max_rows: 256 };
    CpuExecutor::new(model, limits, Arc::new(Monotonic(Instant::now()))).expect("the cache fits")
}

/// `sequences` rows that compute `tokens` each after `context` that are in the cache.
fn batch(sequences: u32, context: u32, tokens: u32) -> Batch {
    let per_sequence = (context + tokens).div_ceil(BLOCK_TOKENS);
    let sample = Some(Arc::new(SamplingParams::greedy()));
    let row = |index: u32| Row {
        sequence: RequestId(index.into()),
        start: context,
        tokens,
        prompt_tokens: context,
        token_offset: (index * tokens) as usize,
        block_offset: (index * per_sequence) as usize,
        block_count: per_sequence as usize,
        sample: sample.clone(),
    };
    Batch {
        step: 0,
        rows: (0..sequences).map(row).collect(),
        tokens: (0..sequences * tokens).map(|token| TokenSource::Known(token % 2048)).collect(),
        blocks: (0..sequences * per_sequence).map(BlockId).collect(),
    }
}

fn run(executor: &mut CpuExecutor, batch: &Batch) {
    executor.submit(black_box(batch), 0).expect("the batch is sound");
    black_box(executor.collect(0).expect("the step is done"));
}

fn steps(criterion: &mut Criterion) {
    let mut executor = executor();
    let mut decode = criterion.benchmark_group("decode");
    for (sequences, context) in [(1, 128), (1, 1024), (2, 128), (4, 128), (8, 128), (32, 128), (128, 128)] {
        let batch = batch(sequences, context, 1);
        decode.throughput(Throughput::Elements(sequences.into()));
        let id = BenchmarkId::from_parameter(format!("{sequences} sequences after {context} tokens"));
        decode.bench_function(id, |bencher| bencher.iter(|| run(&mut executor, &batch)));
    }
    decode.finish();
    let mut prefill = criterion.benchmark_group("prefill");
    for tokens in [16, 128, 512] {
        let batch = batch(1, 0, tokens);
        prefill.throughput(Throughput::Elements(tokens.into()));
        let id = BenchmarkId::from_parameter(format!("{tokens} tokens"));
        prefill.bench_function(id, |bencher| bencher.iter(|| run(&mut executor, &batch)));
    }
    prefill.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = steps
}
criterion_main!(benches);
