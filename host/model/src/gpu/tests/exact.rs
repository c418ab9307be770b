//! Weights that are dequantised on the device are the checkpoint's to the bit, whichever rows of which matrix they are.

use half::bf16;
use sluice_checkpoint::{Quantization, Silent, StoredMatrix, Weights};
use sluice_kernels::op::BlockScales;
use sluice_kernels::{Address, Arena, Card, Device, Matrix, Op, Region, Submission, WeightForm, Work};

use super::{options, qwen2, random};
use crate::blueprint::{Blueprint, Projection};
use crate::embedded;
use crate::gpu::HostDevice;
use crate::gpu::arrangement::Arrangement;
use crate::gpu::loader::Loader;
use crate::gpu::shape::Shape;
use crate::gpu::weights::{Dequantized, LayerHeld, ModelWeights, Weighted, most_quantized_rows};
use sluice_checkpoint::{ConfigFile, ModelFiles};

/// The matrix on the device, in bf16: made anew, and as it is kept.
fn dequantized(device: &mut HostDevice, weighted: &Weighted, out: Address) -> [Vec<u16>; 2] {
    let Matrix { outputs, inputs, .. } = weighted.matrix;
    let anew = read(device, &[weighted.dequantize(out)], weighted.in_bf16(out));
    let kept = weighted.read_by(most_quantized_rows(weighted.matrix.form) + 1);
    assert_eq!((kept.form, kept.outputs, kept.inputs), (WeightForm::Bf16, outputs, inputs));
    assert_eq!(weighted.read_by(most_quantized_rows(weighted.matrix.form)), weighted.matrix);
    [anew, read(device, &[], kept)]
}

fn read(device: &mut HostDevice, ops: &[Op], matrix: Matrix) -> Vec<u16> {
    let bytes = 2 * u64::from(matrix.outputs) * u64::from(matrix.inputs);
    let results = [Region { at: matrix.weights, bytes }];
    device.submit(&Submission { copies: &[], work: Work::Ops(ops), results: &results }).unwrap();
    let finished = device.poll().unwrap().unwrap();
    finished.results.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()
}

/// The same by the checkpoint's own arithmetic, as it is arranged.
fn expected(weights: &Weights, projection: &Projection, arrangement: &Arrangement) -> Vec<u16> {
    let rows = projection.parts.iter().flat_map(|part| {
        let name = format!("{}.weight", part.name);
        let stored: StoredMatrix<'_> = weights.projection(&name, part.outputs, projection.inputs).unwrap();
        stored.to_f32().chunks(projection.inputs).map(<[f32]>::to_vec).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<f32>> = rows.collect();
    let width = arrangement.width(projection.inputs);
    let row = |source: &Option<usize>| {
        let mut out = vec![0.0; width];
        if let Some(source) = *source {
            arrangement.copy(&rows[source], &mut out, 64, 0.0);
        }
        out.into_iter().map(|weight| bf16::from_f32(weight).to_bits())
    };
    arrangement.rows.iter().flat_map(row).collect()
}

fn check(files: &ModelFiles, quantization: Quantization, scales: fn(&BlockScales) -> bool) {
    let (options, blueprint) = (options(files, quantization), blueprint(files));
    let shape = Shape::of(&blueprint).unwrap();
    let weights = Weights::open(files, options, Box::new(Silent)).unwrap();
    let layers = 0..blueprint.dimensions.layers;
    let held = layers.map(|index| LayerHeld::of(&weights, &options, &shape, &blueprint.layer(index)).unwrap());
    let mut arena = Arena::default();
    let mut places = ModelWeights::place(&mut arena, &blueprint, &shape, &held.collect::<Vec<_>>(), Dequantized::Kept);
    let out = arena.take(1 << 22).at;
    let mut device = HostDevice::new(Card::h200()).poisoned();
    device.reserve(arena.used(), 16, 1 << 22, 1).unwrap();
    let mut loader = Loader { weights: &weights, shape: &shape, device: &mut device };
    loader.model(&blueprint, &mut places).unwrap();
    loader.keep_dequantized(&places).unwrap();
    assert!(places.layers.iter().any(|layer| scales(&layer.attention_output.scales)));
    for (index, layer) in places.layers.iter().enumerate() {
        let tensors = blueprint.layer(index);
        let plain = Arrangement::plain(shape.size.hidden, shape.size.hidden);
        for (name, weighted, projection, arrangement) in [
            ("qkv", &layer.qkv, &tensors.qkv, Arrangement::qkv(&shape)),
            ("o", &layer.attention_output, &tensors.attention_output, Arrangement::attention_output(&shape)),
            ("gate and up", &layer.gate_up, &tensors.gate_up, Arrangement::gate_up(&shape)),
            ("down", &layer.down, &tensors.down, plain),
        ] {
            let expected = expected(&weights, projection, &arrangement);
            for found in dequantized(&mut device, weighted, out) {
                // Zeros of either sign.
                let same = |(found, expected): (&u16, &u16)| found == expected || (found | expected) & 0x7fff == 0;
                assert!(found.len() == expected.len() && found.iter().zip(&expected).all(same), "{name} of {index}");
            }
        }
    }
}

fn blueprint(files: &ModelFiles) -> Blueprint {
    crate::blueprint(&ConfigFile::read(files).unwrap()).unwrap()
}

#[test]
fn nf4_with_scales_that_are_quantised() {
    let (_folder, files) = random(&qwen2());
    check(&files, Quantization::Nf4, |scales| matches!(scales, BlockScales::Nested(_)));
}

/// Where heads are padded, blocks are not those of the checkpoint.
#[test]
fn nf4_with_scales_of_f32() {
    check(&embedded(), Quantization::Nf4, |scales| matches!(scales, BlockScales::F32(_)));
}

#[test]
fn int8_with_scales_of_rows() {
    check(&embedded(), Quantization::Int8, |scales| matches!(scales, BlockScales::Own));
}
