//! How many words make a prompt of so many tokens: the server that counts them is asked.

use hyper_util::client::legacy::connect::Connect;
use serde::Serialize;

use crate::body::BodyTemplate;
use crate::caller::Caller;
use crate::failure::Failure;
use crate::prompt::{Prompt, WORDS, joined};

/// Of the two texts that are counted: every word once, and every word twice. Prompts draw each as often as any other, so
/// they take as many tokens a word as these.
const SAMPLES: (u32, u32) = (WORDS.len() as u32, 2 * WORDS.len() as u32);
/// Where no server tells: what common words take in most vocabularies.
const GUESS: Calibration = Calibration { tokens_per_word: 1.0, overhead: 0.0, counted_by: Counter::Nobody };

/// A straight line through two lengths that a server counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Calibration {
    pub(crate) tokens_per_word: f64,
    /// Of every prompt: a template's own tokens.
    pub(crate) overhead: f64,
    pub(crate) counted_by: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Counter {
    /// `/tokenize` of the same prompts.
    Tokenize,
    /// The usage of two answers of one token.
    Usage,
    Nobody,
}

impl Calibration {
    /// From two pairs of words and tokens. None where no length could have given them.
    pub(crate) fn between(less: (u32, u64), more: (u32, u64)) -> Option<Self> {
        let tokens = more.1.checked_sub(less.1).filter(|tokens| *tokens > 0)?;
        let tokens_per_word = tokens as f64 / f64::from(more.0.checked_sub(less.0)?);
        let overhead = (less.1 as f64 - f64::from(less.0) * tokens_per_word).max(0.0);
        tokens_per_word.is_finite().then_some(Self { tokens_per_word, overhead, counted_by: Counter::Nobody })
    }

    /// Of a whole prompt; at least one.
    pub(crate) fn words(&self, tokens: u32) -> u32 {
        (((f64::from(tokens) - self.overhead) / self.tokens_per_word).round() as u32).max(1)
    }

    /// Of a part of a prompt.
    pub(crate) fn words_within(&self, tokens: u32) -> u32 {
        (f64::from(tokens) / self.tokens_per_word).round() as u32
    }

    pub(crate) async fn measure<C>(caller: &Caller<C>, template: &BodyTemplate) -> Self
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        for counter in [Counter::Tokenize, Counter::Usage] {
            if let Some(line) = counter.line(caller, template).await {
                return Self { counted_by: counter, ..line };
            }
        }
        GUESS
    }
}

impl Counter {
    async fn line<C>(self, caller: &Caller<C>, template: &BodyTemplate) -> Option<Calibration>
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let less = self.count(caller, template, SAMPLES.0).await.ok()??;
        let more = self.count(caller, template, SAMPLES.1).await.ok()??;
        Calibration::between((SAMPLES.0, less), (SAMPLES.1, more))
    }

    /// The tokens of a text of so many words.
    async fn count<C>(self, caller: &Caller<C>, template: &BodyTemplate, length: u32) -> Result<Option<u64>, Failure>
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let prompt = Prompt::Text(joined(WORDS.iter().cycle().take(length as usize)));
        if self == Self::Tokenize {
            let answer = caller.json(&caller.urls().tokenize, Some(&template.tokenize(prompt))).await?;
            let listed = answer["tokens"].as_array().map(|tokens| tokens.len() as u64);
            return Ok(answer["count"].as_u64().or(listed));
        }
        let answer = caller.json(&caller.urls().generate, Some(&template.whole().json(prompt, 1))).await?;
        Ok(answer["usage"]["prompt_tokens"].as_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_through_two_counts() {
        let line = Calibration::between((64, 138), (256, 522)).unwrap();
        assert_eq!((line.tokens_per_word, line.overhead), (2.0, 10.0));
        assert_eq!((line.words(1024), line.words(5), line.words_within(100)), (507, 1, 50));
        let bare = Calibration::between((64, 60), (256, 252)).unwrap();
        assert_eq!((bare.tokens_per_word, bare.overhead), (1.0, 0.0));
        for (less, more) in [((64, 10), (256, 10)), ((64, 11), (256, 10)), ((64, 1), (64, 2)), ((65, 1), (64, 2))] {
            assert_eq!(Calibration::between(less, more), None);
        }
    }
}
