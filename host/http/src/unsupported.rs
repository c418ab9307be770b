//! Refuses what would change an answer and is not implemented, unless it says what happens anyway.

use sluice_text::Json;

use crate::error::ApiError;
use crate::fields::{Fields, as_f64};

/// For both endpoints.
pub(crate) fn refuse(fields: &Fields) -> Result<(), ApiError> {
    for (name, value) in [("use_beam_search", false), ("continue_final_message", false), ("skip_special_tokens", true)]
    {
        fields.neutral(name, |found| *found == Json::Bool(value))?;
    }
    for name in ["suffix", "functions", "bad_words", "allowed_token_ids", "documents"] {
        fields.neutral(name, is_empty)?;
    }
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"] {
        fields.neutral(name, |_| false)?;
    }
    for name in ["audio", "prompt_logprobs"] {
        fields.neutral(name, |_| false)?;
    }
    fields.neutral("length_penalty", |value| as_f64(value) == Some(1.0))?;
    fields.neutral("function_call", |value| matches!(value.as_text(), Some("none" | "auto")))?;
    fields.neutral("response_format", |value| value.get("type").and_then(Json::as_text) == Some("text"))?;
    fields.neutral("modalities", |value| *value == Json::List(vec![Json::text("text")]))?;
    match fields.get("chat_template") {
        Some(_) => Err(ApiError::unsupported(
            "chat_template",
            "`chat_template` comes from the model's folder, never from a request: leave it out",
        )),
        None => Ok(()),
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::List(list) => list.is_empty(),
        Json::Object(members) => members.is_empty(),
        Json::Text(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, param: Option<&str>) {
        let refused = refuse(&Fields::parse(json.as_bytes()).unwrap()).err();
        assert_eq!(refused.as_ref().map(ApiError::code), param.map(|_| "unsupported_parameter"), "{json}");
        if let (Some(error), Some(param)) = (refused, param) {
            assert!(error.json().contains(&format!(r#""param":"{param}""#)), "{json}: {}", error.json());
        }
    }

    #[test]
    fn only_what_changes_nothing_passes() {
        let neutral = r#"{"suffix": null, "bad_words": [], "documents": [], "length_penalty": 1, "modalities": ["text"],
            "skip_special_tokens": true, "continue_final_message": false, "function_call": "auto", "functions": [],
            "response_format": {"type": "text"}, "use_beam_search": false, "chat_template": null}"#;
        check(neutral, None);
        for (json, param) in [
            (r#"{"suffix": "x"}"#, "suffix"),
            (r#"{"response_format": {"type": "json_object"}}"#, "response_format"),
            (r#"{"response_format": {"type": "json_schema", "json_schema": {}}}"#, "response_format"),
            (r#"{"response_format": "text"}"#, "response_format"),
            (r#"{"guided_json": {}}"#, "guided_json"),
            (r#"{"structured_outputs": {}}"#, "structured_outputs"),
            (r#"{"functions": [{}]}"#, "functions"),
            (r#"{"bad_words": ["x"]}"#, "bad_words"),
            (r#"{"allowed_token_ids": [1]}"#, "allowed_token_ids"),
            (r#"{"modalities": ["text", "audio"]}"#, "modalities"),
            (r#"{"prompt_logprobs": 0}"#, "prompt_logprobs"),
            (r#"{"skip_special_tokens": false}"#, "skip_special_tokens"),
            (r#"{"continue_final_message": true}"#, "continue_final_message"),
            (r#"{"length_penalty": 0.5}"#, "length_penalty"),
            (r#"{"chat_template": "{{ 1 }}"}"#, "chat_template"),
        ] {
            check(json, Some(param));
        }
    }
}
