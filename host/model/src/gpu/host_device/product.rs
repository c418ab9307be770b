//! Products with weights, and weights made bf16 for a product that takes nothing else.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use sluice_kernels::op::{Dequantize, Product, Sum};
use sluice_kernels::product::{Purpose, plan};
use sluice_kernels::{Card, Matrix, WeightForm};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers::{self, narrow};
use super::silu::gated;
use super::weights::{OUTPUTS, Weights};

/// Inputs of a tile, of which a part has whole ones.
const BLOCK: usize = 64;

/// Sums that grow side by side.
const LANES: usize = 32;

/// The sums of a product: of each tile's outputs, of each of its outputs, of each part, of each row.
struct Sums {
    numbers: Vec<f32>,
    parts: usize,
    rows: usize,
}

pub(super) fn product(op: &Product, card: &Card, memory: &mut Memory) -> Result<(), Fault> {
    check_plan(op, card)?;
    let (rows, outputs, inputs) = (op.rows as usize, op.matrix.outputs as usize, op.matrix.inputs as usize);
    let weights = Weights::read(memory, &op.matrix)?;
    let x = numbers::read_rows(memory, "x", op.x, rows, inputs)?;
    match op.y {
        Sum::Whole(to) => {
            let sums = Sums::compute(&weights, outputs, &x, rows, 1);
            let mut y: Vec<f32> = sums.part(0).collect();
            if op.silu {
                y = gated(&y).collect();
            }
            let width = if op.silu { outputs / 2 } else { outputs };
            numbers::write_rows(memory, "y", to, width, &y)
        }
        Sum::Parts { at, count, stride } => {
            numbers::check_parts("y", count, stride, rows.saturating_mul(outputs))?;
            let sums = Sums::compute(&weights, outputs, &x, rows, count as usize);
            (0..count)
                .try_for_each(|part| numbers::write_part(memory, "y", (at, part, stride), sums.part(part as usize)))
        }
    }
}

pub(super) fn dequantize(op: &Dequantize, memory: &mut Memory) -> Result<(), Fault> {
    expect(op.matrix.form != WeightForm::Bf16, "matrix", || "is in bf16 as it is".into())?;
    let weights = Weights::read_exactly(memory, &op.matrix, op.scales)?;
    let mut numbers = vec![0; op.matrix.outputs as usize * weights.inputs];
    let per_strip = OUTPUTS * weights.inputs;
    numbers.par_chunks_mut(per_strip.max(1)).enumerate().for_each_init(
        || vec![0.0; per_strip],
        |strip, (tile, out)| {
            weights.strip(tile, strip);
            out.iter_mut().zip(strip).for_each(|(out, weight)| *out = narrow(*weight));
        },
    );
    memory.write_many("out", op.out, numbers.len())?.copy_from_slice(&numbers);
    Ok(())
}

/// A kernel reads and writes what its plan says, whatever it is told.
fn check_plan(op: &Product, card: &Card) -> Result<(), Fault> {
    let (purposes, parts): (&[Purpose], u32) = match op.y {
        Sum::Whole(_) if op.silu => (&[Purpose::Silu], 1),
        Sum::Whole(_) => (&[Purpose::Whole, Purpose::Summed], 1),
        Sum::Parts { count, .. } => (&[Purpose::Summed], count),
    };
    expect(!op.silu || matches!(op.y, Sum::Whole(_)), "y", || "is in parts, which silu cannot be".into())?;
    let Matrix { form, outputs, inputs, .. } = op.matrix;
    let plans = purposes.iter().map(|purpose| plan(card, form, outputs, inputs, op.rows, *purpose));
    let plans: Vec<_> =
        plans.filter(|plan| plan.launch == op.kernel && !plan.dequantize && !plan.separate_silu).collect();
    let Some(plan) = plans.first() else {
        let problem = format!("is {:?}, which is not for {} rows of {form:?}, silu {}", op.kernel, op.rows, op.silu);
        return Err(Fault::new("kernel", problem));
    };
    let layout = op.x.layout;
    expect(plan.input == layout, "x", || format!("is laid out as {layout:?}, and the kernel reads {:?}", plan.input))?;
    let made = plans.iter().any(|plan| plan.parts == parts);
    expect(made, "y", || format!("has {parts} parts, and the kernel makes {}", plan.parts))
}

impl Sums {
    fn compute(weights: &Weights<'_>, outputs: usize, x: &[f32], rows: usize, parts: usize) -> Self {
        let mut numbers = vec![0.0; outputs * parts * rows];
        let per_strip = OUTPUTS * weights.inputs;
        let cuts: Vec<_> = (0..parts).map(|part| cut(weights.inputs / BLOCK, part, parts)).collect();
        numbers.par_chunks_mut((OUTPUTS * parts * rows).max(1)).enumerate().for_each_init(
            || vec![0.0; per_strip],
            |strip, (tile, out)| {
                weights.strip(tile, strip);
                Arch::new().dispatch(Strip { weights: strip, x, inputs: weights.inputs, cuts: &cuts, out });
            },
        );
        Self { numbers, parts, rows }
    }

    /// In rows.
    fn part(&self, part: usize) -> impl ExactSizeIterator<Item = f32> {
        let per_output = self.parts * self.rows;
        let outputs = self.numbers.len() / per_output.max(1);
        let place = move |(row, output): (usize, usize)| output * per_output + part * self.rows + row;
        (0..self.rows * outputs).map(move |index| self.numbers[place((index / outputs, index % outputs))])
    }
}

/// The inputs of one of so many parts.
fn cut(blocks: usize, part: usize, parts: usize) -> Range<usize> {
    BLOCK * (blocks * part / parts)..BLOCK * (blocks * (part + 1) / parts)
}

/// One tile's outputs of all rows.
struct Strip<'a> {
    weights: &'a [f32],
    x: &'a [f32],
    inputs: usize,
    cuts: &'a [Range<usize>],
    out: &'a mut [f32],
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mut out = self.out.iter_mut();
        for weights in self.weights.chunks_exact(self.inputs) {
            for cut in self.cuts {
                let weights = &weights[cut.clone()];
                for (x, out) in self.x.chunks_exact(self.inputs).zip(&mut out) {
                    *out = dot(weights, &x[cut.clone()]);
                }
            }
        }
    }
}

/// Of whole lanes.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    sums.iter().sum()
}
