//! A matrix product whose every element is one sum in the order of its inputs, whatever the batch.
//!
//! candle's product takes another kernel for one row than for several: of the 512 outputs of a product over 256 inputs,
//! 465 differ in their last bits between a row alone and the same row beside another. That is why this one exists.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::PARALLEL_WORK;
use sluice_checkpoint::LoadError;
use sluice_checkpoint::Weights;

/// Outputs that lie side by side: four AVX-512 registers, eight of AVX2.
const PANEL: usize = 64;

/// What one input is multiplied by, for the outputs of a panel. Aligned to lines of the processor's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Column([f32; PANEL]);

/// y = x · Wᵀ + b. The weight is kept in panels of [`PANEL`] outputs, one column per input, the last panel filled up
/// with zeros: a panel is read from front to back, and each lane sums one output.
pub(crate) struct Linear {
    packed: Vec<Column>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

/// One matrix of a checkpoint: `{name}.weight` of shape `[outputs, inputs]`.
pub(crate) struct Part<'a> {
    pub(crate) name: &'a str,
    pub(crate) outputs: usize,
}

impl Linear {
    /// `parts` share their input; they are stacked, so that they are one product.
    pub(crate) fn load(weights: &Weights, parts: &[Part<'_>], inputs: usize, bias: bool) -> Result<Self, LoadError> {
        let mut rows = Vec::new();
        let mut biases = Vec::new();
        for part in parts {
            rows.extend(weights.table(&format!("{}.weight", part.name), part.outputs, inputs)?.to_f32());
            if bias {
                biases.extend(weights.vector(&format!("{}.bias", part.name), part.outputs)?);
            }
        }
        let outputs = parts.iter().map(|part| part.outputs).sum();
        Ok(Self { packed: pack(&rows, inputs), bias: bias.then_some(biases), inputs, outputs })
    }

    /// The length of `panels` that so many rows need.
    pub(crate) fn scratch(outputs: usize, rows: usize) -> usize {
        outputs.next_multiple_of(PANEL) * rows
    }

    /// `x` is `[rows, inputs]`, `y` is `[rows, outputs]`; `panels` is scratch, see [`Self::scratch`].
    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32], panels: &mut [f32]) {
        let rows = x.len() / self.inputs;
        if rows == 0 {
            return;
        }
        let (stride, weights) = (rows * PANEL, self.inputs);
        let count = self.outputs.div_ceil(PANEL);
        let panels = &mut panels[..count * stride];
        let compute = |(out, weight): (&mut [f32], &[Column])| {
            Arch::new().dispatch(Panel { x, inputs: self.inputs, weight, out });
        };
        let per_task = (PARALLEL_WORK / (stride * weights)).max(1);
        if per_task >= count {
            panels.chunks_exact_mut(stride).zip(self.packed.chunks_exact(weights)).for_each(compute);
        } else {
            let tasks = panels.par_chunks_exact_mut(stride).zip(self.packed.par_chunks_exact(weights));
            tasks.with_min_len(per_task).for_each(compute);
        }
        self.unpack(panels, rows, y);
    }

    /// One row of the weight, unpacked: an embedding that is tied to this product.
    pub(crate) fn weight_row(&self, output: usize, row: &mut [f32]) {
        let panel = &self.packed[output / PANEL * self.inputs..];
        for (value, Column(column)) in row.iter_mut().zip(panel) {
            *value = column[output % PANEL];
        }
    }

    fn unpack(&self, panels: &[f32], rows: usize, y: &mut [f32]) {
        for (index, panel) in panels.chunks_exact(rows * PANEL).enumerate() {
            let start = index * PANEL;
            let width = PANEL.min(self.outputs - start);
            for (y, values) in y.chunks_exact_mut(self.outputs).zip(panel.chunks_exact(PANEL)) {
                y[start..start + width].copy_from_slice(&values[..width]);
            }
        }
        if let Some(bias) = &self.bias {
            for y in y.chunks_exact_mut(self.outputs) {
                y.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

fn pack(rows: &[f32], inputs: usize) -> Vec<Column> {
    let outputs = rows.len() / inputs;
    let mut packed = vec![Column([0.0; PANEL]); outputs.div_ceil(PANEL) * inputs];
    for (output, row) in rows.chunks_exact(inputs).enumerate() {
        let panel = &mut packed[output / PANEL * inputs..];
        for (Column(column), value) in panel.iter_mut().zip(row) {
            column[output % PANEL] = *value;
        }
    }
    packed
}

/// All rows of `x` times one panel.
struct Panel<'a> {
    x: &'a [f32],
    inputs: usize,
    weight: &'a [Column],
    out: &'a mut [f32],
}

impl WithSimd for Panel<'_> {
    type Output = ();

    /// Tiles fill the registers there are: sixteen or eight sums, and for a lone row enough of them to hide the
    /// latency of an addition. The shape of a tile changes no sum.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::F32_LANES == 16 {
            self.tiles::<S, 4, 4>(simd);
        } else if S::F32_LANES == 8 {
            self.tiles::<S, 2, 8>(simd);
        } else {
            self.tiles::<S, 2, 4>(simd);
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const WIDE: usize, const ALONE: usize>(&mut self, simd: S) {
        let rows = self.x.len() / self.inputs;
        let fours = rows / 4 * 4;
        for row in (0..fours).step_by(4) {
            self.columns::<S, WIDE, 4>(simd, row);
        }
        for row in fours..rows {
            self.columns::<S, ALONE, 1>(simd, row);
        }
    }

    #[inline(always)]
    fn columns<S: Simd, const VECTORS: usize, const ROWS: usize>(&mut self, simd: S, row: usize) {
        for column in (0..PANEL).step_by(VECTORS * S::F32_LANES) {
            self.tile::<S, VECTORS, ROWS>(simd, row, column);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const ROWS: usize>(&mut self, simd: S, row: usize, column: usize) {
        let width = VECTORS * S::F32_LANES;
        let mut x: [&[f32]; ROWS] = [&[]; ROWS];
        for (index, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + index) * self.inputs..][..self.inputs];
        }
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (input, Column(weight)) in self.weight.iter().enumerate() {
            let (weight, _) = S::as_simd_f32s(&weight[column..column + width]);
            for (sums, x) in sums.iter_mut().zip(&x) {
                let value = simd.splat_f32s(x[input]);
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = simd.mul_add_f32s(value, *weight, *sum);
                }
            }
        }
        for (index, sums) in sums.iter().enumerate() {
            let (out, _) = S::as_mut_simd_f32s(&mut self.out[(row + index) * PANEL + column..][..width]);
            out.copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Silent};

    use super::*;

    fn dummy(seed: u64) -> Weights {
        let nowhere = ModelFiles::folder("nowhere");
        let options = LoadOptions { format: LoadFormat::Dummy { seed }, ..LoadOptions::default() };
        Weights::open(&nowhere, options, Box::new(Silent)).unwrap()
    }

    fn linear(seed: u64, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let part = Part { name: "part", outputs };
        Linear::load(&dummy(seed), &[part], inputs, bias).unwrap()
    }

    fn forward(linear: &Linear, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / linear.inputs;
        let mut panels = vec![f32::NAN; Linear::scratch(linear.outputs, rows)];
        let mut y = vec![f32::NAN; rows * linear.outputs];
        linear.forward(x, &mut y, &mut panels);
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Also with enough rows to be spread over threads.
        #[test]
        fn a_row_is_the_same_in_any_company(
            inputs in 1usize..100, outputs in 1usize..200, rows in 1usize..40, seed: u64, bias: bool,
        ) {
            let linear = linear(seed, inputs, outputs, bias);
            let x = sluice_checkpoint::dummy::tensor(seed, "x", &[rows, inputs]);
            let together = forward(&linear, &x);
            for (x, y) in x.chunks(inputs).zip(together.chunks(outputs)) {
                prop_assert_eq!(forward(&linear, x), y);
            }
        }

        #[test]
        fn it_is_a_matrix_product(inputs in 1usize..100, outputs in 1usize..200, seed: u64) {
            let linear = linear(seed, inputs, outputs, true);
            let weight = sluice_checkpoint::dummy::tensor(seed, "part.weight", &[outputs, inputs]);
            let bias = sluice_checkpoint::dummy::tensor(seed, "part.bias", &[outputs]);
            let x = sluice_checkpoint::dummy::tensor(seed, "x", &[1, inputs]);
            let mut unpacked = vec![0.0; inputs];
            for (output, y) in forward(&linear, &x).into_iter().enumerate() {
                let row = &weight[output * inputs..][..inputs];
                let exact: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                prop_assert!((f64::from(y) - exact - f64::from(bias[output])).abs() < 1e-4);
                linear.weight_row(output, &mut unpacked);
                prop_assert_eq!(&unpacked, row);
            }
        }
    }
}
