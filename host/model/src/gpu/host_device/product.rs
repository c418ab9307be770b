//! Products with weights, and weights made bf16 for a product that takes nothing else.

use std::ops::Range;
use std::slice;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use sluice_kernels::op::{Dequantize, Product, Sum};
use sluice_kernels::product::Launch;
use sluice_kernels::{Card, Layout, ProductKernel, WeightForm};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers::{self, narrow};
use super::silu::gated;
use super::weights::{OUTPUTS, Weights};

/// Sums that grow side by side.
const LANES: usize = 32;

/// The sums of a product: of each tile's outputs, of each of its outputs, of each part, of each row.
struct Sums {
    numbers: Vec<f32>,
    parts: usize,
    rows: usize,
}

pub(super) fn product(op: &Product, card: &Card, memory: &mut Memory) -> Result<(), Fault> {
    let kernel = kernel(op, card)?;
    let (rows, outputs, inputs) = (op.rows as usize, op.matrix.outputs as usize, op.matrix.inputs as usize);
    let weights = Weights::read(memory, &op.matrix)?;
    let x = numbers::read_rows(memory, "x", op.x, rows, inputs)?;
    match op.y {
        Sum::Whole(to) => {
            let sums = Sums::compute(&weights, outputs, &x, rows, slice::from_ref(&(0..inputs)));
            let mut y: Vec<f32> = sums.part(0).collect();
            if op.silu {
                y = gated(&y).collect();
            }
            let width = if op.silu { outputs / 2 } else { outputs };
            numbers::write_rows(memory, "y", to, width, &y)
        }
        Sum::Parts { at, count, stride } => {
            numbers::check_parts("y", count, stride, rows.saturating_mul(outputs))?;
            let sums = Sums::compute(&weights, outputs, &x, rows, &cuts(kernel, op.matrix.inputs, count)?);
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

/// The kernel that is asked for, which can compute this; none where it is the library.
fn kernel(op: &Product, card: &Card) -> Result<Option<&'static ProductKernel>, Fault> {
    let Launch::Kernel { name, blocks } = op.kernel else { return library(op).map(|()| None) };
    let kernel = ProductKernel::named(name);
    let kernel = kernel.ok_or_else(|| Fault::new("kernel", format!("is {name}, which no product is computed by")))?;
    kernel.check(op, blocks, card).map_err(|misfit| Fault::new(misfit.field, misfit.problem))?;
    Ok(Some(kernel))
}

/// It knows bf16 in rows, and nothing else.
fn library(op: &Product) -> Result<(), Fault> {
    let plain = op.matrix.form == WeightForm::Bf16 && !op.silu;
    expect(plain, "kernel", || format!("is Library, which is not for {:?}, silu {}", op.matrix.form, op.silu))?;
    let layout = op.x.layout;
    expect(layout == Layout::Rows, "x", || format!("is laid out as {layout:?}, and the library reads rows"))?;
    let in_rows = matches!(op.y, Sum::Whole(y) if y.layout == Layout::Rows);
    expect(in_rows, "y", || format!("is {:?}, and the library writes rows", op.y))
}

/// The inputs of each part, as the kernel shares them out. It writes no part that has none, and whoever adds parts up
/// would read what was there before.
fn cuts(kernel: Option<&ProductKernel>, inputs: u32, parts: u32) -> Result<Vec<Range<usize>>, Fault> {
    let cut = |part| {
        let inputs = kernel.map_or(0..0, |kernel| kernel.part(inputs, part, parts));
        expect(!inputs.is_empty(), "y", || format!("has {parts} parts, and part {part} has no inputs"))?;
        Ok(inputs.start as usize..inputs.end as usize)
    };
    (0..parts).map(cut).collect()
}

impl Sums {
    /// One part for each cut of the inputs.
    fn compute(weights: &Weights<'_>, outputs: usize, x: &[f32], rows: usize, cuts: &[Range<usize>]) -> Self {
        let parts = cuts.len();
        let mut numbers = vec![0.0; outputs * parts * rows];
        let per_strip = OUTPUTS * weights.inputs;
        numbers.par_chunks_mut((OUTPUTS * parts * rows).max(1)).enumerate().for_each_init(
            || vec![0.0; per_strip],
            |strip, (tile, out)| {
                weights.strip(tile, strip);
                Arch::new().dispatch(Strip { weights: strip, x, inputs: weights.inputs, cuts, out });
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
