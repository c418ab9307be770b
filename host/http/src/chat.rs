//! Reads the body of a chat completion.

use sluice_text::{ChatMessage, ChatRequest, Json};

use crate::error::ApiError;
use crate::fields::{Fields, wrong};
use crate::object::Endpoint;
use crate::parameters::Parameters;
use crate::prepare::{Ask, Prompt};

/// In a request, and calls of them in a message.
const MAX_TOOLS: usize = 128;
/// What templates know of a message beside its role and its content.
const CARRIED: [&str; 6] = ["name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"];

pub(crate) fn read(mut fields: Fields, max_messages: usize) -> Result<Ask, ApiError> {
    let parameters = Parameters::read(&fields, Endpoint::Chat)?;
    let chat = read_chat(&mut fields, max_messages)?;
    check_tool_choice(&fields, &chat)?;
    Ok(Ask { prompts: vec![Prompt::Chat(chat)], parameters })
}

/// What a prompt is made from.
pub(crate) fn read_chat(fields: &mut Fields, max_messages: usize) -> Result<ChatRequest, ApiError> {
    let mut chat = ChatRequest::new(read_messages(fields, max_messages)?);
    chat.tools = read_tools(fields)?;
    chat.add_generation_prompt = fields.boolean("add_generation_prompt")?.unwrap_or(true);
    chat.kwargs = match fields.take("chat_template_kwargs") {
        None => Vec::new(),
        Some(Json::Object(members)) => members,
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
    };
    Ok(chat)
}

fn read_messages(fields: &mut Fields, most: usize) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = match fields.take("messages") {
        Some(Json::List(messages)) => messages,
        Some(other) => return Err(wrong("messages", "a list of messages", &other)),
        None => return Err(ApiError::invalid("messages", "`messages` is missing")),
    };
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty: at least one message is needed"));
    }
    bounded("messages", messages.len(), most)?;
    messages.into_iter().enumerate().map(|(index, message)| read_message(index, message)).collect()
}

fn read_tools(fields: &mut Fields) -> Result<Vec<Json>, ApiError> {
    let tools = match fields.take("tools") {
        None => return Ok(Vec::new()),
        Some(Json::List(tools)) => tools,
        Some(other) => return Err(wrong("tools", "a list of tools", &other)),
    };
    bounded("tools", tools.len(), MAX_TOOLS)?;
    match tools.iter().position(|tool| !names_function(tool)) {
        Some(index) => Err(ApiError::invalid(
            "tools",
            format!("`tools[{index}]` must be an object with a `function` and its `name`"),
        )),
        None => Ok(tools),
    }
}

/// Tools can be shown to the model; what it calls is not read from its answer, which stays text.
fn check_tool_choice(fields: &Fields, chat: &ChatRequest) -> Result<(), ApiError> {
    let choice = fields.get("tool_choice").map(|choice| choice.as_text().unwrap_or("a tool"));
    match choice {
        Some("none") => Ok(()),
        None | Some("auto") if chat.tools.is_empty() => Ok(()),
        _ if chat.tools.is_empty() => {
            Err(ApiError::unsupported("tool_choice", "`tool_choice` is not supported yet: leave it out"))
        }
        _ => Err(ApiError::unsupported(
            "tools",
            "calls of tools are not read from answers yet: leave `tools` out, or send `tool_choice: \"none\"` to show \
             them to the model and get its answer as text",
        )),
    }
}

fn read_message(index: usize, message: Json) -> Result<ChatMessage, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Json::Object(members) = message else {
        return Err(wrong(&format!("messages[{index}]"), "an object", &message));
    };
    let (mut role, mut content, mut others) = (None, None, Vec::new());
    for (name, value) in members {
        match name.as_str() {
            "role" => role = Some(value),
            "content" => content = Some(value),
            "function_call" | "audio" if value != Json::Null => {
                return Err(ApiError::unsupported(at(&name), format!("`{}` is not supported", at(&name))));
            }
            "tool_calls" if !check_calls(&at(&name), &value)? => {}
            known if CARRIED.contains(&known) && value != Json::Null => others.push((name, value)),
            _ => {}
        }
    }
    let role = read_role(&at("role"), role)?;
    let message = ChatMessage::new(role, &read_content(&at("content"), role, content)?);
    Ok(others.into_iter().fold(message, |message, (name, value)| message.with(&name, value)))
}

fn read_role(name: &str, role: Option<Json>) -> Result<&'static str, ApiError> {
    match role.as_ref().map(|role| role.as_text().unwrap_or("")) {
        // The newer name of the same role; templates know the older one.
        Some("developer" | "system") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some("function") => Err(ApiError::unsupported(name, "the role `function` is not supported: use `tool`")),
        Some(_) => Err(ApiError::invalid(name, "the role must be system, developer, user, assistant or tool")),
        None => Err(ApiError::invalid(name, format!("`{name}` is missing"))),
    }
}

/// A string, null, or a list of parts of text; what the assistant has said may have been a refusal.
fn read_content(name: &str, role: &str, content: Option<Json>) -> Result<String, ApiError> {
    let parts = match content {
        None | Some(Json::Null) => return Ok(String::new()),
        Some(Json::Text(text)) => return Ok(text),
        Some(Json::List(parts)) => parts,
        Some(other) => return Err(wrong(name, "a string or a list of parts", &other)),
    };
    let mut content = String::new();
    for part in &parts {
        // The part has its text under the name of its type.
        match part.get("type").and_then(Json::as_text) {
            Some(kind) if kind == "text" || (kind == "refusal" && role == "assistant") => {
                let text = part.get(kind).and_then(Json::as_text);
                let missing = || ApiError::invalid(name, format!("a part of type `{kind}` has no `{kind}`"));
                content.push_str(text.ok_or_else(missing)?);
            }
            Some(_) => return Err(ApiError::unsupported(name, "only parts of type `text` are supported")),
            None => return Err(ApiError::invalid(name, "a part of the content has no `type`")),
        }
    }
    Ok(content)
}

/// Whether there are any. Templates rely on their shape.
fn check_calls(name: &str, calls: &Json) -> Result<bool, ApiError> {
    let calls = match calls {
        Json::Null => return Ok(false),
        Json::List(calls) => calls,
        other => return Err(wrong(name, "a list of calls", other)),
    };
    bounded(name, calls.len(), MAX_TOOLS)?;
    if !calls.iter().all(names_function) {
        return Err(ApiError::invalid(name, format!("each of `{name}` must have a `function` with a `name`")));
    }
    Ok(!calls.is_empty())
}

fn names_function(tool: &Json) -> bool {
    tool.get("function").and_then(|function| function.get("name")).is_some_and(|name| name.as_text().is_some())
}

fn bounded(name: &str, count: usize, most: usize) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    Err(ApiError::invalid(name, format!("`{name}` has {count} entries; at most {most} are taken")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(json: &str) -> Result<ChatRequest, ApiError> {
        let prompt = read(Fields::parse(json.as_bytes())?, 3)?.prompts.remove(0);
        let Prompt::Chat(chat) = prompt else { panic!("a chat") };
        Ok(chat)
    }

    fn messages(json: &str) -> Result<Vec<ChatMessage>, ApiError> {
        Ok(chat(&format!(r#"{{"messages": {json}}}"#))?.messages)
    }

    #[test]
    fn content_is_text_parts_or_null() {
        let read = messages(
            r#"[{"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": null, "tool_calls": null, "refusal": null}]"#,
        );
        let expected = [("system", "be brief"), ("user", "ab"), ("assistant", "")];
        assert_eq!(read.unwrap(), expected.map(|(role, content)| ChatMessage::new(role, content)));
    }

    #[test]
    fn a_refusal_of_the_assistant_is_what_it_said() {
        let parts = r#"[{"type": "text", "text": "I "}, {"type": "refusal", "refusal": "won't"}]"#;
        let read = messages(&format!(r#"[{{"role": "assistant", "content": {parts}}}]"#));
        assert_eq!(read.unwrap(), [ChatMessage::new("assistant", "I won't")]);
    }

    #[test]
    fn the_history_of_tools_reaches_the_template_in_its_order() {
        let calls = r#"[{"id": "1", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]"#;
        let json = format!(
            r#"[{{"role": "assistant", "content": null, "tool_calls": {calls}, "name": "bot"}},
                {{"role": "tool", "tool_call_id": "1", "content": "2", "other": 5}}]"#
        );
        let expected = [
            ChatMessage::new("assistant", "")
                .with("tool_calls", serde_json::from_str(calls).unwrap())
                .with("name", Json::text("bot")),
            ChatMessage::new("tool", "2").with("tool_call_id", Json::text("1")),
        ];
        assert_eq!(messages(&json).unwrap(), expected);
    }

    #[test]
    fn the_template_gets_tools_and_options_in_the_order_in_which_they_were_sent() {
        let json = r#"{"messages": [{"role": "user"}], "tool_choice": "none", "add_generation_prompt": false,
            "tools": [{"type": "function", "function": {"name": "f", "z": 1, "a": 2}}],
            "chat_template_kwargs": {"enable_thinking": false, "b": 1, "a": 2}}"#;
        let chat = chat(json).unwrap();
        let expected = r#"[{"type": "function", "function": {"name": "f", "z": 1, "a": 2}}]"#;
        assert_eq!(chat.tools, serde_json::from_str::<Vec<Json>>(expected).unwrap());
        let names: Vec<&str> = chat.kwargs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.as_slice(), chat.add_generation_prompt), (&["enable_thinking", "b", "a"][..], false));
    }

    #[test]
    fn tools_that_would_be_called_are_refused() {
        let check = |more: &str, param: Option<&str>| {
            let refused = chat(&format!(r#"{{"messages": [{{"role": "user"}}], {more}}}"#)).err();
            let named = refused.as_ref().is_some_and(|error| {
                param.is_some_and(|param| error.json().contains(&format!(r#""param":"{param}""#)))
            });
            assert_eq!((refused.is_some(), named), (param.is_some(), param.is_some()), "{more}: {refused:?}");
        };
        let tools = r#""tools": [{"function": {"name": "f"}}]"#;
        check(r#""tools": [], "tool_choice": "auto", "parallel_tool_calls": true"#, None);
        check(r#""tools": null"#, None);
        check(tools, Some("tools"));
        check(&format!(r#"{tools}, "tool_choice": "auto""#), Some("tools"));
        check(&format!(r#"{tools}, "tool_choice": {{"type": "function"}}"#), Some("tools"));
        check(r#""tool_choice": "required""#, Some("tool_choice"));
        check(r#""tools": [{}], "tool_choice": "none""#, Some("tools"));
        check(r#""chat_template_kwargs": []"#, Some("chat_template_kwargs"));
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
            (r#"[{"role": "function", "content": "x"}]"#, "messages[0].role"),
            (r#"[{"role": 5, "content": "x"}]"#, "messages[0].role"),
            (r#"[{"role": "user", "content": 5}]"#, "messages[0].content"),
            (r#"[{"role": "user", "content": [{"type": "image_url"}]}]"#, "messages[0].content"),
            (r#"[{"role": "user", "content": [5]}]"#, "messages[0].content"),
            (r#"[{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]"#, "messages[0].content"),
            (r#"[{"role": "assistant", "content": [{"type": "refusal", "text": "no"}]}]"#, "messages[0].content"),
            (r#"[{"role": "assistant", "tool_calls": [{}]}]"#, "messages[0].tool_calls"),
            (r#"[{"role": "assistant", "tool_calls": {}}]"#, "messages[0].tool_calls"),
            (r#"[{"role": "assistant", "function_call": {}}]"#, "messages[0].function_call"),
            (r#"[{"role": "user"}, {"role": "user"}, {"role": "user"}, {"role": "user"}]"#, "messages"),
        ];
        for (json, param) in cases {
            let error = messages(json).unwrap_err().json();
            assert!(error.contains(&format!(r#""param":"{param}""#)), "{json}: {error}");
        }
    }
}
