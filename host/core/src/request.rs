//! A request, as it comes from the edge: fixed once it is made.

use std::fmt;
use std::sync::Arc;

use crate::{HashChain, Nanos, SamplingParams, TokenSink};

/// Unique while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Whoever is accounted for a request: one per API key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TenantId(pub u64);

/// A replica's place in the pool. A replica that is restarted keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaId(pub u32);

/// What a client asked for, tokenised and with its defaults filled in.
#[derive(Clone)]
pub struct Request {
    pub id: RequestId,
    pub tenant: TenantId,
    /// Share of the service that the tenant is due, relative to the others'. Positive.
    pub tenant_weight: f64,
    pub session: Option<u64>,
    /// Higher is more urgent.
    pub priority: i32,
    pub arrival: Nanos,
    pub deadline: Option<Nanos>,
    pub ttft_target: Option<Nanos>,
    pub tpot_target: Option<Nanos>,
    /// Never empty.
    pub prompt: Arc<[u32]>,
    /// Salted hashes of the prompt's full blocks.
    pub hashes: Arc<HashChain>,
    /// At least 1.
    pub max_new_tokens: u32,
    /// Tokens that end the answer; the one that did is not sent.
    pub stop_tokens: Arc<[u32]>,
    /// Stop tokens do not count before so many tokens were made.
    pub min_new_tokens: u32,
    pub sampling: SamplingParams,
    /// How many alternatives to report with each token of the prompt; `None` reports nothing of them.
    pub prompt_logprobs: Option<u8>,
    /// 1 for a request that comes in for the first time.
    pub attempt: u32,
    /// Where its tokens go.
    pub sink: Arc<dyn TokenSink>,
}

impl Request {
    pub fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).expect("the edge bounds a prompt by the model's length")
    }

    /// The tokens it occupies if it runs to its end.
    pub fn max_tokens(&self) -> u32 {
        self.prompt_tokens().saturating_add(self.max_new_tokens)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("prompt_tokens", &self.prompt.len())
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}
