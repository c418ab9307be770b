//! Templates in the manner of those that models bring, against the text that they are to make.

use serde::Deserialize;

use super::*;
use crate::chatml::{CHATML, QWEN_V1};
use crate::guarded::Guard;
use crate::special::{Special, Specials};
use crate::{ChatMessage, Json, MAX_KWARGS};

const NOW: UnixSeconds = UnixSeconds(1_735_689_600);

fn chat(messages: &[(&str, &str)]) -> ChatRequest {
    ChatRequest::new(messages.iter().map(|(role, content)| ChatMessage::new(role, content)).collect())
}

#[track_caller]
fn check(template: &str, messages: &[(&str, &str)], expected: &str) {
    let template = ChatTemplate::new(template).unwrap().with_tokens([
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("unk_token", ""),
    ]);
    assert_eq!(template.render(&chat(messages), NOW).unwrap(), expected);
}

#[track_caller]
fn fails(template: &str) -> TemplateError {
    ChatTemplate::new(template).and_then(|template| template.render(&chat(&[("user", "hi")]), NOW)).unwrap_err()
}

/// As Qwen2.5's: a default system message, and tools that are looked for and not there.
const WITH_DEFAULT_SYSTEM: &str = r#"
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' + (tools | tojson) + '<|im_end|>\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are kind.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

/// As Qwen3's: a namespace, the messages backwards, and past thoughts cut out of what the assistant said.
const WITH_THOUGHTS: &str = r#"
{%- set ns = namespace(last=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ content.strip() ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"#;

#[test]
fn templates_make_the_text_that_models_know() {
    check(
        WITH_DEFAULT_SYSTEM,
        &[("user", "Hi & <b>bye</b>")],
        "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nHi & <b>bye</b><|im_end|>\n<|im_start|>assistant\n",
    );
    check(
        WITH_DEFAULT_SYSTEM,
        &[("system", "Be short."), ("user", "Why?"), ("assistant", "Because."), ("user", "And?")],
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.\
         <|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n",
    );
    check(
        WITH_THOUGHTS,
        &[("user", " 1+1? "), ("assistant", "<think>\neasy\n</think>\n\n2"), ("user", "sure?")],
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n\
         <|im_start|>assistant\n",
    );
    let embedded = include_str!("../../../model/embedded/chat_template.jinja");
    for template in [CHATML, embedded] {
        check(
            template,
            &[("system", "S"), ("user", " a\nb "), ("user", "")],
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n a\nb <|im_end|>\n<|im_start|>user\n<|im_end|>\n\
             <|im_start|>assistant\n",
        );
    }
    check(embedded, &[("developer", "D")], "<|im_start|>system\nD<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn the_dialect_is_that_of_hugging_face() {
    check("{% if true %}\n  a\n  {% endif %}\nb\n", &[], "  a\nb");
    check("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", &[], "<s>|</s>|");
    check("{{ strftime_now('%d %b %Y') }}", &[], "01 Jan 2025");
    check("{{ messages[0] | tojson }}", &[("user", "<é> & 'x'\n")], r#"{"role": "user", "content": "<é> & 'x'\n"}"#);
    check("{{ [1, {'a': []}] | tojson(indent=2) }}", &[], "[\n  1,\n  {\n    \"a\": []\n  }\n]");
    check("{{ 'a-b'.split('-')[1].upper() ~ {'k': 1}.get('k') }}", &[], "B1");
    check(
        "{% for m in messages %}{{ loop.index0 }}{% if loop.first %}{% continue %}{% endif %}!{% endfor %}",
        &[("a", ""), ("b", "")],
        "01!",
    );
    check(
        "{% for m in messages -%} {%- generation -%} {{ m.content }} {% endgeneration %}{%+ endfor %}",
        &[("a", "x")],
        "x ",
    );
    check("{% set generation_x = 1 %}{{ generation_x }}", &[], "1");
    check("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}", &[], "[1]");
}

/// Chats as `testdata/make_chats.py` gave them to transformers, and what that made of them.
#[derive(Deserialize)]
struct Chat {
    name: String,
    request: ChatRequest,
}

#[derive(Deserialize)]
struct Golden {
    name: String,
    /// None where the template fails.
    text: Option<String>,
}

/// The special tokens that those chats were rendered with.
const TOKENS: [(&str, &str); 3] = [("bos_token", "<s>"), ("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")];

/// A template of `testdata/templates`, what transformers made with it, and whether it looks at what a text says but not
/// at how long it is, so that the marks which keep a client's text apart from special tokens change nothing.
macro_rules! template {
    ($name:literal, $unmarked:literal) => {
        (
            include_str!(concat!("../../testdata/templates/", $name, ".jinja")),
            include_str!(concat!("../../testdata/templates/", $name, ".golden.json")),
            $unmarked,
        )
    };
}

#[test]
fn chats_are_rendered_as_by_transformers() {
    let chats: Vec<Chat> = serde_json::from_str(include_str!("../../testdata/chats.json")).unwrap();
    assert!(chats.len() > 30);
    let specials = Specials::new(TOKENS.map(|(_, content)| Special::plain(7, content)).into());
    let families = [template!("chatml", true), template!("tools", true), template!("thinking", true)];
    for (source, golden, unmarked) in families.into_iter().chain([template!("dialect", false)]) {
        let golden: Vec<Golden> = serde_json::from_str(golden).unwrap();
        let template = ChatTemplate::new(source).unwrap().with_tokens(TOKENS);
        assert_eq!(golden.len(), chats.len());
        for (golden, Chat { name, request }) in golden.iter().zip(&chats) {
            assert_eq!(&golden.name, name);
            let rendered = template.render(request, NOW);
            assert_eq!(rendered.as_ref().ok(), golden.text.as_ref(), "{name}: {rendered:?}");
            if unmarked {
                let guard = Guard::new(&specials, request.texts().into_iter());
                let guarded = template.render_with(request, NOW, &|text| guard.guard(text).into_owned());
                let text = guarded.ok().map(|text| guard.without_marks(&text).into_owned());
                assert_eq!(text, golden.text, "{name}");
            }
        }
    }
}

#[test]
fn the_hosts_own_formats_are_those_that_models_know() {
    let check = |source, messages: &[(&str, &str)], prompt, expected: &str| {
        let request = ChatRequest { add_generation_prompt: prompt, ..chat(messages) };
        assert_eq!(ChatTemplate::new(source).unwrap().render(&request, NOW).unwrap(), expected);
    };
    let turn = [("user", "Hi\n"), ("assistant", "")];
    check(
        QWEN_V1,
        &turn[..1],
        true,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n\
         <|im_start|>assistant\n",
    );
    check(
        QWEN_V1,
        &[("system", "S"), turn[0], turn[1]],
        false,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>",
    );
    check(CHATML, &turn, false, "<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n");
    let tools = ChatRequest { tools: vec![Json::Null], ..chat(&turn) };
    let refused = ChatTemplate::new(QWEN_V1).unwrap().render(&tools, NOW).unwrap_err().to_string();
    assert!(refused.contains("knows no tools"), "{refused}");
}

#[test]
fn options_cannot_stand_for_what_the_host_sets() {
    let template = ChatTemplate::new("{{ messages | length }}").unwrap().with_tokens(TOKENS);
    let render = |names: &[&str]| {
        let kwargs = names.iter().map(|name| ((*name).to_owned(), Json::Null)).collect();
        template.render(&ChatRequest { kwargs, ..chat(&[]) }, NOW)
    };
    for name in ["messages", "tools", "add_generation_prompt", "strftime_now", "bos_token", "", "a-b", "<|im_end|>"] {
        assert_eq!(render(&[name]), Err(TemplateError::Kwarg { name: name.to_owned() }));
    }
    assert_eq!(render(&["unk_token", "documents", "enable_thinking"]), Ok("0".to_owned()));
    assert_eq!(render(&["x"; MAX_KWARGS + 1]), Err(TemplateError::TooManyKwargs { count: 65, limit: 64 }));
}

#[test]
fn a_template_that_cannot_be_used_says_why() {
    assert!(matches!(fails("{% if %}"), TemplateError::Syntax { .. }));
    assert!(matches!(fails("{{ messages | nothing }}"), TemplateError::Failed { .. }));
    assert!(matches!(fails("{{ strftime_now('%Q') }}"), TemplateError::Failed { reason } if reason.contains("%Q")));
    assert!(matches!(fails("{{ 1 | tojson(allow_nan=true) }}"), TemplateError::Failed { .. }));
    assert!(matches!(fails("{{ nothing | tojson }}"), TemplateError::Failed { .. }));
    let refused = TemplateError::Refused { reason: "roles must alternate".into() };
    assert_eq!(fails("{{ raise_exception('roles must alternate') }}"), refused);
    assert_eq!(fails(&"x".repeat(MAX_TEMPLATE_BYTES + 1)), TemplateError::TooLarge { bytes: 262_145, limit: 262_144 });
}

#[test]
fn a_template_ends_whatever_it_does() {
    let exhausted = TemplateError::OutOfFuel { fuel: FUEL };
    assert_eq!(fails("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), exhausted);
    assert!(matches!(fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), TemplateError::Failed { .. }));
    assert_eq!(
        fails("{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}"),
        TemplateError::TooLong { limit: MAX_RENDERED_BYTES }
    );
    assert_eq!(fails("{{ 'x' * 999999999 }}"), exhausted);
}
