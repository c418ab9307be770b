//! A request on its replica: its tokens, its blocks and how far it has come.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_core::view::phase;
use sluice_core::{
    BlockId, EndOfStream, Failure, FinishReason, Finished, HashChain, Nanos, ReplicaId, RequestId, SampledToken,
    SamplingParams, ScoredToken, SinkClosed, TokenEvent,
};

use crate::link::Admitted;

pub(crate) struct Sequence {
    pub(crate) admitted: Arc<Admitted>,
    pub(crate) running: bool,
    /// The prompt and what was generated.
    pub(crate) tokens: Vec<u32>,
    pub(crate) generated: u32,
    /// Tokens whose keys and values are in the cache, steps in flight included.
    pub(crate) computed: u32,
    /// Steps in flight that draw a token for it.
    pub(crate) drawing: u32,
    pub(crate) blocks: Vec<BlockId>,
    /// Blocks whose contents were published as a prefix.
    pub(crate) published: usize,
    pub(crate) hashes: HashChain,
    pub(crate) sampling: Arc<SamplingParams>,
    /// Tokens of the prompt, from its second on, whose scores were sent.
    pub(crate) scored: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) preemptions: u32,
    /// What it had generated when it was last preempted: a policy cannot preempt it again before it came further.
    generated_at_preemption: Option<u32>,
    /// Counts preemptions while steps were in flight: their rows belong to blocks that it no longer has.
    pub(crate) incarnation: u32,
    pub(crate) scheduled: Option<Nanos>,
    pub(crate) first_token: Option<Nanos>,
    pub(crate) last_token: Option<Nanos>,
    /// Since when it has not been part of a step.
    pub(crate) idle_since: Nanos,
}

/// What became of a token.
pub(crate) enum Accepted {
    Sent {
        /// When the token before it was sent.
        before: Option<Nanos>,
        end: Option<FinishReason>,
    },
    /// It was not sent, and the sequence ends.
    Last(FinishReason),
}

impl Sequence {
    pub(crate) fn new(admitted: Arc<Admitted>, now: Nanos) -> Self {
        let request = &admitted.request;
        Self {
            running: false,
            tokens: request.prompt.to_vec(),
            generated: 0,
            computed: 0,
            drawing: 0,
            blocks: Vec::new(),
            published: 0,
            hashes: HashChain::clone(&request.hashes),
            sampling: Arc::new(request.sampling.clone()),
            scored: 0,
            cached_tokens: 0,
            preemptions: 0,
            generated_at_preemption: None,
            incarnation: 0,
            scheduled: None,
            first_token: None,
            last_token: None,
            idle_since: now,
            admitted,
        }
    }

    pub(crate) fn id(&self) -> RequestId {
        self.admitted.request.id
    }

    /// Whether it has waited for its first step beyond its patience.
    pub(crate) fn has_expired(&self, now: Nanos) -> bool {
        self.scheduled.is_none() && self.admitted.has_waited(now)
    }

    pub(crate) fn phase(&self) -> u8 {
        match (self.running, self.preemptions > 0) {
            (true, _) if self.remaining() > 1 => phase::PREFILL,
            (true, _) => phase::DECODE,
            (false, true) => phase::PREEMPTED,
            (false, false) => phase::WAITING,
        }
    }

    /// Tokens that are known or being drawn.
    pub(crate) fn length(&self) -> u32 {
        length(self.tokens.len()) + self.drawing
    }

    /// Tokens still to compute before the next one can be drawn.
    pub(crate) fn remaining(&self) -> u32 {
        self.length() - self.computed
    }

    /// A row of `tokens` reaches the last known token, so that the next is drawn.
    pub(crate) fn draws_after(&self, tokens: u32) -> bool {
        self.computed + tokens == self.length()
    }

    /// Whether another token may be drawn, those in flight counted.
    pub(crate) fn may_draw(&self, max_model_len: u32) -> bool {
        self.generated + self.drawing < self.admitted.max_new_tokens && self.length() < max_model_len
    }

    /// Whether the client is still to be told how likely some of its prompt is. Until then its keys and values are
    /// computed, not read from the prefix cache: scores come from what the layers make of every token.
    pub(crate) fn awaits_scores(&self) -> bool {
        let request = &self.admitted.request;
        request.prompt_logprobs.is_some() && self.scored + 1 < request.prompt_tokens()
    }

    /// Sends the scores of the prompt's tokens behind `start`. Those that were sent before the sequence was preempted are
    /// not sent again.
    pub(crate) fn accept_scores(&mut self, start: u32, mut scores: Vec<ScoredToken>) -> Result<(), SinkClosed> {
        let known = self.scored.saturating_sub(start) as usize;
        scores.drain(..known.min(scores.len()));
        if scores.is_empty() {
            return Ok(());
        }
        self.scored += length(scores.len());
        self.send(TokenEvent::Prompt(scores))
    }

    /// Takes a token in.
    pub(crate) fn accept(&mut self, sampled: SampledToken, max_model_len: u32, now: Nanos) -> Accepted {
        let request = &self.admitted.request;
        let stops = self.generated >= request.min_new_tokens && request.stop_tokens.contains(&sampled.token);
        self.generated += 1;
        if stops {
            return Accepted::Last(FinishReason::Stop);
        }
        self.tokens.push(sampled.token);
        let before = self.last_token.replace(now);
        self.first_token.get_or_insert(now);
        if self.send(TokenEvent::Token(sampled)).is_err() {
            return Accepted::Last(FinishReason::Cancelled);
        }
        let full = self.generated >= self.admitted.max_new_tokens || length(self.tokens.len()) >= max_model_len;
        Accepted::Sent { before, end: full.then_some(FinishReason::Length) }
    }

    pub(crate) fn end(&self, reason: FinishReason, failure: Option<Failure>) {
        let end = EndOfStream { reason, failure, cached_tokens: self.cached_tokens };
        // A reader that has left needs no farewell.
        let _ = self.admitted.request.sink.send(TokenEvent::End(end));
    }

    /// Whether preempting it would undo no more than what it has gained since the last time.
    pub(crate) fn came_further(&self) -> bool {
        self.generated_at_preemption.is_none_or(|before| self.generated > before)
    }

    /// Its blocks are gone: everything has to be computed again. Returns how much that is.
    pub(crate) fn preempt(&mut self) -> u32 {
        let lost = std::mem::take(&mut self.computed);
        self.running = false;
        self.generated_at_preemption = Some(self.generated);
        self.preemptions += 1;
        self.incarnation += 1;
        self.published = 0;
        lost
    }

    pub(crate) fn finished(&self, replica: ReplicaId, reason: FinishReason, now: Nanos) -> Finished {
        let request = &self.admitted.request;
        Finished {
            id: request.id,
            tenant: request.tenant,
            replica,
            reason,
            arrival: request.arrival,
            scheduled: self.scheduled,
            first_token: self.first_token,
            finished: now,
            prompt_tokens: request.prompt_tokens(),
            cached_tokens: self.cached_tokens,
            generated_tokens: self.generated,
            preemptions: self.preemptions,
        }
    }

    fn send(&self, event: TokenEvent) -> Result<(), SinkClosed> {
        self.admitted.started.store(true, Ordering::Release);
        self.admitted.request.sink.send(event)
    }
}

pub(crate) fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a sequence is bounded by the model's length")
}
