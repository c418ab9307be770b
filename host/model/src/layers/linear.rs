//! A linear layer: matrices that share their input, multiplied as one, and a bias.

use rayon::prelude::*;

use sluice_checkpoint::StoredMatrix;

use super::PARALLEL_WORK;
use crate::product::{Group, Instructions, Matrix, PANEL, Quantize, Rows};

/// y = x · Wᵀ + b, where W is the parts' outputs one after another.
pub struct Linear {
    parts: Vec<Matrix>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

/// A panel of the parts, and where in a row of `y` its outputs stand.
struct Panel<'a> {
    part: &'a Matrix,
    index: usize,
    start: usize,
    width: usize,
}

impl Linear {
    /// `parts` have `inputs` each; `bias` has a number for each output of all of them.
    pub(crate) fn new(parts: Vec<Matrix>, bias: Option<Vec<f32>>, inputs: usize) -> Self {
        let outputs = parts.iter().map(Matrix::outputs).sum();
        Self { parts, bias, inputs, outputs }
    }

    /// One matrix, for this processor.
    pub fn pack(stored: &StoredMatrix<'_>) -> Self {
        Self::new(vec![Matrix::pack(stored, Instructions::detect())], None, stored.inputs)
    }

    /// What so many rows need to be multiplied, at most.
    pub fn scratch(inputs: usize, rows: usize) -> Vec<Group> {
        vec![Group::default(); Group::count(inputs) * rows]
    }

    /// `x` is `[rows, inputs]`, `y` is `[rows, outputs]`; `groups` is scratch, see [`Self::scratch`].
    pub fn forward(&self, x: &[f32], y: &mut [f32], groups: &mut [Group]) {
        let count = x.len() / self.inputs;
        if count == 0 {
            return;
        }
        let rows = Rows { values: x, groups: self.quantize(x, groups), inputs: self.inputs };
        let panels: Vec<Panel<'_>> = self.panels().collect();
        let mut out = columns(y, self.outputs, panels.iter().map(|panel| panel.width));
        let compute = |(panel, out): (&Panel<'_>, &mut [&mut [f32]])| self.compute(panel, &rows, out);
        let per_task = (PARALLEL_WORK / (PANEL * self.inputs * count)).max(1);
        if per_task >= panels.len() {
            panels.iter().zip(out.chunks_exact_mut(count)).for_each(compute);
        } else {
            let tasks = panels.par_iter().zip(out.par_chunks_exact_mut(count));
            tasks.with_min_len(per_task).for_each(compute);
        }
    }

    /// One row of the weight, widened: an embedding that is tied to this product.
    pub(crate) fn weight_row(&self, output: usize, row: &mut [f32]) {
        let mut output = output;
        for part in &self.parts {
            if output < part.outputs() {
                return part.weights(output, row);
            }
            output -= part.outputs();
        }
    }

    fn quantize<'a>(&self, x: &[f32], groups: &'a mut [Group]) -> &'a [Group] {
        if !self.parts.iter().any(Matrix::wants_groups) {
            return &[];
        }
        let groups = &mut groups[..Group::count(x.len())];
        if x.len() < PARALLEL_WORK {
            Quantize { x, groups }.run();
        } else {
            let rows = x.par_chunks(self.inputs).zip(groups.par_chunks_mut(Group::count(self.inputs)));
            rows.for_each(|(x, groups)| Quantize { x, groups }.run());
        }
        groups
    }

    fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let starts = self.parts.iter().scan(0, |next, part| {
            let start = *next;
            *next += part.outputs();
            Some((part, start))
        });
        starts.flat_map(|(part, start)| {
            (0..part.panels()).map(move |index| {
                let width = PANEL.min(part.outputs() - index * PANEL);
                Panel { part, index, start: start + index * PANEL, width }
            })
        })
    }

    fn compute(&self, panel: &Panel<'_>, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        for out in out.iter_mut() {
            match &self.bias {
                Some(bias) => out.copy_from_slice(&bias[panel.start..][..panel.width]),
                None => out.fill(0.0),
            }
        }
        panel.part.add(panel.index, rows, out);
    }
}

/// Cuts the rows of `y` into columns of these widths: the rows' slices of the first, then of the second, and so on.
fn columns(y: &mut [f32], outputs: usize, widths: impl ExactSizeIterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut rows: Vec<&mut [f32]> = y.chunks_exact_mut(outputs).collect();
    let mut columns = Vec::with_capacity(rows.len() * widths.len());
    for width in widths {
        for row in &mut rows {
            let (column, rest) = std::mem::take(row).split_at_mut(width);
            columns.push(column);
            *row = rest;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_checkpoint::{MatrixData, StoredMatrix, dummy, nf4};

    use super::*;

    /// Weights in F32, the last part in four bits: what a checkpoint mixes is one product here.
    fn linear(seed: u64, inputs: usize, outputs: &[usize], bias: bool) -> (Linear, Vec<f32>) {
        let mut weights = Vec::new();
        let parts = outputs.iter().enumerate().map(|(index, outputs)| {
            let numbers = dummy::tensor(seed, &index.to_string(), &[*outputs, inputs]);
            let data = MatrixData::F32(numbers.into_iter().flat_map(f32::to_le_bytes).collect());
            let mut stored = StoredMatrix { outputs: *outputs, inputs, data };
            if index == 2 {
                stored.data = MatrixData::Nf4(nf4::quantize(&stored));
            }
            weights.extend(stored.to_f32());
            Matrix::pack(&stored, Instructions::detect())
        });
        let parts = parts.collect();
        let bias = bias.then(|| dummy::tensor(seed, "bias", &[outputs.iter().sum()]));
        (Linear::new(parts, bias, inputs), weights)
    }

    fn forward(linear: &Linear, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / linear.inputs;
        let poison = Group { scale: f32::NAN, ..Group::default() };
        let mut groups = Linear::scratch(linear.inputs, rows);
        groups.fill(poison);
        let mut y = vec![f32::NAN; rows * linear.outputs];
        linear.forward(x, &mut y, &mut groups);
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Also with enough rows to be spread over threads.
        #[test]
        fn it_is_a_matrix_product_and_a_row_is_the_same_in_any_company(
            inputs in 1usize..100, outputs in prop::array::uniform3(1usize..150), rows in 1usize..40, seed: u64,
            bias: bool,
        ) {
            let (linear, weights) = linear(seed, inputs, &outputs, bias);
            let x = dummy::tensor(seed, "x", &[rows, inputs]);
            let together = forward(&linear, &x);
            for (x, y) in x.chunks(inputs).zip(together.chunks(linear.outputs)) {
                prop_assert_eq!(&forward(&linear, x), y);
                for (output, (y, weights)) in y.iter().zip(weights.chunks(inputs)).enumerate() {
                    let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    let bias = linear.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]));
                    prop_assert!((f64::from(*y) - exact - bias).abs() < 1e-4);
                }
            }
            let mut row = vec![f32::NAN; inputs];
            for (output, weights) in weights.chunks(inputs).enumerate() {
                linear.weight_row(output, &mut row);
                prop_assert_eq!(&row, weights);
            }
        }
    }
}
