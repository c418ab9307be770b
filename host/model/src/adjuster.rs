//! What a request changes about the logits before a token is drawn, in vLLM's order: bias, repetition penalty, frequency
//! penalty, presence penalty; and what it forbids.

use sluice_core::SamplingParams;

use crate::sampling::Drawing;

/// Keeps its memory between draws.
#[derive(Default)]
pub(crate) struct Adjuster {
    logits: Vec<f32>,
    /// Of each token: 0 where it has not occurred, otherwise one more than its times in the answer. All are 0 between
    /// draws.
    marks: Vec<u32>,
}

impl Adjuster {
    /// Forbidden tokens have a logit of minus infinity, all others a finite one. Tokens that are not in the vocabulary
    /// are passed over.
    pub(crate) fn adjust(&mut self, logits: &[f32], drawing: &Drawing<'_>) -> &[f32] {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for (token, bias) in &drawing.params.logit_bias {
            self.change(*token, |logit| logit + bias);
        }
        if drawing.params.penalises() {
            self.penalise(drawing);
        }
        for token in drawing.forbidden {
            if let Some(logit) = self.logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        &self.logits
    }

    fn penalise(&mut self, drawing: &Drawing<'_>) {
        self.marks.resize(self.logits.len(), 0);
        for token in drawing.prompt {
            if let Some(mark) = self.marks.get_mut(*token as usize) {
                *mark = 1;
            }
        }
        for token in drawing.answer {
            if let Some(mark) = self.marks.get_mut(*token as usize) {
                *mark = (*mark).max(1) + 1;
            }
        }
        for token in drawing.prompt.iter().chain(drawing.answer) {
            let mark = self.marks.get_mut(*token as usize).map_or(0, std::mem::take);
            // A token that occurs again was dealt with when it occurred first.
            if let Some(times) = mark.checked_sub(1) {
                self.change(*token, |logit| penalised(logit, drawing.params, times));
            }
        }
    }

    /// Whatever the parameters, a number stays a number: one request's must not be able to fail a draw.
    fn change(&mut self, token: u32, change: impl FnOnce(f32) -> f32) {
        let Some(logit) = self.logits.get_mut(token as usize) else { return };
        let changed = change(*logit).clamp(f32::MIN, f32::MAX);
        if !changed.is_nan() {
            *logit = changed;
        }
    }
}

/// The logit of a token that occurred: in the prompt, or so many times in the answer.
fn penalised(logit: f32, params: &SamplingParams, times: u32) -> f32 {
    let repetition = params.repetition_penalty;
    let logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
    let present = if times > 0 { params.presence_penalty } else { 0.0 };
    logit - params.frequency_penalty * times as f32 - present
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same, written down token by token in f64; minus infinity for what is forbidden.
    fn reference(logits: &[f32], drawing: &Drawing<'_>) -> Vec<f64> {
        let params = drawing.params;
        let one = |(token, logit): (u32, &f32)| {
            if drawing.forbidden.contains(&token) {
                return f64::NEG_INFINITY;
            }
            let biases = params.logit_bias.iter().filter(|(of, _)| *of == token);
            let mut logit = f64::from(*logit) + biases.map(|(_, bias)| f64::from(*bias)).sum::<f64>();
            let times = drawing.answer.iter().filter(|of| **of == token).count() as f64;
            if times > 0.0 || drawing.prompt.contains(&token) {
                let repetition = f64::from(params.repetition_penalty);
                logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
            }
            logit -= f64::from(params.frequency_penalty) * times;
            logit - if times > 0.0 { f64::from(params.presence_penalty) } else { 0.0 }
        };
        (0..).zip(logits).map(one).collect()
    }

    fn tokens() -> impl Strategy<Value = Vec<u32>> {
        // The vocabulary is smaller: some are not in it.
        prop::collection::vec(prop_oneof![9 => 0u32..40, 1 => any::<u32>()], 0..60)
    }

    fn check(adjuster: &mut Adjuster, logits: &[f32], drawing: &Drawing<'_>) -> Result<(), TestCaseError> {
        let expected = reference(logits, drawing);
        for (token, (found, expected)) in adjuster.adjust(logits, drawing).iter().zip(expected).enumerate() {
            let close = (f64::from(*found) - expected).abs() <= 1e-4 * expected.abs().max(1.0);
            prop_assert!(close || f64::from(*found) == expected, "token {}: {} against {}", token, found, expected);
        }
        prop_assert!(adjuster.marks.iter().all(|mark| *mark == 0), "marks are left");
        Ok(())
    }

    proptest! {
        #[test]
        fn logits_are_changed_as_the_reference_says(
            draws in prop::collection::vec(
                (
                    prop::collection::vec(-30f32..30.0, 30..=30),
                    (tokens(), tokens(), tokens()),
                    prop::collection::vec((0u32..40, -100f32..100.0), 0..8),
                    (0.1f32..3.0, -2f32..2.0, -2f32..2.0),
                ),
                1..4,
            ),
        ) {
            let mut adjuster = Adjuster::default();
            for (logits, (prompt, answer, forbidden), logit_bias, (repetition, frequency, presence)) in draws {
                let params = SamplingParams {
                    repetition_penalty: repetition,
                    frequency_penalty: frequency,
                    presence_penalty: presence,
                    logit_bias,
                    ..SamplingParams::greedy()
                };
                let drawing = Drawing { params: &params, position: 0, prompt: &prompt, answer: &answer, forbidden: &forbidden };
                check(&mut adjuster, &logits, &drawing)?;
            }
        }

        #[test]
        fn no_parameter_makes_a_logit_that_is_no_number(
            logits in prop::collection::vec(-1e30f32..1e30, 1..20),
            history in prop::collection::vec(0u32..20, 0..20),
            parameters: [f32; 4],
        ) {
            let [repetition_penalty, frequency_penalty, presence_penalty, bias] = parameters;
            let logit_bias = (0..20).map(|token| (token, bias)).collect();
            let params = SamplingParams {
                repetition_penalty, frequency_penalty, presence_penalty, logit_bias, ..SamplingParams::greedy()
            };
            let drawing = Drawing { answer: &history, ..Drawing::new(&params, 0) };
            prop_assert!(Adjuster::default().adjust(&logits, &drawing).iter().all(|logit| logit.is_finite()));
        }
    }
}
