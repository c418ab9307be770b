//! Every form with every set of instructions: against sums in F64, against candle's weights, against itself in company.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use pulp::Arch;
use sluice_checkpoint::{Form, GgmlBlocks, GgmlKind, MatrixData, StoredMatrix, int8, nf4};

use super::{Group, Instructions, Matrix, PANEL, Quantize, Rows};

const FORMS: [Form; 16] = [
    Form::F32,
    Form::F16,
    Form::Bf16,
    Form::Int8,
    Form::Nf4 { nested: false },
    Form::Nf4 { nested: true },
    Form::Ggml(GgmlKind::Q4_0),
    Form::Ggml(GgmlKind::Q4_1),
    Form::Ggml(GgmlKind::Q5_0),
    Form::Ggml(GgmlKind::Q5_1),
    Form::Ggml(GgmlKind::Q8_0),
    Form::Ggml(GgmlKind::Q2K),
    Form::Ggml(GgmlKind::Q3K),
    Form::Ggml(GgmlKind::Q4K),
    Form::Ggml(GgmlKind::Q5K),
    Form::Ggml(GgmlKind::Q6K),
];

/// All that this processor has, the best first.
fn instructions() -> Vec<Instructions> {
    let mut all = vec![Instructions::detect()];
    #[cfg(target_arch = "x86_64")]
    {
        all.extend(pulp::x86::V4::try_new().map(Instructions::Avx512));
        all.extend(pulp::x86::V3::try_new().map(|simd| Instructions::Portable(Arch::V3(simd))));
    }
    all.push(Instructions::Portable(Arch::new()));
    all.push(Instructions::Portable(Arch::Scalar));
    all
}

fn numbers(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    sluice_checkpoint::dummy::tensor(seed, name, shape)
}

fn bytes<const SIZE: usize>(numbers: &[f32], bytes: impl Fn(f32) -> [u8; SIZE]) -> Cow<'static, [u8]> {
    numbers.iter().flat_map(|number| bytes(*number)).collect()
}

fn candle_kind(kind: GgmlKind) -> GgmlDType {
    match kind {
        GgmlKind::Q4_0 => GgmlDType::Q4_0,
        GgmlKind::Q4_1 => GgmlDType::Q4_1,
        GgmlKind::Q5_0 => GgmlDType::Q5_0,
        GgmlKind::Q5_1 => GgmlDType::Q5_1,
        GgmlKind::Q8_0 => GgmlDType::Q8_0,
        GgmlKind::Q2K => GgmlDType::Q2K,
        GgmlKind::Q3K => GgmlDType::Q3K,
        GgmlKind::Q4K => GgmlDType::Q4K,
        GgmlKind::Q5K => GgmlDType::Q5K,
        GgmlKind::Q6K => GgmlDType::Q6K,
    }
}

/// A matrix in the form, and its weights as somebody else widens them.
fn stored(form: Form, seed: u64, outputs: usize, inputs: usize) -> (StoredMatrix<'static>, Vec<f32>) {
    let weights = numbers(seed, "weights", &[outputs, inputs]);
    let plain = StoredMatrix { outputs, inputs, data: MatrixData::F32(bytes(&weights, f32::to_le_bytes)) };
    let data = match form {
        Form::F32 => return (plain, weights),
        Form::F16 => MatrixData::F16(bytes(&weights, |number| f16::from_f32(number).to_le_bytes())),
        Form::Bf16 => MatrixData::Bf16(bytes(&weights, |number| bf16::from_f32(number).to_le_bytes())),
        Form::Int8 => MatrixData::Int8(int8::quantize(&plain)),
        Form::Nf4 { nested } => {
            let mut blocks = nf4::quantize(&plain);
            if !nested {
                blocks.absmax = sluice_checkpoint::Absmax::Plain(Cow::Owned(blocks.absmax.to_f32().into_owned()));
            }
            MatrixData::Nf4(blocks)
        }
        Form::Ggml(kind) => {
            let tensor = Tensor::from_vec(weights, (outputs, inputs), &Device::Cpu).unwrap();
            let tensor = QTensor::quantize(&tensor, candle_kind(kind)).unwrap();
            let weights = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let blocks = Cow::Owned(tensor.data().unwrap().into_owned());
            return (StoredMatrix { outputs, inputs, data: MatrixData::Ggml(GgmlBlocks { kind, blocks }) }, weights);
        }
    };
    let matrix = StoredMatrix { outputs, inputs, data };
    let weights = matrix.to_f32();
    (matrix, weights)
}

fn quantize(x: &[f32]) -> Vec<Group> {
    let mut groups = vec![Group::default(); x.len() / 32];
    Quantize { x, groups: &mut groups }.run();
    groups
}

/// `x` times the whole matrix, added to zeros.
fn multiply(matrix: &Matrix, x: &[f32], inputs: usize) -> Vec<f32> {
    let groups = if matrix.wants_groups() { quantize(x) } else { Vec::new() };
    let rows = Rows { values: x, groups: &groups, inputs };
    let mut y = vec![0.0; x.len() / inputs * matrix.outputs()];
    for panel in 0..matrix.panels() {
        let rest = y.chunks_exact_mut(matrix.outputs()).map(|y| &mut y[panel * PANEL..]);
        let mut out: Vec<_> = rest
            .map(|y| {
                let width = y.len().min(PANEL);
                &mut y[..width]
            })
            .collect();
        matrix.add(panel, &rows, &mut out);
    }
    y
}

/// How far a product of bytes may be off: half a step of each activation, and what F32 rounds.
fn tolerance(matrix: &Matrix, weights: &[f32], x: &[f32]) -> f64 {
    let rounding: f64 = weights.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum::<f64>() * 1e-5 + 1e-6;
    if !matrix.wants_groups() {
        return rounding;
    }
    let groups = weights.chunks(32).zip(x.chunks(32)).map(|(weights, x)| {
        let step = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
        f64::from(step) / 2.0 * weights.iter().map(|weight| f64::from(weight.abs())).sum::<f64>()
    });
    rounding + groups.sum::<f64>() * 1.001
}

/// What the order of two multiplications changes in a weight; of all others every bit is known.
fn rounding(form: Form) -> f32 {
    if form == Form::Int8 { 2.0 * f32::EPSILON } else { 0.0 }
}

/// Inputs that the form can have, about so many.
fn inputs(form: Form, about: usize) -> usize {
    match form {
        Form::Ggml(kind) => about.next_multiple_of(kind.block_numbers()).min(3 * kind.block_numbers().max(64)),
        _ => about,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn weights_and_products_are_those_of_the_stored_matrix(
        form in prop::sample::select(&FORMS[..]), about in 1usize..700, outputs in 1usize..200, seed: u64,
    ) {
        let inputs = inputs(form, about);
        let (stored, weights) = stored(form, seed, outputs, inputs);
        let x = numbers(seed, "x", &[1, inputs]);
        for instructions in instructions() {
            let matrix = Matrix::pack(&stored, instructions);
            let mut widened = vec![f32::NAN; inputs];
            for (output, y) in multiply(&matrix, &x, inputs).into_iter().enumerate() {
                let row = &weights[output * inputs..][..inputs];
                matrix.weights(output, &mut widened);
                for (widened, weight) in widened.iter().zip(row) {
                    let error = (widened - weight).abs();
                    prop_assert!(error <= weight.abs() * rounding(form), "{widened} for {weight}");
                }
                let exact: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let (error, tolerance) = ((f64::from(y) - exact).abs(), tolerance(&matrix, row, &x));
                prop_assert!(error <= tolerance, "{instructions:?}: {y} for {exact}, {error} > {tolerance}");
            }
        }
    }

    #[test]
    fn a_row_is_the_same_in_any_company(
        form in prop::sample::select(&FORMS[..]), about in 1usize..1200, outputs in 1usize..150, rows in 2usize..20,
        seed: u64,
    ) {
        let inputs = inputs(form, about);
        let (stored, _) = stored(form, seed, outputs, inputs);
        let x = numbers(seed, "x", &[rows, inputs]);
        for instructions in instructions() {
            let matrix = Matrix::pack(&stored, instructions);
            let together = multiply(&matrix, &x, inputs);
            for (x, y) in x.chunks(inputs).zip(together.chunks(outputs)) {
                prop_assert_eq!(multiply(&matrix, x, inputs), y, "{:?}", instructions);
            }
        }
    }

    #[test]
    fn bytes_are_within_half_a_step_and_add_up(x in prop::array::uniform32(-9.0f32..9.0), scale in -30i32..30) {
        let x = x.map(|x| x * (scale as f32).exp2());
        let [group] = quantize(&x)[..] else { panic!("one group") };
        let bytes: Vec<i8> = group.values.iter().flat_map(|four| four.to_le_bytes()).map(|byte| byte as i8).collect();
        for (x, byte) in x.iter().zip(&bytes) {
            prop_assert!((x - f32::from(*byte) * group.scale).abs() <= group.scale * 0.5001);
        }
        let sum = |bytes: &[i8]| bytes.iter().map(|byte| f32::from(*byte)).sum::<f32>();
        prop_assert_eq!(group.halves, [sum(&bytes[..16]), sum(&bytes[16..])]);
        prop_assert_eq!(group.sum, sum(&bytes));
    }
}

#[test]
fn nothing_times_anything_is_nothing() {
    for form in FORMS {
        let (stored, _) = stored(form, 1, 70, 256);
        for instructions in instructions() {
            assert_eq!(multiply(&Matrix::pack(&stored, instructions), &[0.0; 256], 256), [0.0; 70], "{form}");
        }
    }
}

/// That a form is held in about its own size, whatever the panels fill up: what a form is for.
#[test]
fn a_matrix_takes_little_more_than_its_file() {
    for form in FORMS {
        let (stored, _) = stored(form, 1, 2 * PANEL, 512);
        let (held, file) = (Matrix::pack(&stored, Instructions::detect()).bytes() as f64, stored.bytes() as f64);
        assert!(held < 1.2 * file, "{form}: {held} bytes for {file}");
    }
}
