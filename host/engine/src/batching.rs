//! Batching: the native rule, and how a decision becomes the rows of a step within what blocks and budgets allow.
//!
//! What a decision leaves out is filled in first come, first served. Sequences that decode go first, then those in
//! the middle of their prompt, then those that wait.

use std::collections::{HashMap, HashSet};

use sluice_core::view::EngineLimits;
use sluice_core::{BatchingDecision, Nanos, Preempted, RequestId};

use crate::holdings::{Holdings, Ordinal};
use crate::sequence::{Sequence, length};

/// The native rule: as many sequences and tokens as the engine takes, in order of arrival.
pub(crate) fn first_come(limits: &EngineLimits) -> BatchingDecision {
    BatchingDecision {
        max_running: limits.max_sequences,
        token_budget: limits.max_batched_tokens,
        ..BatchingDecision::default()
    }
}

/// What the next step computes, and what had to give way for it.
#[derive(Default)]
pub(crate) struct Selection {
    pub(crate) rows: Vec<Share>,
    pub(crate) preempted: Vec<Preempted>,
    /// Sequences that left the queue, with how much of them was cached.
    pub(crate) started: Vec<(Ordinal, u32)>,
    pub(crate) allocation_failures: u32,
    /// Somebody waited too long, whatever the decision said.
    pub(crate) starvation: bool,
}

/// So many tokens of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    pub(crate) ordinal: Ordinal,
    pub(crate) tokens: u32,
}

/// Carries out a checked decision.
pub(crate) fn select(
    held: &mut Holdings,
    decision: &BatchingDecision,
    limits: &EngineLimits,
    starvation: Nanos,
    now: Nanos,
) -> Selection {
    let mut selector = Selector {
        budget: decision.token_budget.min(limits.max_batched_tokens),
        max_running: decision.max_running.min(limits.max_sequences),
        chunks: decision.chunks.iter().map(|chunk| (chunk.id, chunk.tokens)).collect(),
        chosen: HashSet::new(),
        selection: Selection::default(),
        held,
        limits,
        now,
    };
    selector.preempt_victims(&decision.victims);
    selector.serve_overdue(starvation);
    selector.continue_running();
    selector.start_waiting(&decision.order);
    selector.selection
}

struct Selector<'a> {
    held: &'a mut Holdings,
    limits: &'a EngineLimits,
    now: Nanos,
    budget: u32,
    max_running: u32,
    chunks: HashMap<u64, u32>,
    chosen: HashSet<Ordinal>,
    selection: Selection,
}

impl Selector<'_> {
    fn preempt_victims(&mut self, victims: &[u64]) {
        for &id in victims {
            let Some(ordinal) = self.held.ordinal(RequestId(id)) else { continue };
            // Preempted at every step, a long prompt would never be done: work conservation goes before the policy.
            if self.held.sequences.get(&ordinal).is_some_and(Sequence::came_further) {
                self.preempt(ordinal);
            }
        }
    }

    /// Whoever was part of no step for too long goes first, past the policy's limits but not the engine's; so does
    /// whoever is given up after this step.
    fn serve_overdue(&mut self, starvation: Nanos) {
        let now = self.now;
        let is_overdue =
            |sequence: &Sequence| now.saturating_sub(sequence.idle_since) > starvation || sequence.has_expired(now);
        let mut overdue: Vec<(Nanos, Ordinal)> = (self.held.sequences.iter())
            .filter(|(_, sequence)| is_overdue(sequence) && is_ready(sequence, self.limits))
            .map(|(&ordinal, sequence)| (sequence.idle_since, ordinal))
            .collect();
        if overdue.is_empty() {
            return;
        }
        overdue.sort_unstable();
        self.selection.starvation = true;
        self.budget = self.budget.max(1);
        for (_, ordinal) in overdue {
            let waiting = self.held.sequences.get(&ordinal).is_some_and(|sequence| !sequence.running);
            if waiting && (self.held.running() >= self.limits.max_sequences || !self.start(ordinal)) {
                // Nobody starts before it does.
                self.max_running = 0;
                continue;
            }
            self.take(ordinal, u32::MAX);
        }
    }

    fn continue_running(&mut self) {
        let (mut decoding, mut prefilling) = (Vec::new(), Vec::new());
        for (&ordinal, sequence) in &self.held.sequences {
            if sequence.running && is_ready(sequence, self.limits) && !self.chosen.contains(&ordinal) {
                let list = if sequence.remaining() == 1 { &mut decoding } else { &mut prefilling };
                list.push((sequence.idle_since, ordinal));
            }
        }
        if decoding.len() > self.budget as usize {
            // Not all fit: whoever was left out longest comes first, so that they take turns.
            decoding.sort_unstable();
        }
        for (_, ordinal) in decoding {
            self.take(ordinal, u32::MAX);
        }
        for (_, ordinal) in prefilling {
            let most = self.chunk_of(ordinal);
            self.take(ordinal, most);
        }
    }

    fn start_waiting(&mut self, order: &[u64]) {
        let mut running = self.held.running();
        if self.budget == 0 || running >= self.max_running || !self.selection.preempted.is_empty() {
            return;
        }
        for ordinal in self.waiting_in(order) {
            if self.budget == 0 || running >= self.max_running {
                return;
            }
            let most = self.chunk_of(ordinal);
            if most == 0 {
                continue;
            }
            if !self.start(ordinal) {
                // Who does not fit is not overtaken, or a long prompt would never come.
                return;
            }
            self.take(ordinal, most);
            running += 1;
        }
    }

    /// Those that the policy names, then the others in order of arrival.
    fn waiting_in(&self, order: &[u64]) -> Vec<Ordinal> {
        let waits = |ordinal: &Ordinal| {
            self.held
                .sequences
                .get(ordinal)
                .is_some_and(|sequence| !sequence.running && is_ready(sequence, self.limits))
        };
        let named = order.iter().filter_map(|&id| self.held.ordinal(RequestId(id)));
        let mut list: Vec<Ordinal> = named.filter(waits).collect();
        let seen: HashSet<Ordinal> = list.iter().copied().collect();
        list.extend(self.held.sequences.keys().copied().filter(|ordinal| waits(ordinal) && !seen.contains(ordinal)));
        list
    }

    fn chunk_of(&self, ordinal: Ordinal) -> u32 {
        let Some(sequence) = self.held.sequences.get(&ordinal) else { return 0 };
        self.chunks.get(&sequence.id().0).copied().unwrap_or(u32::MAX)
    }

    /// Starts a waiting sequence if its whole prompt fits, with a little to spare for those that run.
    fn start(&mut self, ordinal: Ordinal) -> bool {
        let Some(sequence) = self.held.sequences.get(&ordinal) else { return false };
        let cached = (self.held.cached_tokens(sequence) / self.limits.block_tokens) as usize;
        // Cached blocks that somebody holds already are free to use; the others count as available until they are held.
        let shared = self.held.blocks.held_prefix(&sequence.hashes.hashes()[..cached]);
        let taken = self.held.lacking(sequence, sequence.length()) - shared;
        let spare = if self.held.running() == 0 { 0 } else { (self.limits.blocks_total / 100).max(1) };
        if taken + spare > self.held.blocks.available() {
            self.selection.allocation_failures += 1;
            return false;
        }
        let cached = self.held.start(ordinal);
        self.selection.started.push((ordinal, cached));
        true
    }

    /// Takes as many tokens of a running sequence as it needs and the budget has, at most `most`. Where blocks are
    /// short, others give way.
    fn take(&mut self, ordinal: Ordinal, most: u32) {
        let Some(sequence) = self.held.sequences.get(&ordinal).filter(|sequence| sequence.running) else { return };
        let tokens = sequence.remaining().min(self.budget).min(most);
        if tokens == 0 {
            return;
        }
        while self.held.reserve(ordinal, tokens).is_err() {
            self.selection.allocation_failures += 1;
            let victim = self.weakest();
            self.preempt(victim.unwrap_or(ordinal));
            if victim.is_none_or(|victim| victim == ordinal) {
                return;
            }
        }
        self.budget -= tokens;
        self.chosen.insert(ordinal);
        self.selection.rows.push(Share { ordinal, tokens });
    }

    /// Of those that run, the least urgent; among equals the last to come.
    fn weakest(&self) -> Option<Ordinal> {
        let running = self.held.sequences.iter().filter(|(_, sequence)| sequence.running);
        running
            .max_by_key(|(ordinal, s)| (std::cmp::Reverse(s.admitted.priority), **ordinal))
            .map(|(&ordinal, _)| ordinal)
    }

    fn preempt(&mut self, ordinal: Ordinal) {
        let Some((id, recompute_tokens)) = self.held.preempt(ordinal, self.now) else { return };
        self.selection.preempted.push(Preempted { id, recompute_tokens });
        self.selection.started.retain(|(started, _)| *started != ordinal);
        if self.chosen.remove(&ordinal) {
            let freed = self.selection.rows.iter().position(|share| share.ordinal == ordinal);
            self.budget += freed.map_or(0, |index| self.selection.rows.remove(index).tokens);
        }
    }
}

/// Whether there is something to compute for it now.
fn is_ready(sequence: &Sequence, limits: &EngineLimits) -> bool {
    sequence.remaining() > 0 && (sequence.drawing == 0 || sequence.running && sequence.may_draw(limits.max_model_len))
}

/// Tokens in the caches of these rows' sequences, for accounts of a step.
pub(crate) fn context_tokens(held: &Holdings, rows: &[Share]) -> u64 {
    rows.iter()
        .filter_map(|share| held.sequences.get(&share.ordinal))
        .map(|sequence| u64::from(sequence.computed))
        .sum()
}

/// How many of these rows decode.
pub(crate) fn decoding(held: &Holdings, rows: &[Share]) -> u32 {
    length(rows.iter().filter(|share| held.sequences.get(&share.ordinal).is_some_and(|s| s.remaining() == 1)).count())
}
