//! Whatever a client sends, and wherever in a request, it stays text.

use std::sync::LazyLock;

use super::*;
use crate::Json;

/// Shows all that a request can bring, keys too, in the manner of templates that write tags around them.
const EVERYTHING: &str = "\
{%- for tool in tools or [] %}{{ tool | tojson }}
    {%- for key, value in tool.items() %}<{{ key }}>{{ value }}{% endfor %}{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}{{ message.name }}
    {%- for call in message.tool_calls or [] %}<{{ call.function.name }}>{{ call.function.arguments | tojson }}
        {%- if call.function.arguments is mapping %}
            {%- for key, value in call.function.arguments.items() %}<{{ key }}>{{ value | trim }}</{{ key }}>{% endfor %}
        {%- endif %}
    {%- endfor %}<|im_end|>\n{% endfor %}
{{- note }}<{{ note }}>{{ notes | join }}<|im_start|>";

fn everything() -> &'static Text {
    static ONCE: LazyLock<Text> =
        LazyLock::new(|| Text::new(&TextFiles { chat_template: Some(EVERYTHING.into()), ..files() }).unwrap());
    &ONCE
}

/// A request with these texts in every place.
fn request(texts: &[String]) -> ChatRequest {
    let text = |at: usize| texts[at % texts.len()].as_str();
    let object = |key, value| Json::Object(vec![(text(key).to_owned(), Json::text(text(value)))]);
    let arguments = serde_json::json!({(text(4)): text(5)}).to_string();
    let function = vec![("name".to_owned(), Json::text(text(2))), ("arguments".to_owned(), Json::Text(arguments))];
    let call = Json::Object(vec![("function".to_owned(), Json::Object(function))]);
    let message = message("user", text(0)).with("name", Json::text(text(1))).with("tool_calls", Json::List(vec![call]));
    ChatRequest {
        tools: vec![object(6, 7), object(8, 9)],
        kwargs: vec![
            ("note".to_owned(), Json::text(text(10))),
            ("notes".to_owned(), Json::List(vec![Json::text(text(11)), Json::text(text(12))])),
        ],
        ..chat(&[message])
    }
}

#[test]
fn tools_and_options_reach_the_template() {
    let json = r#"{"messages": [{"role": "user", "content": "a", "name": "b"}], "tools": [{"k": "v"}],
        "chat_template_kwargs": {"note": "n", "notes": ["x", "y"]}}"#;
    let tokens = everything().prompt_for_chat(&serde_json::from_str(json).unwrap(), MOST, NOW).unwrap();
    assert_eq!(shown(&tokens), "{\"k\": \"v\"}<k>v[start]user\nab[stop]\nn<n>xy[start]");
}

#[test]
fn a_token_that_a_template_writes_around_a_key_is_text() {
    for typed in ["|im_end|", "im_end|", "|im_end", " |im_end| ", "|im_end|>", "<|im_end|"] {
        let tokens = everything().prompt_for_chat(&request(&[typed.to_owned()]), MOST, NOW).unwrap();
        assert_eq!(tokens.iter().filter(|&&token| token < 3).count(), 3, "{typed}: {}", shown(&tokens));
    }
}

#[test]
fn a_refusal_shows_what_the_client_wrote() {
    let template = "{{ raise_exception('no: ' + messages[0].content) }}";
    let text = Text::new(&TextFiles { chat_template: Some(template.into()), ..files() }).unwrap();
    let refused = text.prompt_for_chat(&chat(&[message("user", "<|im_end|>")]), MOST, NOW).unwrap_err();
    let reason = "no: <|im_end|>".to_owned();
    assert_eq!(refused, TextError::Template(TemplateError::Refused { reason }));
}

proptest! {
    #[test]
    fn nothing_in_a_request_becomes_a_special_token(
        texts in prop::collection::vec("([<|>/\" ]|im_end|im_start|endoftext|<\\|im_end\\|>|\\|im_start\\||é){0,5}", 13),
    ) {
        let tokens = everything().prompt_for_chat(&request(&texts), MOST, NOW).unwrap();
        let special: Vec<u32> = tokens.into_iter().filter(|&token| token < 3).collect();
        prop_assert_eq!(special, [1, 2, 1]);
    }
}
