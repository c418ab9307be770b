//! The gated feed-forward block: down(silu(gate(x)) · up(x)).

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use sluice_checkpoint::{LoadError, Weights};

use super::math::silu;
use super::{Linear, PARALLEL_WORK, linear};
use crate::blueprint::LayerTensors;
use crate::model::Dimensions;
use crate::scratch::Scratch;

pub(crate) struct Mlp {
    gate_up: Linear,
    down: Linear,
    width: usize,
}

impl Mlp {
    pub(crate) fn load(weights: &Weights, tensors: &LayerTensors, size: &Dimensions) -> Result<Self, LoadError> {
        let (gate_up, down) = (linear(weights, &tensors.gate_up)?, linear(weights, &tensors.down)?);
        Ok(Self { gate_up, down, width: size.ffn })
    }

    /// From `normed` to `branch`.
    pub(crate) fn forward(&self, rows: usize, scratch: &mut Scratch) {
        let Scratch { normed, gate_up, gated, branch, groups, .. } = scratch;
        let (gate_up, gated) = (gate_up.rows_mut(rows), gated.rows_mut(rows));
        self.gate_up.forward(normed.rows(rows), gate_up, groups);
        self.gate(gate_up, gated);
        self.down.forward(gated, branch.rows_mut(rows), groups);
    }

    fn gate(&self, gate_up: &[f32], gated: &mut [f32]) {
        let row = |(gated, gate_up): (&mut [f32], &[f32])| {
            let (gate, up) = gate_up.split_at(self.width);
            Arch::new().dispatch(Gate { gate, up, out: gated });
        };
        if gated.len() < PARALLEL_WORK {
            gated.chunks_exact_mut(self.width).zip(gate_up.chunks_exact(2 * self.width)).for_each(row);
        } else {
            gated.par_chunks_exact_mut(self.width).zip(gate_up.par_chunks_exact(2 * self.width)).for_each(row);
        }
    }
}

struct Gate<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = silu(*gate) * up;
        }
    }
}
