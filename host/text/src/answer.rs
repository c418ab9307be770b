//! One answer on its way to the client: tokens in, text out, up to a stop string.

use std::sync::Arc;

use crate::{Detokenizer, StopError, StopMatcher, Tokenizer};

#[derive(Clone, Debug)]
pub struct Answer {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    /// Tokens to come within which no stop string ends the answer.
    unstoppable: u32,
    /// What one token adds; kept so that a token allocates nothing.
    piece: String,
}

impl Answer {
    pub fn new<S: AsRef<str>>(tokenizer: &Arc<Tokenizer>, stops: &[S]) -> Result<Self, StopError> {
        let stop = StopMatcher::new(stops)?;
        Ok(Self { detokenizer: Detokenizer::new(tokenizer), stop, unstoppable: 0, piece: String::new() })
    }

    /// Shows the stop string that ends the answer.
    #[must_use]
    pub fn including_stop(self, included: bool) -> Self {
        Self { stop: self.stop.including(included), ..self }
    }

    /// No stop string that ends within the first so many tokens ends the answer.
    #[must_use]
    pub fn of_at_least(self, tokens: u32) -> Self {
        Self { unstoppable: tokens, ..self }
    }

    /// Appends what can be shown after this token. True once a stop string has matched; nothing follows then.
    pub fn push(&mut self, token: u32, out: &mut String) -> bool {
        self.piece.clear();
        self.detokenizer.push(token, &mut self.piece);
        if self.unstoppable > 0 {
            self.unstoppable -= 1;
            self.stop.pass(&self.piece, out);
            return false;
        }
        self.stop.push(&self.piece, out)
    }

    /// Appends what was held back, after the last token. True if that completed a stop string.
    pub fn finish(&mut self, out: &mut String) -> bool {
        self.piece.clear();
        self.detokenizer.finish(&mut self.piece);
        let stopped = self.stop.push(&self.piece, out);
        self.stop.finish(out);
        stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::embedded;

    fn answer(text: &str, stops: &[&str]) -> (String, bool) {
        let tokenizer = embedded();
        let mut answer = Answer::new(&tokenizer, stops).unwrap();
        let mut out = String::new();
        let stopped = tokenizer.encode(text).unwrap().into_iter().any(|token| answer.push(token, &mut out));
        let stopped = answer.finish(&mut out) || stopped;
        (out, stopped)
    }

    #[test]
    fn an_answer_ends_before_its_stop_string() {
        let check = |text, stops: &[&str], expected: &str, stopped| {
            assert_eq!(answer(text, stops), (expected.to_owned(), stopped), "{text} {stops:?}");
        };
        check("Sluice swaps policies.", &[], "Sluice swaps policies.", false);
        check("Sluice swaps policies.", &["aps p"], "Sluice sw", true);
        check("Sluice swaps policies.", &["policies!", "zz"], "Sluice swaps policies.", false);
        check("é🦀é", &["🦀"], "é", true);
        check("", &["x"], "", false);
    }

    #[test]
    fn an_answer_is_at_least_as_long_as_it_was_asked_to_be() {
        let tokenizer = embedded();
        let tokens = tokenizer.encode("stop stop stop").unwrap();
        let of_one = tokenizer.encode("stop").unwrap().len() as u32;
        let end = |least: u32| {
            let mut answer = Answer::new(&tokenizer, &["stop"]).unwrap().of_at_least(least);
            let mut out = String::new();
            tokens.iter().find(|&&token| answer.push(token, &mut out));
            out
        };
        assert_eq!((end(0).as_str(), end(of_one).as_str()), ("", "stop "));
        assert_eq!(end(tokens.len() as u32), "stop stop stop");
    }

    #[test]
    fn a_stop_string_may_be_a_replaced_character() {
        let tokenizer = embedded();
        let mut answer = Answer::new(&tokenizer, &["\u{FFFD}"]).unwrap();
        let mut out = String::new();
        let token = tokenizer.encode("🦀").unwrap()[0];
        assert!(!answer.push(token, &mut out));
        assert!(answer.finish(&mut out));
        assert_eq!(out, "");
    }
}
