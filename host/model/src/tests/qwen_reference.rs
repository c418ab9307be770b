//! Qwen's first series as its formulas are published, over a whole sequence in f64; nothing here is shared with the
//! layers that it is held against.

use std::collections::HashMap;

use rayon::prelude::*;

use super::checkpoint::Checkpoint;

const WIDTH: usize = 32;
const HEADS: usize = 2;
const DIM: usize = WIDTH / HEADS;
const NATIVE: f64 = 2048.0;

/// The checkpoint's numbers by their names.
pub(super) struct Reference(HashMap<String, Vec<f64>>);

impl Reference {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        let widen =
            |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
        Self(checkpoint.tensors().into_iter().map(|(name, (_, _, bytes))| (name, widen(&bytes))).collect())
    }

    /// The logits after each of these positions, in ascending order.
    pub(super) fn logits(&self, tokens: &[u32], alpha: f64, wanted: &[usize]) -> Vec<Vec<f64>> {
        let table = &self.0["transformer.wte.weight"];
        let mut hidden: Vec<Vec<f64>> =
            tokens.iter().map(|token| table[*token as usize * WIDTH..][..WIDTH].to_vec()).collect();
        let everything: Vec<usize> = (0..tokens.len()).collect();
        for (layer, needed) in [(0, everything.as_slice()), (1, wanted)] {
            let name = |part: &str| format!("transformer.h.{layer}.{part}");
            let attended = self.attention(&self.norm(&hidden, &name("ln_1")), alpha, needed, &name("attn"));
            hidden = needed.iter().map(|position| hidden[*position].clone()).collect();
            add(&mut hidden, &attended);
            let gated = self.mlp(&self.norm(&hidden, &name("ln_2")), &name("mlp"));
            add(&mut hidden, &gated);
        }
        self.product(&self.norm(&hidden, "transformer.ln_f"), "lm_head")
    }

    /// Of the positions in `needed`.
    fn attention(&self, x: &[Vec<f64>], alpha: f64, needed: &[usize], name: &str) -> Vec<Vec<f64>> {
        let theta = 10000.0 * alpha.powf(DIM as f64 / (DIM as f64 - 2.0));
        let mut qkv = self.product(x, &format!("{name}.c_attn"));
        let bias = &self.0[&format!("{name}.c_attn.bias")];
        for (position, row) in qkv.iter_mut().enumerate() {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            row[..2 * WIDTH].chunks_mut(DIM).for_each(|head| turn(head, position as f64, theta));
            let count = (position + 1) as f64;
            if count > NATIVE {
                row[..WIDTH].iter_mut().for_each(|value| *value *= count.ln() / NATIVE.ln());
            }
        }
        let attended: Vec<_> = needed.par_iter().map(|position| attend(&qkv[..=*position])).collect();
        self.product(&attended, &format!("{name}.c_proj"))
    }

    fn mlp(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let (mut first, second) = (self.product(x, &format!("{name}.w1")), self.product(x, &format!("{name}.w2")));
        for (first, second) in first.iter_mut().flatten().zip(second.iter().flatten()) {
            *first *= second / (1.0 + (-second).exp());
        }
        self.product(&first, &format!("{name}.c_proj"))
    }

    fn norm(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let weight = &self.0[&format!("{name}.weight")];
        let row = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(weight).map(|(x, weight)| x / (mean + 1e-6).sqrt() * weight).collect()
        };
        x.iter().map(row).collect()
    }

    fn product(&self, x: &[Vec<f64>], name: &str) -> Vec<Vec<f64>> {
        let weight = &self.0[&format!("{name}.weight")];
        x.par_iter().map(|x| weight.chunks(x.len()).map(|row| dot(row, x)).collect()).collect()
    }
}

/// The last row's queries over the keys and values of all rows.
fn attend(rows: &[Vec<f64>]) -> Vec<f64> {
    let mut out = vec![0.0; WIDTH];
    for (head, out) in out.chunks_mut(DIM).enumerate() {
        let part = |row: usize, which: usize| &rows[row][which * WIDTH + head * DIM..][..DIM];
        let query = part(rows.len() - 1, 0);
        let scores: Vec<f64> = (0..rows.len()).map(|row| dot(query, part(row, 1)) / (DIM as f64).sqrt()).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (row, weight) in weights.iter().enumerate() {
            out.iter_mut().zip(part(row, 2)).for_each(|(out, value)| *out += weight / total * value);
        }
    }
    out
}

/// max(2^⌈log₂(L / 2048) + 1⌉ − 1, 1) for a prompt of L tokens.
pub(super) fn alpha(prompt: usize) -> f64 {
    (((prompt as f64 / NATIVE).log2() + 1.0).ceil().exp2() - 1.0).max(1.0)
}

fn turn(head: &mut [f64], position: f64, theta: f64) {
    for pair in 0..DIM / 2 {
        let angle = position / theta.powf(2.0 * pair as f64 / DIM as f64);
        let (a, b) = (head[pair], head[pair + DIM / 2]);
        head[pair] = a * angle.cos() - b * angle.sin();
        head[pair + DIM / 2] = b * angle.cos() + a * angle.sin();
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(hidden: &mut [Vec<f64>], branch: &[Vec<f64>]) {
    hidden.iter_mut().flatten().zip(branch.iter().flatten()).for_each(|(hidden, branch)| *hidden += branch);
}
