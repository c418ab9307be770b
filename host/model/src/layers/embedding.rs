//! The vectors of tokens, and the way back from a vector to a score for each token.

use std::sync::Arc;

use sluice_checkpoint::{LoadError, Weights};

use super::Linear;
use crate::blueprint::Projection;

/// The table of a model whose head is tied to it is held once, in the head's layout.
pub(crate) struct Embedding(Arc<Linear>);

impl Embedding {
    pub(crate) fn load(weights: &Weights, table: &Projection) -> Result<Self, LoadError> {
        Ok(Self(Arc::new(super::table(weights, table)?)))
    }

    pub(crate) fn tied_head(&self) -> Arc<Linear> {
        self.0.clone()
    }

    /// One row of `hidden` per token.
    pub(crate) fn forward(&self, tokens: &[u32], hidden: &mut [f32], width: usize) {
        for (token, row) in tokens.iter().zip(hidden.chunks_exact_mut(width)) {
            self.0.weight_row(*token as usize, row);
        }
    }
}
