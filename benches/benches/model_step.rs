//! A step of a model of the embedded one's size on the CPU: how many tokens a second, alone and together.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_benches::steps::{batch, executor, run};
use sluice_checkpoint::{EmbeddedFiles, LoadFormat, LoadOptions, ModelFiles, Silent};
use sluice_model::load;

/// 3.7 million parameters, as the model that ships.
const CONFIG: &[u8] = br#"{
    "architectures": ["Qwen3ForCausalLM"], "vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768,
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": true
}"#;

const VOCAB: u32 = 2048;

fn steps(criterion: &mut Criterion) {
    let files = ModelFiles::Embedded(EmbeddedFiles { name: "bench", files: &[("config.json", CONFIG)] });
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 0 }, ..LoadOptions::default() };
    let model = load(&files, options, Box::new(Silent)).expect("the configuration is whole");
    let mut executor = executor(model, 65_536);
    let mut decode = criterion.benchmark_group("decode");
    for (sequences, context) in [(1, 128), (1, 1024), (2, 128), (4, 128), (8, 128), (32, 128), (128, 128)] {
        let batch = batch(sequences, context, 1, VOCAB);
        decode.throughput(Throughput::Elements(sequences.into()));
        let id = BenchmarkId::from_parameter(format!("{sequences} sequences after {context} tokens"));
        decode.bench_function(id, |bencher| bencher.iter(|| run(&mut executor, &batch)));
    }
    decode.finish();
    let mut prefill = criterion.benchmark_group("prefill");
    for tokens in [16, 128, 512] {
        let batch = batch(1, 0, tokens, VOCAB);
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
