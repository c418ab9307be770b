//! What a replica holds: its sequences in order of arrival, and the blocks among them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluice_core::view::{SequenceTable, UNKNOWN};
use sluice_core::{BlockId, Nanos, RequestId};

use crate::blocks::{BlockPool, OutOfBlocks};
use crate::link::Admitted;
use crate::sequence::{Sequence, length};

/// A sequence's place in the order of arrival on its replica.
pub(crate) type Ordinal = u64;

pub(crate) struct Holdings {
    pub(crate) sequences: BTreeMap<Ordinal, Sequence>,
    pub(crate) blocks: BlockPool,
    block_tokens: u32,
    ordinals: HashMap<RequestId, Ordinal>,
    next_ordinal: Ordinal,
}

impl Holdings {
    pub(crate) fn new(blocks_total: u32, block_tokens: u32) -> Self {
        Self {
            sequences: BTreeMap::new(),
            blocks: BlockPool::new(blocks_total),
            block_tokens,
            ordinals: HashMap::new(),
            next_ordinal: 0,
        }
    }

    pub(crate) fn add(&mut self, admitted: Arc<Admitted>, now: Nanos) {
        let sequence = Sequence::new(admitted, now);
        self.ordinals.insert(sequence.id(), self.next_ordinal);
        self.sequences.insert(self.next_ordinal, sequence);
        self.next_ordinal += 1;
    }

    pub(crate) fn ordinal(&self, id: RequestId) -> Option<Ordinal> {
        self.ordinals.get(&id).copied()
    }

    /// Takes a sequence out and frees its blocks.
    pub(crate) fn remove(&mut self, ordinal: Ordinal) -> Option<Sequence> {
        let mut sequence = self.sequences.remove(&ordinal)?;
        self.ordinals.remove(&sequence.id());
        self.blocks.release(&mut sequence.blocks);
        Some(sequence)
    }

    pub(crate) fn running(&self) -> u32 {
        length(self.sequences.values().filter(|sequence| sequence.running).count())
    }

    /// Blocks that a sequence lacks to compute so many more tokens.
    pub(crate) fn lacking(&self, sequence: &Sequence, tokens: u32) -> u32 {
        (sequence.computed + tokens).div_ceil(self.block_tokens).saturating_sub(length(sequence.blocks.len()))
    }

    /// Reserves the blocks for so many more tokens of a sequence, or none.
    pub(crate) fn reserve(&mut self, ordinal: Ordinal, tokens: u32) -> Result<(), OutOfBlocks> {
        let sequence = self.sequences.get(&ordinal).ok_or(OutOfBlocks)?;
        let lacking = self.lacking(sequence, tokens);
        let Some(sequence) = self.sequences.get_mut(&ordinal) else { return Err(OutOfBlocks) };
        self.blocks.allocate(lacking, &mut sequence.blocks)
    }

    /// How many tokens of a waiting sequence can be taken from the prefix cache. At least one is left to compute.
    pub(crate) fn cached_tokens(&self, sequence: &Sequence) -> u32 {
        if sequence.awaits_scores() {
            return 0;
        }
        let usable = (sequence.tokens.len().saturating_sub(1)) / self.block_tokens as usize;
        let hashes = sequence.hashes.hashes();
        let hashes = &hashes[..usable.min(hashes.len())];
        length(self.blocks.cached_prefix(hashes)) * self.block_tokens
    }

    /// Starts a waiting sequence from what the prefix cache has of it. Returns how many tokens that is.
    pub(crate) fn start(&mut self, ordinal: Ordinal) -> u32 {
        let Some(sequence) = self.sequences.get(&ordinal) else { return 0 };
        let cached = self.cached_tokens(sequence);
        let Some(sequence) = self.sequences.get_mut(&ordinal) else { return 0 };
        let count = (cached / self.block_tokens) as usize;
        self.blocks.hold_prefix(&sequence.hashes.hashes()[..count], &mut sequence.blocks);
        sequence.published = count;
        sequence.computed = cached;
        sequence.running = true;
        cached
    }

    /// Frees a running sequence's blocks and lets it wait. Returns the tokens to compute again.
    pub(crate) fn preempt(&mut self, ordinal: Ordinal, now: Nanos) -> Option<(RequestId, u32)> {
        let sequence = self.sequences.get_mut(&ordinal).filter(|sequence| sequence.running)?;
        self.blocks.release(&mut sequence.blocks);
        sequence.idle_since = now;
        Some((sequence.id(), sequence.preempt()))
    }

    /// A step that computed a sequence's tokens up to `end` is done: its full blocks can serve others.
    pub(crate) fn publish(&mut self, ordinal: Ordinal, end: u32) {
        let Some(sequence) = self.sequences.get_mut(&ordinal) else { return };
        let full = (end / self.block_tokens) as usize;
        if sequence.published >= full {
            return;
        }
        let known = (full * self.block_tokens as usize).min(sequence.tokens.len());
        sequence.hashes.extend(&sequence.tokens[..known], self.block_tokens);
        while sequence.published < full.min(sequence.hashes.hashes().len()) {
            let index = sequence.published;
            self.blocks.publish(sequence.blocks[index], sequence.hashes.hashes()[index]);
            sequence.published += 1;
        }
    }

    pub(crate) fn waiting_uncached_tokens(&self) -> u64 {
        let waiting = self.sequences.values().filter(|sequence| !sequence.running);
        waiting.map(|sequence| u64::from(sequence.length() - self.cached_tokens(sequence))).sum()
    }

    /// One row per sequence, in order of arrival.
    pub(crate) fn fill(&self, table: &mut SequenceTable) {
        table.clear();
        for sequence in self.sequences.values() {
            let request = &sequence.admitted.request;
            table.id.push(request.id.0);
            table.tenant.push(request.tenant.0);
            table.priority.push(sequence.admitted.priority);
            table.phase.push(sequence.phase());
            table.prompt_tokens.push(request.prompt_tokens());
            table.computed_tokens.push(sequence.computed);
            table.generated_tokens.push(sequence.generated + sequence.drawing);
            table.max_new_tokens.push(sequence.admitted.max_new_tokens);
            table.blocks_held.push(length(sequence.blocks.len()));
            table.blocks_exclusive.push(self.blocks.exclusive(&sequence.blocks));
            table.preemptions.push(sequence.preemptions);
            table.arrival.push(request.arrival);
            table.first_token_time.push(sequence.first_token.unwrap_or(UNKNOWN));
            table.last_token_time.push(sequence.last_token.unwrap_or(UNKNOWN));
            table.deadline.push(request.deadline.unwrap_or(UNKNOWN));
        }
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &[BlockId]> {
        self.sequences.values().map(|sequence| sequence.blocks.as_slice())
    }
}
