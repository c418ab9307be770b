//! The memory that an executor takes at its start: how much, all of it at once, and an error where there is none.

use crate::kv::{KvCache, KvTooLarge};
use crate::model::Dimensions;
use crate::scratch::{Scratch, StepTooLarge};
use crate::step::StepLimits;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoMemory {
    #[error(transparent)]
    Kv(#[from] KvTooLarge),
    #[error(transparent)]
    Step(#[from] StepTooLarge),
}

/// What an executor of these limits reserves, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExecutorBytes {
    pub kv: u64,
    /// Grows with the tokens and the rows of a step.
    pub activations: u64,
}

impl ExecutorBytes {
    /// Saturating: limits are typed by people.
    pub fn of(size: &Dimensions, limits: &StepLimits) -> Self {
        let kv = KvCache::bytes(size, limits.blocks, limits.block_tokens);
        let activations = Scratch::bytes(size, limits.max_tokens, limits.max_rows);
        Self { kv, activations }
    }
}

/// Written once, so that the memory is there when a step wants it; `None` where it is not.
pub(crate) fn reserve<T: Clone + Default>(length: usize) -> Option<Vec<T>> {
    let mut pool = Vec::new();
    pool.try_reserve_exact(length).ok()?;
    pool.resize(length, T::default());
    Some(pool)
}
