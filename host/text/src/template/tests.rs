//! Templates in the manner of those that models bring, against the text that they are to make.

use super::*;
use crate::ChatMessage;
use crate::chatml::CHATML;

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
