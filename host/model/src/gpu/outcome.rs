//! What a step was asked for, and what the device says came of it.

use bytemuck::AnyBitPattern;
use sluice_core::{Logprob, RequestId, Sampled, SampledToken, Scored, ScoredToken, StepOutput};
use sluice_kernels::Region;
use sluice_kernels::sampling::{ALL_FORBIDDEN, DRAWN, SampleResult, TOP};

use crate::gpu::memory::Results;
use crate::sampling::NoDraw;

/// In the order of the batch's rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) draws: Vec<AskedDraw>,
    pub(crate) scores: Vec<AskedScores>,
    /// Results that are copied back.
    results: u32,
    alternatives: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AskedDraw {
    pub(crate) sequence: RequestId,
    /// Among all that is drawn or scored.
    pub(crate) index: u32,
    /// The drawn token's.
    pub(crate) position: u32,
    pub(crate) logprobs: Option<u8>,
}

/// A run of a prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AskedScores {
    pub(crate) sequence: RequestId,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// The first scored token's.
    pub(crate) position: u32,
    pub(crate) alternatives: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("the logit of token {token} at position {position} is no finite number, so it says nothing of any token")]
struct NotFinite {
    token: i32,
    position: u32,
}

impl Asked {
    pub(crate) fn new(draws: Vec<AskedDraw>, scores: Vec<AskedScores>) -> Self {
        let drawn = draws.iter().map(|draw| draw.index + 1).max().unwrap_or(0);
        let scored = scores.iter().map(|scores| scores.first + scores.count).max().unwrap_or(0);
        let alternatives = draws.iter().any(|draw| draw.logprobs.is_some_and(|count| count > 0))
            || scores.iter().any(|scores| scores.alternatives > 0);
        Self { results: drawn.max(scored), alternatives, draws, scores }
    }

    /// What of the results is copied back.
    pub(crate) fn regions(&self, results: &Results) -> Vec<Region> {
        let prefix = |region: Region, size: usize| Region { bytes: u64::from(self.results) * size as u64, ..region };
        let mut regions = Vec::new();
        if self.results > 0 {
            regions.push(prefix(results.outcomes, size_of::<SampleResult>()));
        }
        if self.alternatives {
            regions.push(prefix(results.top_tokens, 4 * TOP));
            regions.push(prefix(results.top_logprobs, 4 * TOP));
        }
        regions
    }

    /// `bytes` are those regions, one behind the other.
    pub(crate) fn output(&self, bytes: &[u8]) -> StepOutput {
        let outcomes = Outcomes { bytes, count: self.results as usize };
        StepOutput {
            sampled: self.draws.iter().map(|draw| (draw.sequence, outcomes.sampled(draw))).collect(),
            scored: self.scores.iter().map(|scores| (scores.sequence, outcomes.scored(scores))).collect(),
            ..StepOutput::default()
        }
    }
}

struct Outcomes<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl Outcomes<'_> {
    fn sampled(&self, draw: &AskedDraw) -> Sampled {
        let result: SampleResult = self.read(0, draw.index as usize);
        if let Some(problem) = problem(&result, draw.position) {
            return Sampled::Failed(problem);
        }
        let token = result.token as u32;
        let Some(alternatives) = draw.logprobs else { return Sampled::Token(SampledToken::plain(token)) };
        let top = self.top(draw.index, alternatives);
        Sampled::Token(SampledToken { token, logprob: Some(result.logprob), top })
    }

    fn scored(&self, scores: &AskedScores) -> Scored {
        let mut tokens = Vec::with_capacity(scores.count as usize);
        for (index, position) in (scores.first..scores.first + scores.count).zip(scores.position..) {
            let result: SampleResult = self.read(0, index as usize);
            if let Some(problem) = problem(&result, position) {
                return Scored::Failed(problem);
            }
            let (token, logprob) = (result.token as u32, result.logprob);
            tokens.push(ScoredToken { token, logprob, top: self.top(index, scores.alternatives) });
        }
        Scored::Tokens(tokens)
    }

    fn top(&self, index: u32, alternatives: u8) -> Vec<Logprob> {
        let tokens = self.count * size_of::<SampleResult>();
        let logprobs = tokens + self.count * 4 * TOP;
        let first = index as usize * TOP;
        let one = |place: usize| {
            let token: i32 = self.read(tokens, first + place);
            Logprob { token: token as u32, logprob: self.read(logprobs, first + place) }
        };
        (0..TOP.min(usize::from(alternatives))).map(one).collect()
    }

    /// Element `index` of the array at `start`.
    fn read<T: AnyBitPattern>(&self, start: usize, index: usize) -> T {
        let size = size_of::<T>();
        bytemuck::pod_read_unaligned(&self.bytes[start + index * size..][..size])
    }
}

fn problem(result: &SampleResult, position: u32) -> Option<String> {
    match result.status {
        DRAWN => None,
        ALL_FORBIDDEN => Some(NoDraw::AllForbidden { position }.to_string()),
        _ => Some(NotFinite { token: result.token, position }.to_string()),
    }
}
