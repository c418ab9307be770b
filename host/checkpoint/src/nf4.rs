//! NormalFloat of four bits (Dettmers et al., "QLoRA", 2023), in bitsandbytes' layout and values.
//!
//! The matrix is one row of numbers after the other, cut into blocks of 64. A number is `table[code] · absmax` of its
//! block. With double quantisation the blocks' absmax are held in eight bits: `map[code] · absmax + offset`, with an
//! absmax per 256 blocks.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::StoredMatrix;
use crate::float::largest;
use crate::matrix::TASK;

/// Numbers that share an absmax.
pub const BLOCK: usize = 64;

/// Blocks whose absmax share an absmax.
pub const NESTED_BLOCK: usize = 256;

/// Quantiles of the normal distribution, 0 and ±1 among them: bitsandbytes' values.
pub const TABLE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The least that a block is divided by, as in bitsandbytes.
const LEAST: f32 = 1e-38;

#[derive(Clone, Debug)]
pub struct Nf4Blocks<'a> {
    /// Two numbers a byte, the first in the high four bits.
    pub codes: Cow<'a, [u8]>,
    pub absmax: Absmax<'a>,
    pub table: [f32; 16],
}

/// The largest absolute value of each block.
#[derive(Clone, Debug)]
pub enum Absmax<'a> {
    Plain(Cow<'a, [f32]>),
    Nested(NestedAbsmax<'a>),
}

#[derive(Clone, Debug)]
pub struct NestedAbsmax<'a> {
    pub codes: Cow<'a, [u8]>,
    pub map: Box<[f32; 256]>,
    /// Of each [`NESTED_BLOCK`] blocks.
    pub absmax: Cow<'a, [f32]>,
    pub offset: f32,
}

impl Nf4Blocks<'_> {
    /// An entry of a table beyond 1 counts too: it could make infinite numbers of finite ones.
    pub(crate) fn first_not_finite(&self) -> Option<(&'static str, usize, f32)> {
        let beyond_one = |number: &f32| number.is_nan() || number.abs() > 1.0;
        let infinite = |number: &f32| !number.is_finite();
        let search = |part, numbers: &[f32], bad: &dyn Fn(&f32) -> bool| {
            let index = numbers.iter().position(bad)?;
            Some((part, index, numbers[index]))
        };
        let table = search(".quant_map", &self.table, &beyond_one);
        table.or_else(|| match &self.absmax {
            Absmax::Plain(absmax) => search(".absmax", absmax, &infinite),
            Absmax::Nested(nested) => search(".nested_quant_map", &nested.map[..], &beyond_one).or_else(|| {
                let infinite = |absmax: &f32| !(absmax.abs() + nested.offset.abs()).is_finite();
                search(".nested_absmax", &nested.absmax, &infinite)
            }),
        })
    }

    /// From the number at `start` on.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) {
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let within = (BLOCK - at % BLOCK).min(rest.len());
            let (out, after) = rest.split_at_mut(within);
            let absmax = self.absmax.get(at / BLOCK);
            for (index, out) in (at..).zip(out) {
                let byte = self.codes[index / 2];
                let code = if index % 2 == 0 { byte >> 4 } else { byte & 0xf };
                *out = self.table[usize::from(code)] * absmax;
            }
            (at, rest) = (at + within, after);
        }
    }
}

impl Absmax<'_> {
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::Nested(_))
    }

    /// Where it is quantised itself.
    pub fn nested(&self) -> Option<&NestedAbsmax<'_>> {
        match self {
            Self::Plain(_) => None,
            Self::Nested(nested) => Some(nested),
        }
    }

    /// Of one block.
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(absmax) => absmax[block],
            Self::Nested(nested) => nested.get(block),
        }
    }

    /// Of all blocks.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Plain(absmax) => Cow::Borrowed(absmax),
            Self::Nested(nested) => (0..nested.codes.len()).map(|block| nested.get(block)).collect(),
        }
    }
}

impl NestedAbsmax<'_> {
    fn get(&self, block: usize) -> f32 {
        self.map[usize::from(self.codes[block])] * self.absmax[block / NESTED_BLOCK] + self.offset
    }
}

/// With double quantisation, as checkpoints of this kind usually are.
pub fn quantize(matrix: &StoredMatrix<'_>) -> Nf4Blocks<'static> {
    let plain = quantize_plain(matrix);
    let nested = nest(&plain.absmax.to_f32());
    Nf4Blocks { absmax: Absmax::Nested(nested), ..plain }
}

/// Without it.
pub(crate) fn quantize_plain(matrix: &StoredMatrix<'_>) -> Nf4Blocks<'static> {
    let (codes, absmax) = quantize_blocks(matrix);
    Nf4Blocks { codes: Cow::Owned(codes), absmax: Absmax::Plain(Cow::Owned(absmax)), table: TABLE }
}

/// What `count` numbers take.
pub(crate) fn bytes(count: u64, nested: bool) -> u64 {
    let blocks = count.div_ceil(BLOCK as u64);
    let scales = if nested { blocks + 4 * blocks.div_ceil(NESTED_BLOCK as u64) + 4 * (256 + 1) } else { 4 * blocks };
    count.div_ceil(2) + scales + 4 * 16
}

fn quantize_blocks(matrix: &StoredMatrix<'_>) -> (Vec<u8>, Vec<f32>) {
    let count = matrix.outputs * matrix.inputs;
    let mut codes = vec![0; count.div_ceil(2)];
    let mut absmax = vec![0.0; count.div_ceil(BLOCK)];
    let tasks = codes.par_chunks_mut(TASK / 2).zip(absmax.par_chunks_mut(TASK / BLOCK)).enumerate();
    tasks.for_each_init(
        || vec![0.0; TASK],
        |numbers, (task, (codes, absmax))| {
            let start = task * TASK;
            let numbers = &mut numbers[..TASK.min(count - start)];
            matrix.numbers_to_f32(start, numbers);
            let blocks = numbers.chunks_mut(BLOCK).zip(codes.chunks_mut(BLOCK / 2)).zip(absmax);
            blocks.for_each(|((numbers, codes), absmax)| *absmax = quantize_block(numbers, codes));
        },
    );
    (codes, absmax)
}

/// Scales the numbers in place. An odd one out is followed by a zero.
fn quantize_block(numbers: &mut [f32], packed: &mut [u8]) -> f32 {
    let absmax = scale(numbers, BLOCK);
    let mut block = [0.0; BLOCK];
    block[..numbers.len()].copy_from_slice(numbers);
    for (packed, [high, low]) in packed.iter_mut().zip(codes(&block).as_chunks().0) {
        *packed = (high << 4 | low) as u8;
    }
    absmax
}

/// To [-1, 1], by the largest, which is the answer. bitsandbytes multiplies a whole block by a reciprocal and divides
/// the last one of a matrix where it is shorter; the two differ in their last bits.
fn scale(numbers: &mut [f32], whole: usize) -> f32 {
    let absmax = largest(numbers);
    if numbers.len() == whole {
        let reciprocal = 1.0 / absmax.max(LEAST);
        numbers.iter_mut().for_each(|number| *number = (*number * reciprocal).clamp(-1.0, 1.0));
        return absmax;
    }
    let absmax = absmax.max(LEAST);
    numbers.iter_mut().for_each(|number| *number = (*number / absmax).clamp(-1.0, 1.0));
    absmax
}

/// The nearest entries of the table: as many as there are middles between neighbours below a number. Middle by middle,
/// because many numbers are compared with one at once.
fn codes(numbers: &[f32; BLOCK]) -> [u32; BLOCK] {
    let mut codes = [0; BLOCK];
    for pair in TABLE.windows(2) {
        let middle = (pair[0] + pair[1]) / 2.0;
        codes.iter_mut().zip(numbers).for_each(|(code, number)| *code += u32::from(*number > middle));
    }
    codes
}

/// The offset is the mean, summed in F64: bitsandbytes' own sum depends on the device and its threads.
fn nest(absmax: &[f32]) -> NestedAbsmax<'static> {
    let sum: f64 = absmax.iter().map(|absmax| f64::from(*absmax)).sum();
    nest_around(absmax, (sum / absmax.len().max(1) as f64) as f32)
}

/// bitsandbytes' kernel for CUDA and its portable one take the nearest code, as here; the compiled one for the CPU looks
/// on a coarser grid and takes a neighbour of it once in a thousand.
pub(crate) fn nest_around(absmax: &[f32], offset: f32) -> NestedAbsmax<'static> {
    let map = dynamic_map();
    let middles: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let mut rest: Vec<f32> = absmax.iter().map(|absmax| absmax - offset).collect();
    let outer = rest.chunks_mut(NESTED_BLOCK).map(|block| scale(block, NESTED_BLOCK)).collect();
    let code = |number: &f32| middles.partition_point(|middle| middle < number) as u8;
    NestedAbsmax { codes: rest.iter().map(code).collect(), map, absmax: Cow::Owned(outer), offset }
}

/// bitsandbytes' signed dynamic type of eight bits ("8-Bit Approximations for Parallelism in Deep Learning", Dettmers
/// 2015): seven decades, each cut in twice as many steps as the one below it, their negatives, 0 and 1. Sorted.
pub fn dynamic_map() -> Box<[f32; 256]> {
    let mut map = [0.0; 256];
    let mut next = 0;
    for decade in 0..7 {
        let steps = 1usize << decade;
        let power = 10f64.powi(decade - 6) as f32;
        for step in 0..steps {
            let middle = (boundary(step, steps) + boundary(step + 1, steps)) / 2.0;
            map[next] = power * middle;
            map[next + 1] = -power * middle;
            next += 2;
        }
    }
    map[next + 1] = 1.0;
    map.sort_by(f32::total_cmp);
    Box::new(map)
}

/// From 0.1 to 1 in equal steps, counted from the nearer end and rounded once, as torch's `linspace` does on any
/// processor that multiplies and adds in one.
fn boundary(index: usize, steps: usize) -> f32 {
    let step = (1.0f32 - 0.1) / steps as f32;
    if index < steps.div_ceil(2) {
        step.mul_add(index as f32, 0.1)
    } else {
        (-step).mul_add((steps - index) as f32, 1.0)
    }
}
