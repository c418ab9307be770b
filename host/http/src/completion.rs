//! Reads the body of a plain completion.

use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use crate::parameters::Parameters;
use crate::prepare::{Ask, Prompt};

const NAME: &str = "prompt";

pub(crate) fn read(mut fields: Fields) -> Result<Ask, ApiError> {
    let parameters = Parameters::read(&fields, &["max_tokens", "max_completion_tokens"])?;
    let prompt = fields.take(NAME).ok_or_else(|| ApiError::invalid(NAME, "`prompt` is missing"))?;
    Ok(Ask { prompt: read_prompt(prompt)?, parameters })
}

/// A text or a list of tokens, alone or as the only entry of a list.
fn read_prompt(prompt: Value) -> Result<Prompt, ApiError> {
    let mut list = match prompt {
        Value::String(text) => return Ok(Prompt::Text(text)),
        Value::Array(list) => list,
        other => return Err(wrong(NAME, "a text or a list of tokens", &other)),
    };
    if list.first().is_some_and(Value::is_number) {
        return read_tokens(&list);
    }
    match (list.pop(), list.len()) {
        (None, _) => Err(ApiError::invalid(NAME, "`prompt` is empty")),
        (Some(Value::String(text)), 0) => Ok(Prompt::Text(text)),
        (Some(Value::Array(tokens)), 0) => read_tokens(&tokens),
        (Some(other), 0) => Err(wrong(NAME, "a text or a list of tokens", &other)),
        (Some(_), _) => {
            Err(ApiError::unsupported(NAME, "one prompt a request is supported yet: send the others on their own"))
        }
    }
}

fn read_tokens(tokens: &[Value]) -> Result<Prompt, ApiError> {
    let token = |value: &Value| {
        let token = value.as_u64().and_then(|token| u32::try_from(token).ok());
        token.ok_or_else(|| wrong(NAME, "a list of tokens", value))
    };
    Ok(Prompt::Tokens(tokens.iter().map(token).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(json: &str) -> Result<Prompt, ApiError> {
        Ok(read(Fields::parse(format!(r#"{{"prompt": {json}}}"#).as_bytes())?)?.prompt)
    }

    #[test]
    fn one_prompt_in_four_shapes() {
        assert_eq!(prompt(r#""a""#), Ok(Prompt::Text("a".to_owned())));
        assert_eq!(prompt(r#"["a"]"#), Ok(Prompt::Text("a".to_owned())));
        assert_eq!(prompt("[1, 2]"), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(prompt("[[1, 2]]"), Ok(Prompt::Tokens(vec![1, 2])));
    }

    #[test]
    fn everything_else_is_an_error() {
        let cases = [
            ("null", "invalid_value"),
            ("[]", "invalid_value"),
            ("5", "invalid_value"),
            ("[1, -2]", "invalid_value"),
            (r#"[1, "a"]"#, "invalid_value"),
            ("[{}]", "invalid_value"),
            (r#"["a", "b"]"#, "unsupported_parameter"),
            ("[[1], [2]]", "unsupported_parameter"),
        ];
        for (json, code) in cases {
            assert_eq!(prompt(json).unwrap_err().code(), code, "{json}");
        }
    }
}
