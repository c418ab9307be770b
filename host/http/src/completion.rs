//! Reads the body of a plain completion.

use sluice_text::Json;

use crate::error::ApiError;
use crate::fields::{Fields, tokens, wrong};
use crate::object::Endpoint;
use crate::parameters::Parameters;
use crate::prepare::{Ask, Prompt};

const NAME: &str = "prompt";

pub(crate) fn read(mut fields: Fields, max_prompts: usize) -> Result<Ask, ApiError> {
    let parameters = Parameters::read(&fields, Endpoint::Completion)?;
    let prompt = fields.take(NAME).ok_or_else(|| ApiError::invalid(NAME, "`prompt` is missing"))?;
    Ok(Ask { prompts: read_prompts(prompt, max_prompts)?, parameters })
}

/// A text or a list of tokens, or a list of these.
fn read_prompts(prompt: Json, most: usize) -> Result<Vec<Prompt>, ApiError> {
    let list = match prompt {
        Json::List(list) if !matches!(list.first(), Some(Json::Number(_))) => list,
        one => return Ok(vec![read_prompt(NAME, one)?]),
    };
    if list.is_empty() {
        return Err(ApiError::invalid(NAME, "`prompt` is empty"));
    }
    if list.len() > most {
        let message = format!("`prompt` has {} prompts; at most {most} are taken in one request", list.len());
        return Err(ApiError::invalid(NAME, message));
    }
    list.into_iter().enumerate().map(|(index, one)| read_prompt(&format!("{NAME}[{index}]"), one)).collect()
}

fn read_prompt(name: &str, prompt: Json) -> Result<Prompt, ApiError> {
    match prompt {
        Json::Text(text) => Ok(Prompt::Text(text)),
        Json::List(list) => Ok(Prompt::Tokens(tokens(name, &list)?)),
        other => Err(wrong(name, "a text or a list of tokens", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(json: &str) -> Result<Vec<Prompt>, ApiError> {
        Ok(read(Fields::parse(format!(r#"{{"prompt": {json}}}"#).as_bytes())?, 2)?.prompts)
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(prompts(r#""a""#), Ok(vec![text("a")]));
        assert_eq!(prompts(r#"["a", "b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts("[1, 2]"), Ok(vec![Prompt::Tokens(vec![1, 2])]));
        assert_eq!(prompts("[[1, 2], [3]]"), Ok(vec![Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]));
    }

    #[test]
    fn the_error_says_which_prompt() {
        let cases = [
            ("null", "prompt"),
            ("[]", "prompt"),
            ("5", "prompt"),
            ("[1, -2]", "prompt"),
            (r#"[1, "a"]"#, "prompt"),
            ("[{}]", "prompt[0]"),
            (r#"["a", 5]"#, "prompt[1]"),
            ("[[1], [4294967296]]", "prompt[1]"),
            (r#"["a", "b", "c"]"#, "prompt"),
        ];
        for (json, param) in cases {
            let error = prompts(json).unwrap_err().json();
            assert!(error.contains(&format!(r#""param":"{param}""#)), "{json}: {error}");
        }
    }
}
