//! Models from files of their own: served, quantised, inspected and measured through the program.

use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};

use crate::gguf::{embedded, write_embedded};
use crate::server::{Server, file, run};

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
    let lines = ranks.map(|(rank, bytes)| format!("{} {rank}\n", base64(&bytes)));
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

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().chain([&0, &0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let letter = |index: usize| match index <= group.len() {
            true => char::from(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[tokio::test]
async fn each_family_answers_from_its_own_files() {
    for model in [qwen_v1(), qwen2()] {
        let path = model.path().to_str().unwrap();
        let server = Server::start(&["--model", path, "--load-format", "dummy", "--max-model-len", "512"]);
        let answer = server.ask("abcd, 你好", 5).await;
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() >= 1, "{answer}");
        assert!(server.log().contains("ForCausalLM") || server.log().contains("QWenLMHeadModel"), "{}", server.log());
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

#[test]
fn a_model_that_is_nowhere_says_where_it_was_looked_for() {
    for command in [&["serve", "--model", "Qwen/Qwen-None"][..], &["model", "inspect", "Qwen/Qwen-None"]] {
        let output = run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Qwen/Qwen-None"), "{said}");
    }
}

#[test]
fn perplexity_is_a_table_of_quantisations() {
    let folder = tempfile::tempdir().unwrap();
    let chats = r#"{"messages": [{"role": "user", "content": "What is Sluice?"}, {"role": "assistant", "content": "A server."}]}"#;
    for (name, text) in [("chats.jsonl", chats), ("text.txt", "Admission chooses the flow that is served next.")] {
        let output = run(&["model", "perplexity", &file(folder.path(), name, text.as_bytes())]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        for part in ["| none |", "| int8 |", "| nf4 |"] {
            assert!(said.contains(part), "`{part}` is missing: {said}");
        }
    }
    let broken = file(folder.path(), "broken.jsonl", b"{\"messages\": 7}\n");
    let output = run(&["model", "perplexity", &broken]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 1"));
}
