//! Random weights in each form, and cases of dequantising them.

use half::f16;
use sluice_kernels::op::{BlockScales, Dequantize, NestedScales};
use sluice_kernels::{Matrix, Op, TILE, WeightForm};

use super::Subject;
use super::case::{Case, Compared};

pub(crate) const FORMS: [(&str, WeightForm); 3] =
    [("none", WeightForm::Bf16), ("int8", WeightForm::Int8), ("nf4", WeightForm::Nf4)];

/// Weights of a block that share a scale.
const BLOCK: u32 = 64;

/// Scales of a group that share what they are quantised by.
const GROUP: u32 = 256;

/// Which scales weights are dequantised with.
#[derive(Clone, Copy)]
enum Kept {
    Own,
    F32,
    Nested,
}

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let sizes = if full { &[(16, 64), (272, 1088), (5120, 5120), (7168, 5120)][..] } else { &[(16, 64), (48, 320)] };
    let of = |name, form, kept| {
        Subject::new(name, sizes.iter().copied(), move |case, size| dequantize(case, name, size, form, kept))
    };
    vec![
        of("dequantize int8", WeightForm::Int8, Kept::Own),
        of("dequantize nf4", WeightForm::Nf4, Kept::Own),
        of("dequantize nf4 f32", WeightForm::Nf4, Kept::F32),
        of("dequantize nf4 nested", WeightForm::Nf4, Kept::Nested),
    ]
}

/// Such that numbers of a bell curve of 1 become others of about 1. Any bytes are weights, in any order.
pub(crate) fn matrix(case: &mut Case, form: WeightForm, outputs: u32, inputs: u32) -> Matrix {
    let count = outputs * inputs;
    // Of the weights of a code, the root of the mean square is close to a half.
    let deviation = (inputs as f32).sqrt().recip();
    let (weights, scales) = match form {
        WeightForm::Bf16 => {
            let weights = case.halves(count, deviation);
            (weights, weights)
        }
        WeightForm::Int8 => {
            let mut codes = case.random.bytes(count as usize);
            // Weights are -127 to 127.
            codes.iter_mut().for_each(|code| *code = if *code == 0x80 { 0x7f } else { *code });
            let scales: Vec<f32> = (0..outputs).map(|_| case.random.between(0.5, 2.5) * deviation).collect();
            (case.put(&codes), case.put(&scales))
        }
        WeightForm::Nf4 => {
            let codes = case.random.bytes(count as usize / 2);
            let scales = (0..count / BLOCK).map(|_| f16::from_f32(case.random.between(1024.0, 5120.0)).to_bits());
            let scales: Vec<u16> = scales.collect();
            (case.put(&codes), case.put(&scales))
        }
    };
    let unit = match form {
        WeightForm::Bf16 => 1.0,
        WeightForm::Int8 => 1.0 / 127.0,
        WeightForm::Nf4 => (deviation.log2().round() - 10.0).exp2(),
    };
    Matrix { form, outputs, inputs, weights, scales, unit }
}

fn dequantize(case: &mut Case, name: &str, (outputs, inputs): (u32, u32), form: WeightForm, kept: Kept) {
    let matrix = matrix(case, form, outputs, inputs);
    let scales = match kept {
        Kept::Own => BlockScales::Own,
        Kept::F32 => {
            let scales = case.random.bell((outputs * inputs / BLOCK) as usize, 1.0);
            BlockScales::F32(case.put(&scales))
        }
        Kept::Nested => BlockScales::Nested(nested(case, outputs, inputs)),
    };
    let out = case.room::<u16>(outputs * inputs);
    let op = Op::Dequantize(Dequantize { matrix, scales, out: out.at });
    case.check(format!("{name} {outputs} x {inputs}"), op, vec![Compared::Same(vec![out])]);
}

/// Of two matrices one behind the other: blocks are counted anew in the second.
fn nested(case: &mut Case, outputs: u32, inputs: u32) -> NestedScales {
    let (per_row, first_rows) = (inputs / BLOCK, outputs / TILE.0 / 2 * TILE.0);
    let groups = |rows: u32| (rows * per_row).div_ceil(GROUP);
    let all_groups = groups(first_rows) + groups(outputs - first_rows);
    let first_block = |row: u32| match row.checked_sub(first_rows) {
        Some(row) => (GROUP * groups(first_rows) + row * per_row) as i32,
        None => (row * per_row) as i32,
    };
    let codes = case.random.bytes((outputs * per_row) as usize);
    let (map, largest) = (case.random.bell(256, 1.0), case.random.bell(2 * all_groups as usize, 1.0));
    NestedScales {
        codes: case.put(&codes),
        map: case.put(&map),
        groups: case.put(&largest),
        first_blocks: case.put(&(0..outputs).map(first_block).collect::<Vec<_>>()),
    }
}
