//! A matrix product on the CPU in every form of weights, beside candle's: a layer of Qwen2.5-0.5B's widest product.
//!
//! One row is bound by memory: bytes of weights a second. Many rows are bound by arithmetic: operations a second.

use std::hint::black_box;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use sluice_checkpoint::{GgmlBlocks, GgmlKind, MatrixData, StoredMatrix, dummy, int8, nf4};
use sluice_model::Linear;

const INPUTS: usize = 1024;
const OUTPUTS: usize = 9728;

/// A matrix of ours, and candle's where it has the form.
struct Subject {
    name: &'static str,
    bytes: u64,
    ours: Linear,
    candle: Option<QMatMul>,
}

fn tensor(name: &str, rows: usize) -> Tensor {
    let numbers = dummy::tensor(0, name, &[rows, INPUTS]);
    Tensor::from_vec(numbers, (rows, INPUTS), &Device::Cpu).expect("the shape is the numbers'")
}

fn subject(name: &'static str, data: MatrixData<'_>, candle: Option<QMatMul>) -> Subject {
    let stored = StoredMatrix { outputs: OUTPUTS, inputs: INPUTS, data };
    Subject { name, bytes: stored.bytes(), ours: Linear::pack(&stored), candle }
}

fn plain(name: &'static str, dtype: DType, data: MatrixData<'_>) -> Subject {
    let candle = tensor("weights", OUTPUTS).to_dtype(dtype).expect("numbers near 1 fit every dtype");
    subject(name, data, Some(QMatMul::Tensor(candle)))
}

fn ggml(name: &'static str, kind: GgmlKind, dtype: GgmlDType) -> Subject {
    let quantized = QTensor::quantize(&tensor("weights", OUTPUTS), dtype).expect("the inputs are whole blocks");
    let blocks = quantized.data().expect("it lies on the CPU").into_owned().into();
    let candle = QMatMul::from_qtensor(quantized).expect("it lies on the CPU");
    subject(name, MatrixData::Ggml(GgmlBlocks { kind, blocks }), Some(candle))
}

fn subjects() -> Vec<Subject> {
    let numbers = dummy::tensor(0, "weights", &[OUTPUTS, INPUTS]);
    let f32 = MatrixData::F32(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    let f16 = numbers.iter().flat_map(|number| half::f16::from_f32(*number).to_le_bytes()).collect();
    let bf16 = numbers.iter().flat_map(|number| half::bf16::from_f32(*number).to_le_bytes()).collect();
    let stored = StoredMatrix { outputs: OUTPUTS, inputs: INPUTS, data: f32.clone() };
    vec![
        plain("F32", DType::F32, f32),
        plain("F16", DType::F16, MatrixData::F16(f16)),
        plain("BF16", DType::BF16, MatrixData::Bf16(bf16)),
        subject("INT8", MatrixData::Int8(int8::quantize(&stored)), None),
        subject("NF4", MatrixData::Nf4(nf4::quantize(&stored)), None),
        ggml("Q4_0", GgmlKind::Q4_0, GgmlDType::Q4_0),
        ggml("Q5_0", GgmlKind::Q5_0, GgmlDType::Q5_0),
        ggml("Q8_0", GgmlKind::Q8_0, GgmlDType::Q8_0),
        ggml("Q4_K", GgmlKind::Q4K, GgmlDType::Q4K),
        ggml("Q5_K", GgmlKind::Q5K, GgmlDType::Q5K),
        ggml("Q6_K", GgmlKind::Q6K, GgmlDType::Q6K),
    ]
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, subject: &Subject, rows: usize) {
    let x = tensor("x", rows);
    let numbers = dummy::tensor(0, "x", &[rows, INPUTS]);
    let (mut y, mut scratch) = (vec![0.0; rows * OUTPUTS], Linear::scratch(INPUTS, rows));
    group.bench_function(format!("{}, ours", subject.name), |bencher| {
        bencher.iter(|| subject.ours.forward(black_box(&numbers), black_box(&mut y), &mut scratch));
    });
    let Some(candle) = &subject.candle else { return };
    let x = match candle {
        QMatMul::Tensor(weights) => x.to_dtype(weights.dtype()).expect("numbers near 1 fit every dtype"),
        _ => x,
    };
    group.bench_function(format!("{}, candle", subject.name), |bencher| {
        bencher.iter(|| black_box(candle.forward(black_box(&x)).expect("the shapes agree")));
    });
}

fn products(criterion: &mut Criterion) {
    let subjects = subjects();
    let mut group = criterion.benchmark_group("1 row");
    for subject in &subjects {
        group.throughput(Throughput::Bytes(subject.bytes));
        measure(&mut group, subject, 1);
    }
    group.finish();
    let mut group = criterion.benchmark_group("64 rows");
    for subject in &subjects {
        group.throughput(Throughput::Elements((2 * INPUTS * OUTPUTS * 64) as u64));
        measure(&mut group, subject, 64);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = products
}
criterion_main!(benches);
