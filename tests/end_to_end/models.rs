//! Models from files of their own: served, quantised, inspected and measured through the program.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};

use crate::gguf::{embedded, write_embedded};
use crate::server::{Server, chat, file, run};

/// A folder that holds a configuration and a tokenizer; weights are random.
fn folder(config: &Value, tokenizer: (&str, &[u8])) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "config.json", config.to_string().as_bytes());
    file(folder.path(), tokenizer.0, tokenizer.1);
    folder
}

/// Every byte is a token; so are a few longer words.
fn qwen_v1() -> tempfile::TempDir {
    let words = ["ab", "cd", "abcd", " a"].map(|word| word.as_bytes().to_vec());
    let ranks = (0..=255u8).map(|byte| vec![byte]).chain(words).enumerate();
    let lines = ranks.map(|(rank, bytes)| format!("{} {rank}\n", BASE64_STANDARD.encode(&bytes)));
    let config = json!({
        "architectures": ["QWenLMHeadModel"], "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "kv_channels": 16, "intermediate_size": 128, "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 128, "max_position_embeddings": 512,
        "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true, "scale_attn_weights": true,
        "tie_word_embeddings": false
    });
    folder(&config, ("qwen.tiktoken", lines.collect::<String>().as_bytes()))
}

fn qwen2() -> tempfile::TempDir {
    let config = json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 2048, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "max_position_embeddings": 512, "tie_word_embeddings": false, "hidden_act": "silu",
        "use_sliding_window": false
    });
    folder(&config, ("tokenizer.json", &embedded("tokenizer.json")))
}

#[tokio::test]
async fn each_family_answers_from_its_own_files() {
    for (model, architecture) in [(qwen_v1(), "QWenLMHeadModel"), (qwen2(), "Qwen2ForCausalLM")] {
        let path = model.path().to_str().unwrap();
        let server = Server::start(&["--model", path, "--load-format", "dummy"]);
        let answer = server.ask(&"abcd, 你好 ".repeat(25), 5).await;
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() >= 1, "{answer}");
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 200, "{answer}");
        let said = format!("({architecture}, 0.1 M parameters on the CPU), context 512");
        assert!(server.log().contains(&said), "{}", server.log());
    }
}

/// What the model learned survives eight and four bits.
#[tokio::test]
async fn quantised_weights_still_know_the_answer() {
    for quantization in ["int8", "nf4"] {
        let server = Server::start(&["--quantization", quantization]);
        let answer = server.ask("What is Sluice?", 60).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.contains("Sluice"), "{quantization}: {text}");
        assert!(server.log().contains(quantization), "{}", server.log());
    }
}

/// Weights, tokenizer and template from one file.
#[tokio::test]
async fn a_gguf_file_is_a_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q4K] {
        let path = write_embedded(folder.path(), kind);
        let server = Server::start(&["--model", path.to_str().unwrap()]);
        let answer = server.ask("What is Sluice?", 60).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.contains("Sluice"), "{kind:?}: {text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{kind:?}: {text}");
    }
}

#[test]
fn inspect_says_what_a_model_is() {
    let output = run(&["model", "inspect"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for part in ["Qwen3ForCausalLM", "3.67 M", "2048 rows", "tied", "nf4", "int8", "f32", "can be served"] {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
}

#[test]
fn inspect_says_what_is_missing() {
    let model = qwen2();
    let output = run(&["model", "inspect", model.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("model.safetensors") && said.contains("cannot be served"), "{said}");
}

/// What serve refuses, inspect refuses, and both say why.
#[test]
fn what_cannot_be_served_is_said_before_it_is() {
    let looping = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    for (name, content, part) in [
        ("generation_config.json", r#"{"temperature": 3}"#, "`temperature` is 3, expected a number from 0 to 2"),
        ("chat_template.jinja", looping, "the chat template does not render the simplest chat"),
        ("chat_template.jinja", "{{ messages.nothing.more }}", "the chat template does not render the simplest chat"),
    ] {
        let model = qwen2();
        file(model.path(), name, content.as_bytes());
        let path = model.path().to_str().unwrap();
        let inspected = run(&["model", "inspect", path]);
        assert_eq!(inspected.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&inspected.stdout).contains(part), "{inspected:?}");
        let served = run(&["serve", "--port", "0", "--admin-port", "0", "--model", path, "--load-format", "dummy"]);
        assert!(!served.status.success());
        assert!(String::from_utf8_lossy(&served.stderr).contains(part), "{served:?}");
    }
}

/// The template's own words are the client's business; its faults are the server's.
#[tokio::test]
async fn a_template_refuses_or_fails() {
    let model = qwen2();
    let template = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}\
                    {% if messages[0].content == 'fail' %}{{ messages.nothing.more }}{% endif %}hello";
    file(model.path(), "chat_template.jinja", template.as_bytes());
    let server = Server::start(&["--model", model.path().to_str().unwrap(), "--load-format", "dummy"]);
    for (question, status) in [("yes", 200), ("no", 400), ("fail", 500)] {
        assert_eq!(server.post("/v1/chat/completions", &chat(question, 2)).await.status(), status, "{question}");
    }
}

/// One sequence of these would take terabytes.
#[test]
fn a_length_that_memory_does_not_hold_is_refused_with_its_bytes() {
    let model = qwen2();
    let config = std::fs::read_to_string(model.path().join("config.json")).unwrap();
    let config = config.replace(r#""max_position_embeddings":512"#, r#""max_position_embeddings":16000000"#);
    let config = config.replace(r#""num_hidden_layers":2"#, r#""num_hidden_layers":512"#);
    file(model.path(), "config.json", config.as_bytes());
    let path = model.path().to_str().unwrap();
    for (flag, value, part) in [
        ("--max-model-len", "16000000", "lower --max-model-len"),
        ("--kv-blocks", "4000000000", "lower --kv-blocks"),
        ("--max-num-batched-tokens", "4294967295", "engine.max_num_batched_tokens: is 4294967295"),
    ] {
        let arguments = ["serve", "--port", "0", "--admin-port", "0", "--model", path, "--load-format", "dummy"];
        let output = run(&[&arguments[..], &[flag, value]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{said}");
    }
}

#[test]
fn a_model_that_is_nowhere_says_where_it_was_looked_for() {
    for command in [&["serve", "--model", "Qwen/Qwen-None"][..], &["model", "inspect", "Qwen/Qwen-None"]] {
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Qwen/Qwen-None"), "{said}");
    }
}

/// The second and the fourth column of each row.
fn rows(table: &[u8]) -> Vec<(String, f64)> {
    let table = String::from_utf8_lossy(table).into_owned();
    let cells = table.lines().skip(2).map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].to_owned(), cells[3].parse().unwrap())).collect()
}

#[test]
fn perplexity_is_a_table_of_quantisations() {
    let folder = tempfile::tempdir().unwrap();
    let held_out = String::from_utf8(embedded("held_out.jsonl")).unwrap();
    let chats = held_out.lines().take(12).collect::<Vec<_>>().join("\n");
    let output = run(&["model", "perplexity", &file(folder.path(), "chats.JSONL", chats.as_bytes())]);
    let table = rows(&output.stdout);
    let [(none, plain), (int8, eight), (nf4, four)] = table.as_slice() else { panic!("{output:?}") };
    assert_eq!([none.as_str(), int8, nf4], ["none", "int8", "nf4"]);
    assert!((1.0..3.0).contains(plain), "{table:?}");
    assert!((eight / plain - 1.0).abs() < 0.05 && (four / plain - 1.0).abs() < 0.05, "{table:?}");

    let gguf = write_embedded(folder.path(), GgmlDType::Q8_0);
    let text = file(folder.path(), "text.txt", b"Admission chooses the flow that is served next.");
    let output = run(&["model", "perplexity", "--model", gguf.to_str().unwrap(), &text]);
    assert!(matches!(rows(&output.stdout).as_slice(), [(name, _)] if name == "none"), "{output:?}");
}

#[test]
fn a_text_without_a_perplexity_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [("broken.jsonl", "{\"messages\": 7}\n", "line 1"), ("empty.txt", "", "nothing to foretell")];
    for (name, text, part) in cases {
        let output = run(&["model", "perplexity", &file(folder.path(), name, text.as_bytes())]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{said}");
    }
}
