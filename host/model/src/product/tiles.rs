//! The product of numbers: tiles of rows and outputs whose sums fill the registers that there are.

use pulp::{Simd, WithSimd};

use super::panels::PANEL;

/// What one input is multiplied by, for the outputs of a panel. Aligned to lines of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Column<E>(pub(crate) [E; PANEL]);

/// A number that a register of `S` can be filled with.
pub(crate) trait Lanes<S: Simd>: Copy {
    /// `values` are as many as the lanes.
    fn widen(simd: S, values: &[Self]) -> S::f32s;
}

impl<S: Simd> Lanes<S> for f32 {
    #[inline(always)]
    fn widen(_: S, values: &[f32]) -> S::f32s {
        S::as_simd_f32s(values).0[0]
    }
}

/// Adds to `out` the products of some inputs of each row, which lie `stride` apart, with a panel's weights.
pub(crate) struct Tiles<'a, 'o, E> {
    /// From the first row's first input on.
    pub(crate) x: &'a [f32],
    pub(crate) stride: usize,
    /// One column per input.
    pub(crate) weights: &'a [Column<E>],
    pub(crate) out: &'a mut [&'o mut [f32]],
}

impl WithSimd for Tiles<'_, '_, f32> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.run(simd);
    }
}

impl<E> Tiles<'_, '_, E> {
    /// The shape of a tile changes no sum.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(mut self, simd: S)
    where
        E: Lanes<S>,
    {
        let rows = self.out.len();
        let tiles = rows.div_ceil(4);
        let mut first = 0;
        for tile in 0..tiles {
            let end = rows * (tile + 1) / tiles;
            match end - first {
                1 => self.panel::<S, 4, 1>(simd, first),
                2 => self.panel::<S, 4, 2>(simd, first),
                3 => self.panel::<S, 4, 3>(simd, first),
                _ => self.panel::<S, 4, 4>(simd, first),
            }
            first = end;
        }
    }

    #[inline(always)]
    fn panel<S: Simd, const VECTORS: usize, const ROWS: usize>(&mut self, simd: S, row: usize)
    where
        E: Lanes<S>,
    {
        for column in (0..PANEL).step_by(VECTORS * S::F32_LANES) {
            self.tile::<S, VECTORS, ROWS>(simd, row, column);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const ROWS: usize>(&mut self, simd: S, row: usize, column: usize)
    where
        E: Lanes<S>,
    {
        /// Inputs between two looks at the bounds of the rows.
        const STEP: usize = 16;
        assert!(column + VECTORS * S::F32_LANES <= PANEL);
        let mut x: [&[f32]; ROWS] = [&[]; ROWS];
        for (index, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + index) * self.stride..][..self.weights.len()];
        }
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (sums, out) in sums.iter_mut().zip(&self.out[row..]) {
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = load(simd, out, column + vector * S::F32_LANES);
            }
        }
        // Sums go in and come out by value: written through a reference they would be stored after every input.
        let (steps, rest) = self.weights.as_chunks::<STEP>();
        let starts = x.map(|x| &x.as_chunks::<STEP>().0[..steps.len()]);
        for (index, weights) in steps.iter().enumerate() {
            let x = starts.map(|x| &x[index]);
            for (input, weights) in weights.iter().enumerate() {
                sums = multiply(simd, weights, column, x.map(|x| x[input]), sums);
            }
        }
        let ends = x.map(|x| &x[steps.len() * STEP..][..rest.len()]);
        for (index, weights) in rest.iter().enumerate() {
            sums = multiply(simd, weights, column, ends.map(|x| x[index]), sums);
        }
        for (sums, out) in sums.iter().zip(&mut self.out[row..]) {
            for (vector, sum) in sums.iter().enumerate() {
                store(simd, out, column + vector * S::F32_LANES, *sum);
            }
        }
    }
}

#[inline(always)]
fn multiply<S: Simd, E: Lanes<S>, const VECTORS: usize, const ROWS: usize>(
    simd: S,
    weights: &Column<E>,
    column: usize,
    x: [f32; ROWS],
    mut sums: [[S::f32s; VECTORS]; ROWS],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut vectors = [simd.splat_f32s(0.0); VECTORS];
    for (index, vector) in vectors.iter_mut().enumerate() {
        *vector = E::widen(simd, &weights.0[column + index * S::F32_LANES..][..S::F32_LANES]);
    }
    for (sums, x) in sums.iter_mut().zip(x) {
        let x = simd.splat_f32s(x);
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            *sum = simd.mul_add_f32s(x, vector, *sum);
        }
    }
    sums
}

/// A register of sums from `start` on; zeros where a panel's last outputs are missing.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, out: &[f32], start: usize) -> S::f32s {
    match out.get(start..start + S::F32_LANES) {
        Some(whole) => S::as_simd_f32s(whole).0[0],
        None => simd.partial_load_f32s(&out[start.min(out.len())..]),
    }
}

#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, out: &mut [f32], start: usize, sums: S::f32s) {
    let end = out.len();
    match out.get_mut(start..start + S::F32_LANES) {
        Some(whole) => S::as_mut_simd_f32s(whole).0[0] = sums,
        None => simd.partial_store_f32s(&mut out[start.min(end)..], sums),
    }
}
