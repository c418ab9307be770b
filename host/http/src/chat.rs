//! Reads the body of a chat completion.

use serde_json::Value;

use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use crate::parameters::Parameters;
use crate::prepare::{Ask, Prompt};
use crate::text::Message;

pub(crate) fn read(mut fields: Fields, max_messages: usize) -> Result<Ask, ApiError> {
    let parameters = Parameters::read(&fields, &["max_completion_tokens", "max_tokens"])?;
    let messages = match fields.take("messages") {
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(wrong("messages", "a list of messages", &other)),
        None => return Err(ApiError::invalid("messages", "`messages` is missing")),
    };
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty: at least one message is needed"));
    }
    if messages.len() > max_messages {
        let message = format!("`messages` has {} entries; at most {max_messages} are taken", messages.len());
        return Err(ApiError::invalid("messages", message));
    }
    let messages = messages.into_iter().enumerate().map(|(index, message)| read_message(index, message));
    Ok(Ask { prompt: Prompt::Chat(messages.collect::<Result<_, _>>()?), parameters })
}

fn read_message(index: usize, message: Value) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut message) = message else {
        return Err(wrong(&format!("messages[{index}]"), "an object", &message));
    };
    for field in ["tool_calls", "function_call", "audio"] {
        let used = message.get(field).is_some_and(|value| !value.is_null() && *value != Value::Array(Vec::new()));
        if used {
            return Err(ApiError::unsupported(at(field), format!("`{}` is not supported yet", at(field))));
        }
    }
    let role = match message.get("role").and_then(Value::as_str) {
        // The newer name of the same role; templates know the older one.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some(role @ ("tool" | "function")) => {
            return Err(ApiError::unsupported(
                at("role"),
                format!("messages of the role `{role}` are not supported yet"),
            ));
        }
        Some(_) => {
            return Err(ApiError::invalid(at("role"), "the role must be system, developer, user or assistant"));
        }
        None => return Err(ApiError::invalid(at("role"), format!("`{}` is missing", at("role")))),
    };
    let role = role.to_owned();
    let content = read_content(index, message.remove("content"))?;
    Ok(Message { role, content })
}

/// A string, null, or a list of parts of text.
fn read_content(index: usize, content: Option<Value>) -> Result<String, ApiError> {
    let name = format!("messages[{index}].content");
    let parts = match content {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong(&name, "a string or a list of parts", &other)),
    };
    let mut content = String::new();
    for part in &parts {
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => content.push_str(text),
            (Some("text"), None) => return Err(ApiError::invalid(name, "a part of type `text` has no `text`")),
            (Some(_), _) => return Err(ApiError::unsupported(name, "only parts of type `text` are supported")),
            (None, _) => return Err(ApiError::invalid(name, "a part of the content has no `type`")),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(json: &str) -> Result<Vec<(String, String)>, ApiError> {
        let json = format!(r#"{{"messages": {json}}}"#);
        let Prompt::Chat(messages) = read(Fields::parse(json.as_bytes())?, 3)?.prompt else { panic!("a chat") };
        Ok(messages.into_iter().map(|message| (message.role, message.content)).collect())
    }

    #[test]
    fn content_is_text_parts_or_null() {
        let read = messages(
            r#"[{"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null, "tool_calls": null}]"#,
        );
        let expected = [("system", "be brief"), ("user", "ab"), ("assistant", "")];
        assert_eq!(read.unwrap(), expected.map(|(role, content)| (role.to_owned(), content.to_owned())));
    }

    #[test]
    fn the_error_says_which_message() {
        let cases = [
            ("[]", "messages"),
            (r#""hi""#, "messages"),
            ("null", "messages"),
            (r#"["hi"]"#, "messages[0]"),
            (r#"[{"content": "x"}]"#, "messages[0].role"),
            (r#"[{"role": "king", "content": "x"}]"#, "messages[0].role"),
            (r#"[{"role": "tool", "content": "x"}]"#, "messages[0].role"),
            (r#"[{"role": "user", "content": 5}]"#, "messages[0].content"),
            (r#"[{"role": "user", "content": [{"type": "image_url"}]}]"#, "messages[0].content"),
            (r#"[{"role": "user", "content": [5]}]"#, "messages[0].content"),
            (r#"[{"role": "assistant", "tool_calls": [{}]}]"#, "messages[0].tool_calls"),
            (r#"[{"role": "user"}, {"role": "user"}, {"role": "user"}, {"role": "user"}]"#, "messages"),
        ];
        for (json, param) in cases {
            let error = messages(json).unwrap_err().json();
            assert!(error.contains(&format!(r#""param":"{param}""#)), "{json}: {error}");
        }
    }
}
