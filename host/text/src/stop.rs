//! Finds stop strings in streamed text: holds back only what may be the beginning of one, and emits one only if asked.

use crate::StopError;

/// As in OpenAI's API.
pub const MAX_STOPS: usize = 4;
/// Of each; what is held back is never longer.
pub const MAX_STOP_BYTES: usize = 1_024;

/// One per answer. The match that is complete first counts, and of those that end together the longest.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
    /// What matched is emitted too.
    included: bool,
}

/// Knuth, Morris and Pratt's automaton, so that a byte costs the same whatever the stop string. It works on bytes:
/// a match begins with a character's first byte, so that it is cut between characters.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Box<[u8]>,
    /// For each length matched, the next shorter prefix that is a suffix of it too.
    shorter: Box<[usize]>,
    matched: usize,
}

impl StopMatcher {
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, StopError> {
        if stops.len() > MAX_STOPS {
            return Err(StopError::TooMany { count: stops.len(), limit: MAX_STOPS });
        }
        let patterns = stops.iter().map(|stop| Pattern::new(stop.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { patterns, held: String::new(), stopped: false, included: false })
    }

    /// Emits the stop string that matched as the end of the text.
    #[must_use]
    pub fn including(self, included: bool) -> Self {
        Self { included, ..self }
    }

    /// Appends to `out` what certainly precedes any stop string, and the one that matches if it is included. True once
    /// one has matched; nothing follows then.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            if let Some(length) = self.advance(byte) {
                let hidden = if self.included { 0 } else { length };
                out.push_str(&self.held[..before + at + 1 - hidden]);
                self.held.clear();
                self.stopped = true;
                return true;
            }
        }
        self.release(out);
        false
    }

    /// As `push`, but for text within which no stop string ends the answer; one that only begins in it may.
    pub fn pass(&mut self, text: &str, out: &mut String) {
        self.held.push_str(text);
        for &byte in text.as_bytes() {
            self.patterns.iter_mut().for_each(|pattern| pattern.pass(byte));
        }
        self.release(out);
    }

    /// All but what may still begin a stop string.
    fn release(&mut self, out: &mut String) {
        let keep = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let sure = self.held.len() - keep;
        out.push_str(&self.held[..sure]);
        self.held.drain(..sure);
    }

    /// Appends what was held back: the text is over, so it was no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The length of the longest pattern that ends with this byte.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.patterns.iter_mut().filter_map(|pattern| pattern.advance(byte)).max()
    }
}

impl Pattern {
    fn new(stop: &str) -> Result<Self, StopError> {
        match stop.len() {
            0 => Err(StopError::Empty),
            bytes if bytes > MAX_STOP_BYTES => Err(StopError::TooLong { bytes, limit: MAX_STOP_BYTES }),
            _ => {
                let bytes: Box<[u8]> = stop.as_bytes().into();
                let shorter = shorter_prefixes(&bytes);
                Ok(Self { bytes, shorter, matched: 0 })
            }
        }
    }

    fn advance(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.shorter[self.matched];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        (self.matched == self.bytes.len()).then_some(self.matched)
    }

    fn pass(&mut self, byte: u8) {
        if let Some(length) = self.advance(byte) {
            self.matched = self.shorter[length];
        }
    }
}

/// Entry n: the length of the longest proper prefix of `bytes[..n]` that is also its suffix.
fn shorter_prefixes(bytes: &[u8]) -> Box<[usize]> {
    let mut shorter = vec![0; bytes.len() + 1];
    let mut matched = 0;
    for at in 1..bytes.len() {
        while matched > 0 && bytes[matched] != bytes[at] {
            matched = shorter[matched];
        }
        matched += usize::from(bytes[matched] == bytes[at]);
        shorter[at + 1] = matched;
    }
    shorter.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same rule on the whole text at once: the first end, and of the matches there the longest.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in text.char_indices().map(|(at, c)| at + c.len_utf8()) {
            let longest = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(String::len).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn streamed(chunks: &[String], stops: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut out = String::new();
        for chunk in chunks {
            if matcher.push(chunk, &mut out) {
                break;
            }
        }
        matcher.finish(&mut out);
        (out, matcher.stopped())
    }

    #[test]
    fn emits_all_but_what_may_begin_a_stop_string() {
        let check = |stops: &[&str], steps: &[(&str, &str, bool)]| {
            let mut matcher = StopMatcher::new(stops).unwrap();
            for (chunk, expected, stopped) in steps {
                let mut out = String::new();
                assert_eq!(matcher.push(chunk, &mut out), *stopped, "{stops:?} {chunk:?}");
                assert_eq!(&out, expected, "{stops:?} {chunk:?}");
            }
        };
        check(&[], &[("any", "any", false), ("", "", false)]);
        check(&["END"], &[("the E", "the ", false), ("N", "", false), ("d E", "ENd ", false), ("ND more", "", true)]);
        check(&["aab"], &[("aa", "", false), ("a", "a", false), ("b", "", true), ("after", "", true)]);
        check(&["abc", "b"], &[("a", "", false), ("b", "a", true)]);
        check(&["bc", "abc"], &[("xab", "x", false), ("c", "", true)]);
        check(&["é!"], &[("caf", "caf", false), ("é", "", false), ("?", "é?", false)]);
        check(&["\n\n"], &[("a\n", "a", false), ("b\n", "\nb", false), ("\n", "", true)]);
    }

    #[test]
    fn a_stop_string_that_is_included_ends_the_text() {
        let mut matcher = StopMatcher::new(&["END", "é"]).unwrap().including(true);
        let mut out = String::new();
        assert!(!matcher.push("the E", &mut out));
        assert_eq!(out, "the ");
        assert!(matcher.push("ND more", &mut out));
        matcher.finish(&mut out);
        assert_eq!(out, "the END");
    }

    #[test]
    fn a_stop_string_that_ends_too_early_is_text() {
        let check = |passed: &[&str], pushed: &str, expected: (&str, bool)| {
            let mut matcher = StopMatcher::new(&["aba", "é"]).unwrap();
            let mut out = String::new();
            passed.iter().for_each(|text| matcher.pass(text, &mut out));
            let stopped = matcher.push(pushed, &mut out);
            matcher.finish(&mut out);
            assert_eq!((out.as_str(), stopped), expected, "{passed:?} {pushed:?}");
        };
        check(&[], "xaba", ("x", true));
        check(&["xaba"], "c", ("xabac", false));
        check(&["xaba"], "caba", ("xabac", true));
        check(&["é", "aé"], "b", ("éaéb", false));
        // What begins early may end an answer later, also within what had matched.
        check(&["xab"], "a", ("x", true));
        check(&["aba"], "ba", ("ab", true));
    }

    #[test]
    fn stop_strings_have_bounds() {
        let check = |stops: &[String], error| assert_eq!(StopMatcher::new(stops).unwrap_err(), error);
        check(&vec!["x".into(); 5], StopError::TooMany { count: 5, limit: 4 });
        check(&["".into()], StopError::Empty);
        check(&["x".repeat(1_025)], StopError::TooLong { bytes: 1_025, limit: 1_024 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn streaming_finds_what_a_search_of_the_whole_finds(
            chunks in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,5}", 0..=4),
        ) {
            prop_assert_eq!(streamed(&chunks, &stops), naive(&chunks.concat(), &stops));
        }
    }
}
