//! What a server says that an answer cost, and whether that can be.

use serde::Deserialize;

use crate::record::Asked;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(default)]
    pub(crate) prompt_tokens: u64,
    #[serde(default)]
    pub(crate) completion_tokens: u64,
    #[serde(default)]
    pub(crate) total_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl Usage {
    pub(crate) fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens)
    }

    /// What cannot be, if anything. `output` says whether the answer carried any.
    pub(crate) fn contradiction(&self, asked: &Asked, output: bool) -> Option<String> {
        let Self { prompt_tokens, completion_tokens, total_tokens, .. } = *self;
        let sum = prompt_tokens.saturating_add(completion_tokens);
        if let Some(total) = total_tokens.filter(|total| *total != sum) {
            return Some(format!("total_tokens {total} is not {prompt_tokens} + {completion_tokens}"));
        }
        if let Some(most) = asked.output_tokens.filter(|most| completion_tokens > u64::from(*most)) {
            return Some(format!("completion_tokens {completion_tokens} is over max_tokens {most}"));
        }
        if completion_tokens == 0 && output {
            return Some("completion_tokens is 0, and the answer has output".to_owned());
        }
        match asked.exact_input_tokens {
            Some(exact) if u64::from(exact) != prompt_tokens => {
                Some(format!("prompt_tokens {prompt_tokens} for a prompt of {exact} token ids"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_is_a_contradiction() {
        let asked = Asked { input_tokens: Some(10), exact_input_tokens: Some(10), output_tokens: Some(5) };
        let text = Asked { exact_input_tokens: None, ..asked };
        let unbounded = Asked { output_tokens: None, ..asked };
        let usage = |prompt_tokens, completion_tokens, total_tokens| Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens,
            ..Usage::default()
        };
        let cases = [
            (usage(10, 5, Some(15)), asked, true, None),
            (usage(10, 5, None), asked, true, None),
            (usage(11, 5, Some(16)), text, true, None),
            (usage(10, 0, Some(10)), asked, false, None),
            (usage(10, 6, Some(16)), unbounded, true, None),
            (usage(11, 5, Some(16)), asked, true, Some("prompt_tokens 11 for a prompt of 10 token ids")),
            (usage(10, 6, Some(16)), asked, true, Some("completion_tokens 6 is over max_tokens 5")),
            (usage(10, 5, Some(16)), asked, true, Some("total_tokens 16 is not 10 + 5")),
            (usage(10, 0, Some(10)), asked, true, Some("completion_tokens is 0, and the answer has output")),
        ];
        for (usage, asked, output, expected) in cases {
            assert_eq!(usage.contradiction(&asked, output).as_deref(), expected, "{usage:?}");
        }
    }
}
