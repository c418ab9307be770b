//! Every configuration that cannot be served is refused by the key that is wrong, before a weight is read.

use serde_json::{Value, json};
use sluice_checkpoint::ConfigFile;

use super::checkpoint::Checkpoint;
use crate::blueprint;

/// Expects an error that names `config.json`, the key and all of these.
fn check(good: &Checkpoint, key: &str, value: Value, expected: &[&str]) {
    let mut config = good.config.clone();
    config[key] = value;
    let (_folder, files) = Checkpoint { config, ..Checkpoint::qwen(1) }.write_config();
    let error = blueprint(&ConfigFile::read(&files).unwrap()).expect_err("the configuration is wrong").to_string();
    for part in [&["config.json"], expected].concat() {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

/// What every architecture asks of these keys.
fn check_keys(good: &Checkpoint, sizes: &[&str], numbers: &[&str], flags: &[&str]) {
    for key in sizes {
        check(good, key, json!(null), &[key, "missing"]);
        for value in [json!(0), json!(-48), json!(1u64 << 60), json!(0.5), json!("three"), json!([3])] {
            check(good, key, value.clone(), &[key, &value.to_string()]);
        }
    }
    for key in numbers {
        check(good, key, json!(null), &[key, "missing"]);
        for value in [json!(0), json!(-1.0), json!("small")] {
            check(good, key, value.clone(), &[key, &value.to_string(), "positive"]);
        }
    }
    for key in flags {
        check(good, key, json!("yes"), &[key, "true or false"]);
    }
    check(good, "num_hidden_layers", json!(5000), &["num_hidden_layers", "5000", "1024"]);
}

#[test]
fn an_architecture_that_is_not_served() {
    for good in [Checkpoint::qwen(1), Checkpoint::qwen2(1, true)] {
        check(&good, "architectures", json!(null), &["architectures", "list"]);
        check(&good, "architectures", json!([]), &["architectures", "list"]);
        let served = ["LlamaForCausalLM", "QWenLMHeadModel", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];
        check(&good, "architectures", json!(["LlamaForCausalLM"]), &served);
    }
}

#[test]
fn weights_that_were_quantised_in_another_way() {
    for good in [Checkpoint::qwen(1), Checkpoint::qwen2(1, true), Checkpoint::qwen3(1, true)] {
        let gptq = json!({"quant_method": "gptq", "bits": 4});
        check(&good, "quantization_config", gptq, &["`quantization_config.quant_method`", "gptq", "bitsandbytes"]);
        check(&good, "quantization_config", json!("nf4"), &["quantization_config", "object"]);
    }
}

#[test]
fn qwen2_and_qwen3() {
    for good in [Checkpoint::qwen2(1, true), Checkpoint::qwen3(1, false)] {
        let sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"];
        let sizes = [&sizes[..], &["max_position_embeddings"]].concat();
        check_keys(&good, &sizes, &["rope_theta", "rms_norm_eps"], &["tie_word_embeddings"]);
        check(&good, "num_key_value_heads", json!(4), &["num_key_value_heads", "4", "divide"]);
        check(&good, "num_key_value_heads", json!(12), &["num_key_value_heads", "12", "divide"]);
        check(&good, "head_dim", json!(15), &["head_dim", "even"]);
        check(&good, "rope_theta", json!(1.0), &["rope_theta", "above 1"]);
        check(&good, "rope_theta", json!("1".repeat(1000)), &["rope_theta", "1…, expected"]);
        check(&good, "hidden_act", json!("gelu"), &["hidden_act", "gelu", "silu"]);
        check(&good, "hidden_act", json!(false), &["hidden_act", "false", "silu"]);
        check(&good, "use_sliding_window", json!(true), &["use_sliding_window", "only false"]);
        check(&good, "use_mrope", json!(true), &["use_mrope"]);
        let mixed = json!(["full_attention", "sliding_attention", "full_attention"]);
        check(&good, "layer_types", mixed, &["layer_types", "sliding_attention"]);
        check(&good, "layer_types", json!(3), &["layer_types", "list"]);
    }
    check(&Checkpoint::qwen2(1, true), "num_attention_heads", json!(5), &["num_attention_heads", "5", "hidden_size"]);
    check(&Checkpoint::qwen3(1, true), "attention_bias", json!(1), &["attention_bias", "true or false"]);
}

#[test]
fn rotary_settings() {
    let good = Checkpoint::qwen2(1, true);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let check_yarn = |key: &str, value: Value, expected: &[&str]| {
        let mut settings = yarn.clone();
        settings[key] = value;
        check(&good, "rope_scaling", settings, expected);
    };
    check_yarn("rope_type", json!("llama3"), &["`rope_scaling.rope_type`", "llama3", "yarn"]);
    check_yarn("rope_type", json!(7), &["rope_type", "7"]);
    check_yarn("factor", json!(null), &["factor", "missing"]);
    check_yarn("factor", json!(0.5), &["factor", "0.5", "at least 1"]);
    check_yarn("factor", json!(1e300), &["factor", "is 1e300,"]);
    check_yarn("factor", json!(1e9), &["factor", "1000000000", "length"]);
    check_yarn("original_max_position_embeddings", json!(0), &["original_max_position_embeddings"]);
    check_yarn("beta_fast", json!(0.5), &["beta_fast", "beta_slow", "more"]);
    check_yarn("truncate", json!(false), &["truncate"]);
    check_yarn("mscale", json!(0.7), &["mscale"]);
    check_yarn("partial_rotary_factor", json!(0.5), &["partial_rotary_factor"]);
    check(&good, "rope_scaling", json!({"type": "dynamic", "factor": 2.0}), &["type", "dynamic"]);
    check(&good, "rope_scaling", json!("yarn"), &["rope_scaling", "object"]);
    let mut both = Checkpoint::qwen2(1, true);
    both.config["rope_scaling"] = yarn.clone();
    check(&both, "rope_parameters", yarn, &["rope_scaling", "rope_parameters", "one of the two"]);
}

#[test]
fn qwen() {
    let good = Checkpoint::qwen(1);
    let sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_channels"];
    let sizes = [&sizes[..], &["intermediate_size", "seq_length", "max_position_embeddings"]].concat();
    let flags = ["use_dynamic_ntk", "use_logn_attn", "no_bias", "scale_attn_weights", "tie_word_embeddings"];
    check_keys(&good, &sizes, &["layer_norm_epsilon", "rotary_emb_base"], &flags);
    check(&good, "kv_channels", json!(8), &["kv_channels", "8", "hidden_size"]);
    check(&good, "intermediate_size", json!(97), &["intermediate_size", "even"]);
    check(&good, "seq_length", json!(1), &["seq_length", "at least 2"]);
    check(&good, "rotary_emb_base", json!(0.5), &["rotary_emb_base", "above 1"]);
    check(&good, "rotary_pct", json!(0.25), &["rotary_pct"]);
    check(&good, "no_bias", json!(false), &["no_bias"]);
    check(&good, "scale_attn_weights", json!(false), &["scale_attn_weights"]);
}
