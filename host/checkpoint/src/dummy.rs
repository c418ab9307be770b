//! Random weights of a configuration's true shapes, where speed is measured and answers do not matter.

use rayon::prelude::*;
use sluice_core::philox::philox;

use crate::error::TensorProblem;
use crate::float::narrow;
use crate::matrix::TASK;
use crate::{Dtype, Form, MatrixData};

/// Numbers of one tensor: a configuration that asks for more is damaged, and there is no file to contradict it.
const LIMIT: usize = 1 << 33;

/// Numbers of one draw.
const DRAW: usize = 4;

/// A norm's weights lie around 1. A matrix is uniform with variance 1 / inputs, which keeps activations near 1.
/// The values depend on the seed, the tensor's name and the index, on nothing else.
pub fn tensor(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let generator = Generator::new(seed, name, shape);
    let mut numbers = vec![0.0; shape.iter().product()];
    let tasks = numbers.par_chunks_mut(TASK).enumerate();
    tasks.for_each(|(task, numbers)| generator.fill(task * TASK, numbers));
    numbers
}

/// The same values, rounded to a plain form as they are drawn: a table of gigabytes is never held in F32.
pub(crate) fn data(seed: u64, name: &str, shape: &[usize], dtype: Dtype) -> Result<MatrixData<'static>, TensorProblem> {
    let generator = Generator::new(seed, name, shape);
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    let count = count.filter(|count| *count <= LIMIT).ok_or(TensorProblem::TooLarge { limit: LIMIT })?;
    // Asked for once to hear a refusal, which `vec!` would not survive. The zeros that it asks for then are free.
    let bytes = form(dtype).bytes(1, count);
    let room = usize::try_from(bytes).ok().and_then(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).ok());
    room.ok_or(TensorProblem::NoMemory { bytes })?;
    Ok(narrow(count, dtype, |start, numbers| generator.fill(start, numbers))
        .unwrap_or_else(|_| unreachable!("numbers below 2 fit every form")))
}

/// What they are held as.
pub(crate) fn form(dtype: Dtype) -> Form {
    match dtype {
        Dtype::Auto | Dtype::F32 => Form::F32,
        Dtype::F16 => Form::F16,
        Dtype::Bf16 => Form::Bf16,
    }
}

struct Generator {
    key: u64,
    middle: f32,
    spread: f32,
}

impl Generator {
    fn new(seed: u64, name: &str, shape: &[usize]) -> Self {
        let inputs = shape.last().copied().unwrap_or(1);
        let (middle, spread) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, (3.0 / inputs as f32).sqrt()) };
        Self { key: seed ^ fnv(name), middle, spread }
    }

    /// From `start` on, which is the first of a draw.
    fn fill(&self, start: usize, numbers: &mut [f32]) {
        let unit = |word: u32| (word >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let first = (start / DRAW) as u128;
        for (counter, numbers) in (first..).zip(numbers.chunks_mut(DRAW)) {
            for (number, word) in numbers.iter_mut().zip(philox(self.key, counter)) {
                *number = self.middle + self.spread * unit(word);
            }
        }
    }
}

/// FNV-1a: tells names apart, promises nothing else.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
