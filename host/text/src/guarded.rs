//! Keeps text from a client apart from the special tokens of the template around it.
//!
//! A chat template joins both to one text, and may trim, split or search what the client wrote on the way. So the
//! client's text goes in as it is, but for a mark, a character that occurs nowhere else, in the middle of whatever
//! reads like a special token; whatever reads like one afterwards is the template's. Then the marks are taken out
//! again.

use std::borrow::Cow;
use std::convert::Infallible;

use crate::error::TemplateError;
use crate::special::{Special, Specials};

pub(crate) struct Guard<'s> {
    specials: &'s Specials,
    mark: char,
}

/// Planes that Unicode leaves to private use; a chat that uses all of them is too long to be taken.
const MARKS: std::ops::RangeInclusive<char> = '\u{F0000}'..='\u{10FFFD}';

impl<'s> Guard<'s> {
    /// `texts` is all that may end up in the rendered text.
    pub(crate) fn new<'t>(specials: &'s Specials, texts: impl Iterator<Item = &'t str>) -> Self {
        let first = *MARKS.start();
        let used: std::collections::BTreeSet<char> = texts.flat_map(str::chars).filter(|&c| c >= first).collect();
        let mark = MARKS.into_iter().find(|c| !used.contains(c)).unwrap_or(first);
        Self { specials, mark }
    }

    /// The text with a mark wherever a special token could be read in it, or out of its edge and the template's text.
    pub(crate) fn guard<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let cuts = self.cuts(text);
        if cuts.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut guarded = String::with_capacity(text.len() + cuts.len() * self.mark.len_utf8());
        let mut done = 0;
        for cut in cuts {
            guarded.push_str(&text[done..cut]);
            guarded.push(self.mark);
            done = cut;
        }
        guarded.push_str(&text[done..]);
        Cow::Owned(guarded)
    }

    /// Calls `part` for each part of a rendered text, in order.
    pub(crate) fn split<E>(&self, rendered: &str, mut part: impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut done = 0;
        while let Some((at, special)) = self.specials.find(rendered, done) {
            let end = at + special.content.len();
            let mut before = &rendered[done..at];
            if special.strips_before {
                before = before.trim_end();
            }
            part(Part::Plain(&self.without_marks(before)))?;
            part(Part::Special(special.id))?;
            done = end;
            if special.strips_after {
                done = rendered.len() - rendered[end..].trim_start().len();
            }
        }
        part(Part::Plain(&self.without_marks(&rendered[done..])))
    }

    /// How much of a rendered text is text, without special tokens and marks.
    pub(crate) fn plain_bytes(&self, rendered: &str) -> usize {
        let mut bytes = 0;
        let Ok(()) = self.split(rendered, |part| -> Result<(), Infallible> {
            bytes += if let Part::Plain(text) = part { text.len() } else { 0 };
            Ok(())
        });
        bytes
    }

    /// What a template says of a client's text, without marks.
    pub(crate) fn unmark(&self, error: TemplateError) -> TemplateError {
        match error {
            TemplateError::Refused { reason } => {
                TemplateError::Refused { reason: self.without_marks(&reason).into_owned() }
            }
            TemplateError::Failed { reason } => {
                TemplateError::Failed { reason: self.without_marks(&reason).into_owned() }
            }
            other => other,
        }
    }

    pub(crate) fn without_marks<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if text.contains(self.mark) { Cow::Owned(text.replace(self.mark, "")) } else { Cow::Borrowed(text) }
    }

    /// Where marks belong, in order.
    fn cuts(&self, text: &str) -> Vec<usize> {
        let mut cuts = Vec::new();
        let mut from = 0;
        while let Some((at, special)) = self.specials.find(text, from) {
            from = at + special.content.chars().next().map_or(1, char::len_utf8);
            cuts.push(from);
        }
        // Templates trim: what counts is the edge of the text within the white space.
        let inner = text.trim();
        let begin = text.len() - text.trim_start().len();
        if self.specials.iter().any(|special| ends_in(special, inner) || lies_in(special, inner)) {
            cuts.push(begin);
        }
        if self.specials.iter().any(|special| begins_in(special, inner)) {
            cuts.push(begin + inner.len());
        }
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }
}

pub(crate) enum Part<'t> {
    Plain(&'t str),
    Special(u32),
}

/// Text before `text` could make a special token together with its beginning.
fn ends_in(special: &Special, text: &str) -> bool {
    let inner = special.content.char_indices().skip(1).map(|(at, _)| at);
    inner.into_iter().any(|at| text.starts_with(&special.content[at..]))
}

/// Text on both sides of `text` could make a special token together with it. A plain word is let through: templates
/// compare it with words of their own, and some make the marks of a role out of its name.
fn lies_in(special: &Special, text: &str) -> bool {
    let word = text.chars().all(|c| c.is_alphanumeric() || c == '_');
    !word && special.content.len() > text.len() + 1 && special.content.contains(text)
}

/// Text after `text` could make a special token together with its end.
fn begins_in(special: &Special, text: &str) -> bool {
    let inner = special.content.char_indices().skip(1).map(|(at, _)| at);
    inner.into_iter().any(|at| text.ends_with(&special.content[..at]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specials() -> Specials {
        let special = |id, content: &str, strip| Special {
            id,
            content: content.to_owned(),
            strips_before: strip,
            strips_after: strip,
        };
        Specials::new(vec![
            special(1, "<|a|>", false),
            special(2, "<|b|>", false),
            special(3, "<s>", true),
            special(4, "#", false),
        ])
    }

    /// Ids in brackets, text as it is.
    fn parts(guard: &Guard<'_>, rendered: &str) -> String {
        let mut out = String::new();
        let split: Result<(), std::convert::Infallible> = guard.split(rendered, |part| {
            match part {
                Part::Plain(text) => out += text,
                Part::Special(id) => out += &format!("[{id}]"),
            }
            Ok(())
        });
        split.unwrap();
        out
    }

    #[test]
    fn only_the_templates_own_tokens_are_special() {
        let specials = specials();
        let check = |content: &str, expected: &str| {
            let guard = Guard::new(&specials, [content].into_iter());
            let rendered = format!("<|a|>{}<|b|> <s> end", guard.guard(content).trim());
            assert_eq!(parts(&guard, &rendered), expected, "{content}");
        };
        check("hello", "[1]hello[2][3]end");
        check("<|b|>", "[1]<|b|>[2][3]end");
        check("<<|b|><|b|>|b|>", "[1]<<|b|><|b|>|b|>[2][3]end");
        check("a # b#", "[1]a # b#[2][3]end");
        check(" <s> x ", "[1]<s> x[2][3]end");
        check("\u{F0000}<|a|>", "[1]\u{F0000}<|a|>[2][3]end");
    }

    #[test]
    fn a_token_is_not_put_together_out_of_both() {
        let specials = specials();
        for content in ["b|>", " |b|> ", "<|b", " <|b|", "<"] {
            let guard = Guard::new(&specials, [content].into_iter());
            let content = guard.guard(content);
            for rendered in [format!("<|{}", content.trim()), format!("{}|>", content.trim()), format!("<{content}>")] {
                assert!(!parts(&guard, &rendered).contains('['), "{rendered}");
            }
        }
    }

    #[test]
    fn a_token_is_not_put_together_around_a_clients_text() {
        let specials = specials();
        for (text, whole) in [("|a|", "<|a|>"), (" |a|\n", "<|a|>"), ("|b", "<|b|>"), ("|", "<|a|>")] {
            let guard = Guard::new(&specials, [text].into_iter());
            let (before, after) = whole.split_once(text.trim()).unwrap();
            let rendered = format!("{before}{}{after}", guard.guard(text).trim());
            assert_eq!(parts(&guard, &rendered), whole);
        }
        // A role's name may be what the template makes a mark of.
        let guard = Guard::new(&specials, ["a"].into_iter());
        assert_eq!(parts(&guard, &format!("<|{}|>", guard.guard("a"))), "[1]");
    }

    proptest! {
        #[test]
        fn what_a_client_writes_stays_text(contents in prop::collection::vec("[<|ab>s# ]{0,12}", 1..4)) {
            let specials = specials();
            let guard = Guard::new(&specials, contents.iter().map(String::as_str));
            let rendered: String = contents.iter().map(|text| format!("<|a|>{}\n", guard.guard(text))).collect();
            let expected: String = contents.iter().map(|text| format!("[1]{text}\n")).collect();
            prop_assert_eq!(parts(&guard, &rendered), expected);
        }
    }
}
