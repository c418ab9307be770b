//! Draws the next token: greedy, or by temperature, min-p, top-k and top-p in vLLM's order.
//!
//! A draw depends on the logits, the parameters, the seed, the position and, where the parameters penalise them, on the
//! tokens before it; on nothing else.

use pulp::{Arch, Simd, WithSimd};
use sluice_core::philox::uniform;
use sluice_core::{SampledToken, SamplingParams};

use crate::adjuster::Adjuster;
use crate::layers::math::exp;
use crate::logprobs::{Candidate, NotANumber, check_finite, most_likely, order, score};

/// Below it a temperature means greedy, as in vLLM.
const GREEDY_BELOW: f32 = 1e-5;

/// What a draw depends on besides the logits.
#[derive(Clone, Copy)]
pub(crate) struct Drawing<'a> {
    pub(crate) params: &'a SamplingParams,
    /// The drawn token's.
    pub(crate) position: u32,
    /// What came before it, where the parameters penalise that.
    pub(crate) prompt: &'a [u32],
    pub(crate) answer: &'a [u32],
    /// Never drawn.
    pub(crate) forbidden: &'a [u32],
}

/// Keeps its memory between draws.
#[derive(Default)]
pub(crate) struct Sampler {
    adjuster: Adjuster,
    candidates: Vec<Candidate>,
}

/// Why nothing can be drawn.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub(crate) enum NoDraw {
    #[error(transparent)]
    NotANumber(#[from] NotANumber),
    #[error("every token of the vocabulary is forbidden at position {position}: ask for fewer stop tokens")]
    AllForbidden { position: u32 },
}

impl<'a> Drawing<'a> {
    /// By the logits and the parameters alone.
    #[cfg(test)]
    pub(crate) fn new(params: &'a SamplingParams, position: u32) -> Self {
        Self { params, position, prompt: &[], answer: &[], forbidden: &[] }
    }

    fn changes_logits(&self) -> bool {
        self.params.penalises() || !self.params.logit_bias.is_empty() || !self.forbidden.is_empty()
    }
}

impl Sampler {
    /// `logits` holds one number per token of the vocabulary. Log-probabilities are of them as they are, whatever the
    /// request changes about them for the draw.
    pub(crate) fn sample(&mut self, logits: &[f32], drawing: &Drawing<'_>) -> Result<SampledToken, NoDraw> {
        let Drawing { params, position, .. } = *drawing;
        check_finite(logits, position)?;
        let adjusted = if drawing.changes_logits() { self.adjuster.adjust(logits, drawing) } else { logits };
        let best = most_likely(adjusted);
        let max = adjusted[best as usize];
        if max == f32::NEG_INFINITY {
            return Err(NoDraw::AllForbidden { position });
        }
        let token =
            if params.temperature >= GREEDY_BELOW { draw(&mut self.candidates, adjusted, max, drawing) } else { best };
        let Some(alternatives) = params.logprobs else { return Ok(SampledToken::plain(token)) };
        let scored = score(logits, token, alternatives);
        Ok(SampledToken { token, logprob: Some(scored.logprob), top: scored.top })
    }
}

/// `max` is the largest of `logits`.
fn draw(candidates: &mut Vec<Candidate>, logits: &[f32], max: f32, drawing: &Drawing<'_>) -> u32 {
    let params = drawing.params;
    candidates.clear();
    candidates.extend((0..).zip(logits).map(|(token, weight)| Candidate { token, weight: *weight }));
    if !drawing.forbidden.is_empty() {
        candidates.retain(|candidate| candidate.weight > f32::NEG_INFINITY);
    }
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
    pick(candidates, uniform(params.seed, u128::from(drawing.position)))
}

/// The candidate at this share, from 0 to 1, of all weight.
fn pick(candidates: &[Candidate], share: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let mut left = share * total;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return candidate.token;
        }
    }
    // Rounding can leave a trace of the last one's share.
    candidates.last().map_or(0, |last| last.token)
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

/// Keeps the fewest tokens whose weights reach `share` of all, sorted; at least one. Only those that may be among them are
/// sorted: the weights of others are of a size that is not needed.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    let mut sums = [0.0; SIZES];
    for candidate in candidates.iter() {
        sums[size(candidate.weight)] += f64::from(candidate.weight);
    }
    let goal = share * sums.iter().sum::<f64>();
    let mut left = goal;
    let least = (0..SIZES).rev().find(|size| {
        left -= sums[*size];
        left <= 0.0 && sums[*size] > 0.0
    });
    // One size more: sums in another order may differ in their last bits.
    let least = least.unwrap_or(0).saturating_sub(1);
    candidates.retain(|candidate| size(candidate.weight) >= least);
    candidates.sort_unstable_by(order);
    let reached = candidates.iter().scan(0.0, |sum, candidate| {
        *sum += f64::from(candidate.weight);
        Some(*sum)
    });
    let last = reached.into_iter().position(|sum| sum >= goal);
    candidates.truncate(last.map_or(candidates.len(), |last| last + 1));
}

/// Sizes of weights, which go from 0 to 1: eight for each power of two.
const SIZES: usize = 1024;

fn size(weight: f32) -> usize {
    (weight.to_bits() as usize >> 20).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> SamplingParams {
        SamplingParams { temperature: 1.0, seed: 42, ..SamplingParams::greedy() }
    }

    fn draw(logits: &[f32], params: &SamplingParams, position: u32) -> u32 {
        Sampler::default().sample(logits, &Drawing::new(params, position)).unwrap().token
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
        let drawn = Sampler::default().sample(&logits_of(&shares), &Drawing::new(&params, 0)).unwrap();
        assert_eq!(drawn.token, 1);
        assert!((drawn.logprob.unwrap() - 0.4f32.ln()).abs() < 1e-5);
        for (found, token) in drawn.top.iter().zip([1usize, 3, 2]) {
            assert_eq!(found.token as usize, token);
            assert!((f64::from(found.logprob) - shares[token].ln()).abs() < 1e-5);
        }
        assert_eq!(drawn.top.len(), 3);
        let none = SamplingParams { logprobs: Some(0), ..params };
        let drawn = Sampler::default().sample(&logits_of(&shares), &Drawing::new(&none, 0)).unwrap();
        assert!(drawn.logprob.is_some() && drawn.top.is_empty());
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        let mut logits = vec![0.5; 40];
        logits[38] = f32::NAN;
        for params in [params(), SamplingParams::greedy()] {
            let refused = Sampler::default().sample(&logits, &Drawing::new(&params, 9)).unwrap_err();
            assert!(matches!(refused, NoDraw::NotANumber(found) if (found.token, found.position) == (38, 9)));
        }
    }

    #[test]
    fn what_is_forbidden_is_never_drawn_and_not_everything_can_be() {
        let logits = [100.0, -100.0, 100.0];
        for params in [params(), SamplingParams::greedy(), SamplingParams { top_k: 1, ..params() }] {
            let forbidding = |forbidden| Drawing { forbidden, ..Drawing::new(&params, 3) };
            let drawn = Sampler::default().sample(&logits, &forbidding(&[0, 2, 7])).unwrap();
            assert_eq!(drawn.token, 1, "by {params:?}");
            let refused = Sampler::default().sample(&logits, &forbidding(&[2, 1, 0]));
            assert_eq!(refused, Err(NoDraw::AllForbidden { position: 3 }));
        }
    }

    #[test]
    fn penalties_and_bias_change_the_draw_and_not_the_logprobs() {
        let (logits, answer) = ([2.0, 1.5, 1.0], [0, 0]);
        let check = |change: fn(&mut SamplingParams), expected: u32| {
            let mut params = SamplingParams { logprobs: Some(3), ..SamplingParams::greedy() };
            change(&mut params);
            let drawn = Sampler::default().sample(&logits, &Drawing { answer: &answer, ..Drawing::new(&params, 0) });
            let drawn = drawn.unwrap();
            assert_eq!(drawn.token, expected, "by {params:?}");
            let scored = score(&logits, expected, 3);
            assert_eq!((drawn.logprob, drawn.top), (Some(scored.logprob), scored.top));
        };
        check(|_| {}, 0);
        check(|params| params.presence_penalty = 0.6, 1);
        check(|params| params.frequency_penalty = 0.3, 1);
        check(|params| params.repetition_penalty = 1.5, 1);
        check(|params| params.logit_bias = vec![(2, 1.5)], 2);
        check(|params| params.logit_bias = vec![(0, -100.0), (1, -100.0), (9, 100.0)], 2);
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
            let penalising = SamplingParams { presence_penalty: 1.0, ..params.clone() };
            used.sample(&logits[..1], &Drawing { answer: &[0, 3], ..Drawing::new(&penalising, 0) }).unwrap();
            prop_assert_eq!(used.sample(&logits, &Drawing::new(&params, position)).unwrap().token, token);
            let better = logits.iter().filter(|logit| **logit > logits[token as usize]).count();
            prop_assert!(top_k == 0 || better < top_k as usize);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let ratio = ((logits[token as usize] - max) / temperature.max(1e-6)).exp();
            prop_assert!(ratio >= min_p.min(1.0) - 1e-5);
        }

        #[test]
        fn a_nucleus_is_the_fewest_that_reach_the_share(
            weights in prop::collection::vec(prop_oneof![0f32..=1.0, (0f32..200.0).prop_map(|size| (-size).exp())], 0..300),
            largest in Just(1f32),
            share in prop_oneof![0f64..1.0, Just(0.0), Just(1e-9), Just(1.0 - 1e-7)],
        ) {
            let of = |(token, weight)| Candidate { token, weight };
            let mut sorted: Vec<_> = (0..).zip(weights.into_iter().chain([largest])).map(of).collect();
            let mut kept = sorted.clone();
            keep_nucleus(&mut kept, share);
            sorted.sort_unstable_by(order);
            let tokens = |of: &[Candidate]| of.iter().map(|candidate| candidate.token).collect::<Vec<_>>();
            prop_assert_eq!(tokens(&kept), tokens(&sorted[..kept.len()]));
            let sum = |of: &[Candidate]| of.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>();
            let goal = share * sum(&sorted);
            prop_assert!(sum(&kept) >= goal * (1.0 - 1e-12), "{} of {goal}", sum(&kept));
            prop_assert!(kept.len() == 1 || sum(&kept[..kept.len() - 1]) < goal * (1.0 + 1e-12));
        }

        #[test]
        fn whatever_the_parameters_nothing_forbidden_is_drawn(
            logits in prop::collection::vec(any::<f32>().prop_filter("finite", |logit| logit.is_finite()), 2..100),
            numbers: [f32; 7],
            top_k: u32,
            history in prop::collection::vec(0u32..110, 0..50),
            forbidden in prop::collection::vec(1u32..110, 0..50),
        ) {
            let [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, bias] = numbers;
            let params = SamplingParams {
                temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty,
                logit_bias: vec![(1, bias)], ..params()
            };
            let drawing = Drawing { answer: &history, forbidden: &forbidden, ..Drawing::new(&params, 0) };
            let token = Sampler::default().sample(&logits, &drawing).unwrap().token;
            prop_assert!((token as usize) < logits.len() && !forbidden.contains(&token));
        }
    }
}
