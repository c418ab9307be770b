//! What a step costs, learnt from the steps that ran: a base, and so much for each sequence that decodes, each prompt
//! token, and each token of context.
//!
//! Recursive least squares that forgets (Plackett, 1950; Ljung, "System Identification", 1999), on relative errors,
//! so that a step of 5 ms counts as much as one of 100. A step is not quite linear in its parts; forgetting keeps the
//! fit to where the replica works now. No coefficient falls below its floor, whatever a run of odd steps says.

use sluice_sdk::state::{Reader, Writer};

/// Parts of a step: the step itself, decoding sequences, prompt tokens, context.
const PARTS: usize = 4;
/// In these units the parts cost about as much as each other.
const UNITS: [f64; PARTS] = [1.0, 16.0, 256.0, 16_384.0];
/// Milliseconds for a unit of each before anything was learnt: a middling card. The first step says how much faster
/// or slower this one is.
const PRIOR: [f64; PARTS] = [5.0, 1.6, 25.0, 1.0];
/// By how many times itself the prior may be off. No part becomes less certain than that, however long it is not seen.
const UNCERTAINTY: f64 = 4.0;
/// By so many standard deviations a step can be off and still be believed whole.
const GATE: f64 = 3.0;
/// The least that the step itself and a prompt token cost, as a share of the prior.
const FLOOR: f64 = 1e-3;
/// What a step's weight falls to with each one after it.
const FORGETTING: f64 = 0.99;
/// The square of the relative error to expect of one step.
const NOISE: f64 = 0.01;

/// What a step computes.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(crate) struct Work {
    pub(crate) decode_sequences: f64,
    pub(crate) prefill_tokens: f64,
    pub(crate) context_tokens: f64,
}

impl Work {
    fn units(&self) -> [f64; PARTS] {
        let counts = [1.0, self.decode_sequences, self.prefill_tokens, self.context_tokens];
        std::array::from_fn(|part| counts[part] / UNITS[part])
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct StepModel {
    /// How many times as slow as the prior the first step was.
    scale: Option<f64>,
    /// Milliseconds for a unit of each part.
    cost: [f64; PARTS],
    covariance: [[f64; PARTS]; PARTS],
}

impl StepModel {
    pub(crate) fn new() -> Self {
        Self { scale: None, cost: PRIOR, covariance: [[0.0; PARTS]; PARTS] }
    }

    /// Takes in a step that took so long.
    pub(crate) fn learn(&mut self, work: &Work, millis: f64) {
        if !(millis.is_finite() && millis > 0.0) {
            return;
        }
        let scale = *self.scale.get_or_insert_with(|| {
            let scale = millis / dot(&PRIOR, &work.units());
            self.cost = PRIOR.map(|cost| cost * scale);
            self.covariance = uncertain(scale);
            scale
        });
        let row = work.units().map(|units| units / millis);
        let spread = self.covariance.map(|line| dot(&line, &row));
        // A variance, and so not below 0, but for rounding.
        let total = NOISE + dot(&spread, &row).max(0.0);
        let bound = GATE * total.sqrt();
        let error = (1.0 - dot(&self.cost, &row)).clamp(-bound, bound);
        for (part, (cost, along)) in self.cost.iter_mut().zip(spread).enumerate() {
            *cost = (*cost + along / total * error).max(floor(part, scale));
        }
        for (line, along) in self.covariance.iter_mut().zip(spread) {
            for (entry, across) in line.iter_mut().zip(spread) {
                *entry = (*entry - along * across / total) / FORGETTING;
            }
        }
        self.bound_uncertainty(scale);
    }

    /// Scales what has become too uncertain back, so that what is not seen for long is not believed at once. Where
    /// rounding has left no covariance at all, it begins anew.
    fn bound_uncertainty(&mut self, scale: f64) {
        let finite = self.covariance.as_flattened().iter().all(|entry| entry.is_finite());
        if !finite || (0..PARTS).any(|part| self.covariance[part][part] < 0.0) {
            self.covariance = uncertain(scale);
        }
        let shrink: [f64; PARTS] = std::array::from_fn(|part| {
            (variance(part, scale) / self.covariance[part][part].max(f64::MIN_POSITIVE)).min(1.0).sqrt()
        });
        for (row, line) in self.covariance.iter_mut().enumerate() {
            for (column, entry) in line.iter_mut().enumerate() {
                *entry *= shrink[row] * shrink[column];
            }
        }
    }

    pub(crate) fn millis(&self, work: &Work) -> f64 {
        dot(&self.cost, &work.units())
    }

    /// What one more of each part costs, in milliseconds: a decoding sequence, a prompt token, a token of context.
    pub(crate) fn each(&self) -> Work {
        let [_, decode_sequences, prefill_tokens, context_tokens] =
            std::array::from_fn(|part| self.cost[part] / UNITS[part]);
        Work { decode_sequences, prefill_tokens, context_tokens }
    }

    pub(crate) fn export(&self, state: &mut Writer) {
        state.f64(self.scale.unwrap_or(0.0));
        self.cost.iter().chain(self.covariance.as_flattened()).for_each(|value| state.f64(*value));
    }

    /// `None` where it is not what `export` writes.
    pub(crate) fn import(state: &mut Reader<'_>) -> Option<Self> {
        let scale = state.f64().filter(|scale| scale.is_finite() && *scale >= 0.0)?;
        let mut model = Self { scale: Some(scale).filter(|scale| *scale > 0.0), ..Self::new() };
        for value in model.cost.iter_mut().chain(model.covariance.as_flattened_mut()) {
            *value = state.f64().filter(|value| value.is_finite())?;
        }
        let sound =
            (0..PARTS).all(|part| model.cost[part] >= floor(part, scale) && model.covariance[part][part] >= 0.0);
        sound.then_some(model)
    }
}

/// How far, squared, a part's cost may be off.
fn variance(part: usize, scale: f64) -> f64 {
    let deviation = UNCERTAINTY * PRIOR[part] * scale;
    deviation * deviation
}

/// What is known before anything was learnt: nothing of how the parts go together.
fn uncertain(scale: f64) -> [[f64; PARTS]; PARTS] {
    std::array::from_fn(|part| std::array::from_fn(|other| if part == other { variance(part, scale) } else { 0.0 }))
}

/// Sequences and context may be free; a step and a prompt token are not.
fn floor(part: usize, scale: f64) -> f64 {
    if part == 0 || part == 2 { FLOOR * PRIOR[part] * scale } else { 0.0 }
}

fn dot(a: &[f64; PARTS], b: &[f64; PARTS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(decode_sequences: u32, prefill_tokens: u32, context_tokens: u32) -> Work {
        Work {
            decode_sequences: decode_sequences.into(),
            prefill_tokens: prefill_tokens.into(),
            context_tokens: context_tokens.into(),
        }
    }

    /// Milliseconds on a card that is faster or slower than another.
    fn truth(slower: f64, work: &Work) -> f64 {
        let Work { decode_sequences, prefill_tokens, context_tokens } = *work;
        slower * (12.0 + 0.1 * decode_sequences + 0.2 * prefill_tokens + 0.0002 * context_tokens)
    }

    /// Steps as a replica has them: batches that come and go, prompts in some of them; five in a hundred off.
    fn steps(count: u32) -> impl Iterator<Item = (Work, f64)> {
        (0..count).map(|step| {
            let decode = 1 + step * 7 % 40;
            let prefill = if step % 3 == 0 { step * 37 % 400 } else { 0 };
            let jitter = 1.0 + (f64::from(step * 29 % 11) - 5.0) / 100.0;
            (work(decode, prefill, decode * (600 + step * 13 % 500)), jitter)
        })
    }

    /// A host may report what no step is; nothing that follows from it is without a number.
    #[test]
    fn no_step_is_too_odd_to_learn_from() {
        const COUNTS: [f64; 5] = [0.0, 1.0, 122.0, 874_528_319.0, 1.8e19];
        const MILLIS: [f64; 5] = [1e-6, 1.0, 50.0, 1.7e11, 1.8e13];
        let mut random = 1_u64;
        let mut draw = |from: &[f64; 5]| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            from[(random >> 33) as usize % 5]
        };
        for _ in 0..20_000 {
            let mut model = StepModel::new();
            for _ in 0..8 {
                let (decode_sequences, prefill_tokens) = (draw(&COUNTS), draw(&COUNTS));
                let work = Work { decode_sequences, prefill_tokens, context_tokens: draw(&COUNTS) };
                model.learn(&work, draw(&MILLIS));
                assert!(!model.millis(&work).is_nan(), "{model:?}");
            }
        }
    }

    fn check(slower: f64) {
        let mut model = StepModel::new();
        steps(300).for_each(|(work, jitter)| model.learn(&work, truth(slower, &work) * jitter));
        for asked in [work(1, 0, 500), work(8, 0, 8000), work(32, 128, 30_000), work(32, 400, 25_000)] {
            let error = model.millis(&asked) / truth(slower, &asked) - 1.0;
            assert!(error.abs() < 0.1, "{asked:?} on a card {slower} times as slow is {error} off");
        }
    }

    #[test]
    fn it_learns_any_card_from_its_steps() {
        for slower in [0.01, 0.5, 1.0, 10.0, 1000.0] {
            check(slower);
        }
    }

    #[test]
    fn it_follows_a_card_that_throttles() {
        let mut model = StepModel::new();
        steps(1000).for_each(|(work, jitter)| model.learn(&work, truth(1.0, &work) * jitter));
        steps(600).for_each(|(work, jitter)| model.learn(&work, truth(2.0, &work) * jitter));
        let asked = work(16, 200, 12_000);
        assert!((model.millis(&asked) / truth(2.0, &asked) - 1.0).abs() < 0.1, "{}", model.millis(&asked));
    }

    #[test]
    fn a_hiccup_and_a_time_that_is_none_hardly_matter() {
        let mut model = StepModel::new();
        steps(300).for_each(|(work, jitter)| model.learn(&work, truth(1.0, &work) * jitter));
        let asked = work(16, 200, 12_000);
        let before = model.millis(&asked);
        model.learn(&work(16, 0, 12_000), 2000.0);
        for millis in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            model.learn(&work(16, 0, 12_000), millis);
        }
        assert!((model.millis(&asked) / before - 1.0).abs() < 0.15, "{before}, then {}", model.millis(&asked));
    }

    #[test]
    fn the_same_steps_for_ever_leave_it_sane() {
        let mut model = StepModel::new();
        for _ in 0..100_000 {
            model.learn(&work(1, 0, 100), 12.0);
        }
        assert!((model.millis(&work(1, 0, 100)) - 12.0).abs() < 0.1);
        let prompt = model.millis(&work(1, 256, 100));
        assert!((12.0..200.0).contains(&prompt), "{prompt}");
        assert!(model.covariance.as_flattened().iter().all(|value| value.is_finite()));
    }

    #[test]
    fn what_is_exported_is_imported_and_anything_else_is_refused() {
        let mut model = StepModel::new();
        model.learn(&work(3, 7, 100), 20.0);
        let mut state = Writer::default();
        model.export(&mut state);
        let mut bytes = state.finish();
        assert_eq!(StepModel::import(&mut Reader::new(&bytes)), Some(model));
        assert_eq!(StepModel::import(&mut Reader::new(&bytes[1..])), None);
        bytes[..8].copy_from_slice(&(-1.0_f64).to_le_bytes());
        assert_eq!(StepModel::import(&mut Reader::new(&bytes)), None);
    }
}
