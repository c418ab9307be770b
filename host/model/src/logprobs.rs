//! How likely a model holds a token: natural logarithms of probabilities, of the raw logits, as vLLM's `raw_logprobs`.
//!
//! The token that was drawn and the token of a prompt are scored by the same code, so that both get the same bits.

use std::cmp::Ordering;

use sluice_core::{Logprob, ScoredToken};

#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("the model's logit of token {token} at position {position} is {value}, so it says nothing of any token")]
pub(crate) struct NotANumber {
    pub(crate) token: usize,
    pub(crate) position: u32,
    value: f32,
}

/// A token of the vocabulary and its logit, or a weight relative to the most likely token's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Candidate {
    pub(crate) token: u32,
    pub(crate) weight: f32,
}

/// More weight first; of equals, the smaller id first.
pub(crate) fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// How likely `token` is by finite logits, and which `alternatives` are the most likely.
pub(crate) fn score(logits: &[f32], token: u32, alternatives: u8) -> ScoredToken {
    let total = log_sum_exp(logits, logits[most_likely(logits) as usize]);
    let logprob = |logit: f32| (f64::from(logit) - total) as f32;
    let top = best(logits, usize::from(alternatives));
    let top = top.iter().map(|best| Logprob { token: best.token, logprob: logprob(best.weight) }).collect();
    ScoredToken { token, logprob: logprob(logits[token as usize]), top }
}

/// `position` is that of the token which the logits foretell.
pub(crate) fn check_finite(logits: &[f32], position: u32) -> Result<(), NotANumber> {
    match first_not_finite(logits) {
        Some(token) => Err(NotANumber { token, position, value: logits[token] }),
        None => Ok(()),
    }
}

/// Of equals, the smallest id.
pub(crate) fn most_likely(logits: &[f32]) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}

pub(crate) fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// The largest logits, best first. Few are wanted of many, so those are kept in order while the others pass by.
fn best(logits: &[f32], count: usize) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::with_capacity(count.min(logits.len()) + 1);
    for (token, &weight) in (0..).zip(logits) {
        if best.len() == count && best.last().is_none_or(|last| weight < last.weight) {
            continue;
        }
        let candidate = Candidate { token, weight };
        let place = best.partition_point(|better| order(better, &candidate) == Ordering::Less);
        best.insert(place, candidate);
        best.truncate(count);
    }
    best
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_a_number_is_found() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (length, token) in [(5, 3), (40, 3), (40, 38)] {
                let mut logits = vec![0.5; length];
                assert_eq!(check_finite(&logits, 9), Ok(()));
                logits[token] = value;
                let found = check_finite(&logits, 9).unwrap_err();
                assert_eq!((found.token, found.position), (token, 9));
            }
        }
    }

    proptest! {
        #[test]
        fn scores_are_those_of_a_softmax_in_f64(
            logits in prop::collection::vec(prop_oneof![-60f32..60.0, Just(1.5), Just(0.0), Just(-0.0)], 1..300),
            token: prop::sample::Index,
            alternatives: u8,
        ) {
            let token = token.index(logits.len());
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let exact = |token: usize| f64::from(logits[token]) - sum.ln();
            let scored = score(&logits, token as u32, alternatives);
            prop_assert!((f64::from(scored.logprob) - exact(token)).abs() < 1e-5);
            let candidate = |(token, weight): (u32, &f32)| Candidate { token, weight: *weight };
            let mut sorted: Vec<_> = (0..).zip(&logits).map(candidate).collect();
            sorted.sort_by(order);
            sorted.truncate(usize::from(alternatives));
            prop_assert_eq!(best(&logits, usize::from(alternatives)), sorted.clone());
            for (found, expected) in scored.top.iter().zip(&sorted) {
                prop_assert_eq!(found.token, expected.token);
                prop_assert!((f64::from(found.logprob) - exact(found.token as usize)).abs() < 1e-5);
            }
            prop_assert_eq!(scored.top.len(), sorted.len());
        }
    }
}
