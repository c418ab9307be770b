//! The activations of a step, allocated once for the largest step there can be.

use crate::memory::reserve;
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
    /// One row per token whose logits are computed at a time.
    pub(crate) logits: Rows,
    /// Of [`Linear::forward`].
    pub(crate) groups: Vec<Group>,
}

/// A row-major matrix of which the first rows are in use.
pub(crate) struct Rows {
    data: Vec<f32>,
    width: usize,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the activations of a step of {tokens} tokens, {rows} of them sampled, do not fit in memory: lower \
     --max-num-batched-tokens or --max-num-seqs"
)]
pub struct StepTooLarge {
    pub tokens: u32,
    pub rows: u32,
}

impl Scratch {
    pub(crate) fn new(size: &Dimensions, tokens: u32, sampled: u32) -> Result<Self, StepTooLarge> {
        Self::reserve(size, tokens as usize, sampled as usize).ok_or(StepTooLarge { tokens, rows: sampled })
    }

    fn reserve(size: &Dimensions, tokens: usize, sampled: usize) -> Option<Self> {
        let rows = |width| Rows::reserve(tokens, width);
        Some(Self {
            hidden: rows(size.hidden)?,
            normed: rows(size.hidden)?,
            branch: rows(size.hidden)?,
            qkv: rows(size.qkv_width())?,
            attended: rows(size.heads * size.head_dim)?,
            gate_up: rows(2 * size.ffn)?,
            gated: rows(size.ffn)?,
            angles: rows(size.head_dim)?,
            logits: Rows::reserve(sampled, size.vocab)?,
            groups: reserve(Group::count(widest(size)).checked_mul(tokens.max(sampled))?)?,
        })
    }

    /// What [`Self::new`] reserves, at most 2^64 - 1.
    pub(crate) fn bytes(size: &Dimensions, tokens: u32, sampled: u32) -> u64 {
        let number = |count: usize| (count as u64).saturating_mul(size_of::<f32>() as u64);
        let widths = 3 * size.hidden + size.qkv_width() + size.heads * size.head_dim + 3 * size.ffn + size.head_dim;
        let groups = (Group::count(widest(size)) * size_of::<Group>()) as u64;
        let row = u64::from(tokens).saturating_mul(number(widths));
        let logits = u64::from(sampled).saturating_mul(number(size.vocab));
        row.saturating_add(logits).saturating_add(u64::from(tokens.max(sampled)).saturating_mul(groups))
    }

    /// The residual stream takes in what the last block made of it.
    pub(crate) fn add_branch(&mut self, rows: usize) {
        let branch = self.branch.rows(rows);
        self.hidden.rows_mut(rows).iter_mut().zip(branch).for_each(|(hidden, branch)| *hidden += branch);
    }

    /// Copies these rows of the residual stream to where no branch is needed any more.
    pub(crate) fn gather(&mut self, tokens: &[usize]) {
        let width = self.hidden.width;
        for (row, token) in self.branch.rows_mut(tokens.len()).chunks_exact_mut(width).zip(tokens) {
            row.copy_from_slice(&self.hidden.data[token * width..][..width]);
        }
    }

    /// One row per token whose logits were computed last, in their order.
    pub(crate) fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.data.chunks_exact(self.logits.width)
    }
}

impl Rows {
    fn reserve(count: usize, width: usize) -> Option<Self> {
        Some(Self { data: reserve(count.checked_mul(width)?)?, width })
    }

    pub(crate) fn rows(&self, count: usize) -> &[f32] {
        &self.data[..count * self.width]
    }

    pub(crate) fn rows_mut(&mut self, count: usize) -> &mut [f32] {
        &mut self.data[..count * self.width]
    }
}

/// Of what any linear layer reads.
fn widest(size: &Dimensions) -> usize {
    size.hidden.max(size.heads * size.head_dim).max(size.ffn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Dimensions =
        Dimensions { vocab: 100, hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96 };

    #[test]
    fn as_much_is_reserved_as_is_said() {
        let scratch = Scratch::new(&SIZE, 7, 3).unwrap();
        let Scratch { hidden, normed, branch, qkv, attended, gate_up, gated, angles, logits, groups } = &scratch;
        let rows = [hidden, normed, branch, qkv, attended, gate_up, gated, angles, logits];
        let numbers: usize = rows.iter().map(|rows| rows.data.len()).sum();
        let bytes = numbers * size_of::<f32>() + groups.len() * size_of::<Group>();
        assert_eq!(Scratch::bytes(&SIZE, 7, 3), bytes as u64);
    }

    #[test]
    fn a_step_beyond_memory_is_refused() {
        let huge = Dimensions { vocab: 1 << 24, hidden: 1 << 24, ffn: 1 << 24, ..SIZE };
        for (tokens, rows) in [(u32::MAX, 1), (1, u32::MAX)] {
            assert_eq!(Scratch::new(&huge, tokens, rows).err(), Some(StepTooLarge { tokens, rows }));
            assert!(Scratch::bytes(&huge, tokens, rows) > 1 << 57);
        }
    }
}
