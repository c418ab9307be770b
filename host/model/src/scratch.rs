//! The activations of a step, allocated once for the largest step there can be.

use crate::layers::Linear;
use crate::model::Dimensions;
use crate::product::Group;

/// Each name is an activation; a step uses the first rows of each.
pub struct Scratch {
    /// The residual stream.
    pub(crate) hidden: Rows,
    /// What a block reads.
    pub(crate) normed: Rows,
    /// What a block adds to the residual stream.
    pub(crate) branch: Rows,
    pub(crate) qkv: Rows,
    pub(crate) attended: Rows,
    pub(crate) gate_up: Rows,
    pub(crate) gated: Rows,
    /// Cosines and sines of each token's position.
    pub(crate) angles: Rows,
    /// One row per token that is sampled from.
    pub(crate) logits: Rows,
    /// Of [`Linear::forward`].
    pub(crate) groups: Vec<Group>,
}

/// A row-major matrix of which the first rows are in use.
pub(crate) struct Rows {
    data: Vec<f32>,
    width: usize,
}

impl Scratch {
    pub(crate) fn new(size: &Dimensions, tokens: usize, sampled: usize) -> Self {
        let rows = |width| Rows { data: vec![0.0; tokens * width], width };
        let widest = size.hidden.max(size.heads * size.head_dim).max(size.ffn);
        Self {
            hidden: rows(size.hidden),
            normed: rows(size.hidden),
            branch: rows(size.hidden),
            qkv: rows(size.qkv_width()),
            attended: rows(size.heads * size.head_dim),
            gate_up: rows(2 * size.ffn),
            gated: rows(size.ffn),
            angles: rows(size.head_dim),
            logits: Rows { data: vec![0.0; sampled * size.vocab], width: size.vocab },
            groups: Linear::scratch(widest, tokens.max(sampled)),
        }
    }

    /// The residual stream takes in what the last block made of it.
    pub(crate) fn add_branch(&mut self, rows: usize) {
        let branch = self.branch.rows(rows);
        self.hidden.rows_mut(rows).iter_mut().zip(branch).for_each(|(hidden, branch)| *hidden += branch);
    }

    /// Moves the rows of the residual stream that are still needed to its front; `tokens` ascend. Returns how many.
    pub(crate) fn keep(&mut self, tokens: &[usize]) -> usize {
        let width = self.hidden.width;
        for (row, token) in tokens.iter().enumerate() {
            self.hidden.data.copy_within(token * width..(token + 1) * width, row * width);
        }
        tokens.len()
    }

    /// One row per sampled token, in the step's order.
    pub(crate) fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.data.chunks_exact(self.logits.width)
    }
}

impl Rows {
    pub(crate) fn rows(&self, count: usize) -> &[f32] {
        &self.data[..count * self.width]
    }

    pub(crate) fn rows_mut(&mut self, count: usize) -> &mut [f32] {
        &mut self.data[..count * self.width]
    }
}
