//! Draws the next token: greedy, or by temperature, min-p, top-k and top-p in vLLM's order.
//!
//! A draw depends on the logits, the parameters, the seed and the position, on nothing else.

use std::cmp::Ordering;

use pulp::{Arch, Simd, WithSimd};
use sluice_core::{Logprob, SampledToken, SamplingParams};

use crate::layers::math::exp;
use sluice_core::philox::uniform;

/// Below it a temperature means greedy, as in vLLM.
const GREEDY_BELOW: f32 = 1e-5;

/// The first guess at how many tokens top-p keeps; more are sorted only where they are needed.
const NUCLEUS: usize = 64;

/// Keeps its memory between draws.
#[derive(Default)]
pub(crate) struct Sampler {
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    /// A weight relative to the most likely token's, or a logit.
    weight: f32,
}

#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("the model's logit of token {token} at position {position} is {value}, so nothing can be drawn")]
pub(crate) struct NotANumber {
    token: usize,
    position: u32,
    value: f32,
}

impl Sampler {
    /// `position` is the drawn token's. `logits` holds one number per token of the vocabulary.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        position: u32,
    ) -> Result<SampledToken, NotANumber> {
        if let Some(token) = first_not_finite(logits) {
            return Err(NotANumber { token, position, value: logits[token] });
        }
        let best = most_likely(logits);
        let token = if params.temperature >= GREEDY_BELOW {
            self.draw(logits, logits[best as usize], params, position)
        } else {
            best
        };
        let Some(alternatives) = params.logprobs else { return Ok(SampledToken::plain(token)) };
        let total = log_sum_exp(logits, logits[best as usize]);
        let logprob = |logit: f32| (f64::from(logit) - total) as f32;
        let top = self.best(logits, usize::from(alternatives));
        let top = top.iter().map(|best| Logprob { token: best.token, logprob: logprob(best.weight) }).collect();
        Ok(SampledToken { token, logprob: Some(logprob(logits[token as usize])), top })
    }

    fn draw(&mut self, logits: &[f32], max: f32, params: &SamplingParams, position: u32) -> u32 {
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend((0..).zip(logits).map(|(token, weight)| Candidate { token, weight: *weight }));
        Arch::new().dispatch(Weigh { candidates, max, temperature: params.temperature });
        if params.min_p > 0.0 {
            candidates.retain(|candidate| candidate.weight >= params.min_p.min(1.0));
        }
        if params.top_k > 0 {
            keep_best(candidates, params.top_k as usize);
        }
        if params.top_p < 1.0 {
            keep_nucleus(candidates, f64::from(params.top_p));
        }
        let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let mut left = uniform(params.seed, u128::from(position)) * total;
        for candidate in candidates.iter() {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding can leave a trace of the last one's share.
        candidates.last().map_or(0, |last| last.token)
    }

    /// The tokens of the largest logits, best first.
    fn best(&mut self, logits: &[f32], count: usize) -> &[Candidate] {
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(token, weight)| Candidate { token, weight: *weight }));
        keep_best(&mut self.candidates, count);
        &self.candidates
    }
}

/// Turns logits into weights relative to the largest one's.
struct Weigh<'a> {
    candidates: &'a mut [Candidate],
    max: f32,
    temperature: f32,
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for candidate in self.candidates {
            candidate.weight = exp((candidate.weight - self.max) / self.temperature);
        }
    }
}

/// More weight first; of equals, the smaller id first.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Keeps so many, sorted.
fn keep_best(candidates: &mut Vec<Candidate>, count: usize) {
    sort_best(candidates, count);
    candidates.truncate(count);
}

/// Brings so many to the front, sorted.
fn sort_best(candidates: &mut [Candidate], count: usize) {
    let count = count.min(candidates.len());
    if 0 < count && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, order);
    }
    candidates[..count].sort_unstable_by(order);
}

/// Keeps the fewest tokens whose weights reach `share` of all; at least one.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    let goal = share * candidates.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
    let mut sorted = NUCLEUS;
    loop {
        sort_best(candidates, sorted);
        let sums = candidates.iter().take(sorted).scan(0.0, |sum, candidate| {
            *sum += f64::from(candidate.weight);
            Some(*sum)
        });
        if let Some(last) = sums.into_iter().position(|sum| sum >= goal) {
            candidates.truncate(last + 1);
            return;
        }
        if sorted >= candidates.len() {
            return;
        }
        sorted = sorted.saturating_mul(8);
    }
}

fn first_not_finite(logits: &[f32]) -> Option<usize> {
    // Times zero is zero for a number and NaN for anything else, and sums are quick.
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x * 0.0);
    }
    let suspect = sums.iter().chain(rest).any(|x| !x.is_finite());
    if suspect { logits.iter().position(|logit| !logit.is_finite()) } else { None }
}

/// Of equals, the smallest id.
fn most_likely(logits: &[f32]) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}

pub(crate) fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> SamplingParams {
        SamplingParams { temperature: 1.0, seed: 42, ..SamplingParams::greedy() }
    }

    fn draw(logits: &[f32], params: &SamplingParams, position: u32) -> u32 {
        Sampler::default().sample(logits, params, position).unwrap().token
    }

    /// Draws at many positions are distributed as `expected`, within five standard deviations.
    fn check_shares(logits: &[f32], params: &SamplingParams, expected: &[f64]) {
        const DRAWS: u32 = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for position in 0..DRAWS {
            counts[draw(logits, params, position) as usize] += 1;
        }
        for (token, (count, share)) in counts.iter().zip(expected).enumerate() {
            let deviation = (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
            let found = f64::from(*count) / f64::from(DRAWS);
            assert!((found - share).abs() <= 5.0 * deviation, "token {token}: {found} against {share}");
        }
    }

    fn logits_of(shares: &[f64]) -> Vec<f32> {
        shares.iter().map(|share| share.ln() as f32 + 3.0).collect()
    }

    #[test]
    fn shares_follow_the_softmax_and_the_truncations() {
        let shares = [0.1, 0.4, 0.2, 0.25, 0.05];
        let logits = logits_of(&shares);
        check_shares(&logits, &params(), &shares);
        let squares = shares.map(|share| share * share / 0.275);
        check_shares(&logits, &SamplingParams { temperature: 0.5, ..params() }, &squares);
        let kept = |kept: &[usize]| {
            let total: f64 = kept.iter().map(|token| shares[*token]).sum();
            (0..5).map(|token| if kept.contains(&token) { shares[token] / total } else { 0.0 }).collect::<Vec<_>>()
        };
        check_shares(&logits, &SamplingParams { top_k: 2, ..params() }, &kept(&[1, 3]));
        check_shares(&logits, &SamplingParams { top_k: 99, ..params() }, &shares);
        check_shares(&logits, &SamplingParams { top_p: 0.7, ..params() }, &kept(&[1, 3, 2]));
        check_shares(&logits, &SamplingParams { top_p: 0.0, ..params() }, &kept(&[1]));
        check_shares(&logits, &SamplingParams { min_p: 0.45, ..params() }, &kept(&[1, 3, 2]));
        check_shares(&logits, &SamplingParams { min_p: 1.0, ..params() }, &kept(&[1]));
        // Of the two that top-k leaves, the first alone is more than half.
        check_shares(&logits, &SamplingParams { top_k: 2, top_p: 0.5, ..params() }, &kept(&[1]));
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(draw(&[1.0, 3.0, 3.0, 2.0], &SamplingParams::greedy(), 0), 1);
        assert_eq!(draw(&[1.0, 3.0, 3.0, 2.0], &SamplingParams { temperature: 1e-6, ..params() }, 0), 1);
    }

    #[test]
    fn logprobs_are_of_the_raw_logits() {
        let shares = [0.1, 0.4, 0.2, 0.25, 0.05];
        let params = SamplingParams { temperature: 0.1, top_k: 1, logprobs: Some(3), ..params() };
        let drawn = Sampler::default().sample(&logits_of(&shares), &params, 0).unwrap();
        assert_eq!(drawn.token, 1);
        assert!((drawn.logprob.unwrap() - 0.4f32.ln()).abs() < 1e-5);
        for (found, token) in drawn.top.iter().zip([1usize, 3, 2]) {
            assert_eq!(found.token as usize, token);
            assert!((f64::from(found.logprob) - shares[token].ln()).abs() < 1e-5);
        }
        assert_eq!(drawn.top.len(), 3);
        let none = SamplingParams { logprobs: Some(0), ..params };
        let drawn = Sampler::default().sample(&logits_of(&shares), &none, 0).unwrap();
        assert!(drawn.logprob.is_some() && drawn.top.is_empty());
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (length, token) in [(5, 3), (40, 3), (40, 38)] {
                let mut logits = vec![0.5; length];
                logits[token] = value;
                for params in [params(), SamplingParams::greedy()] {
                    let refused = Sampler::default().sample(&logits, &params, 9).unwrap_err();
                    assert_eq!((refused.token, refused.position), (token, 9));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_draw_is_possible_and_depends_on_seed_and_position_alone(
            logits in prop::collection::vec(-50f32..50.0, 1..700),
            temperature in 0f32..3.0,
            top_p in 0f32..1.2,
            top_k in 0u32..800,
            min_p in 0f32..1.2,
            seed: u64,
            position: u32,
        ) {
            let params = SamplingParams { temperature, top_p, top_k, min_p, seed, ..SamplingParams::greedy() };
            let token = draw(&logits, &params, position);
            let mut used = Sampler::default();
            used.sample(&logits[..1], &params, 0).unwrap();
            prop_assert_eq!(used.sample(&logits, &params, position).unwrap().token, token);
            let better = logits.iter().filter(|logit| **logit > logits[token as usize]).count();
            prop_assert!(top_k == 0 || better < top_k as usize);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let ratio = ((logits[token as usize] - max) / temperature.max(1e-6)).exp();
            prop_assert!(ratio >= min_p.min(1.0) - 1e-5);
        }

        #[test]
        fn the_nucleus_is_the_smallest(weights in prop::collection::vec(0.001f32..1.0, 1..600), share in 0.0f64..1.0) {
            let mut candidates: Vec<_> =
                (0..).zip(&weights).map(|(token, weight)| Candidate { token, weight: *weight }).collect();
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            keep_nucleus(&mut candidates, share);
            let kept: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
            let last = f64::from(candidates.last().unwrap().weight);
            prop_assert!(kept >= share * total - 1e-9);
            prop_assert!(candidates.len() == 1 || kept - last < share * total + 1e-9);
            let smallest = candidates.iter().map(|candidate| candidate.weight).fold(f32::MAX, f32::min);
            let larger = weights.iter().filter(|weight| **weight > smallest).count();
            prop_assert!(larger < candidates.len());
        }
    }
}
