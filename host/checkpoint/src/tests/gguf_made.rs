//! A file of llama.cpp's own writer, and what its own reader makes of it: `testdata/make_gguf.py` says how.

use serde_json::json;

use super::folder::Folder;
use crate::{ConfigFile, Form, GgmlKind, GgufTokenizer, LoadOptions, ModelFiles, Silent, Weights};

const MADE: &[u8] = include_bytes!("../../testdata/qwen2.gguf");
const FORMS: [Form; 13] = [
    Form::F32,
    Form::F16,
    Form::Bf16,
    Form::Ggml(GgmlKind::Q4_0),
    Form::Ggml(GgmlKind::Q4_1),
    Form::Ggml(GgmlKind::Q5_0),
    Form::Ggml(GgmlKind::Q5_1),
    Form::Ggml(GgmlKind::Q8_0),
    Form::Ggml(GgmlKind::Q2K),
    Form::Ggml(GgmlKind::Q3K),
    Form::Ggml(GgmlKind::Q4K),
    Form::Ggml(GgmlKind::Q5K),
    Form::Ggml(GgmlKind::Q6K),
];

fn with_files<T>(read: impl FnOnce(&ModelFiles) -> T) -> T {
    let folder = Folder::new();
    read(&ModelFiles::path(folder.write("qwen2.gguf", MADE)))
}

#[test]
fn every_kind_is_read_as_there() {
    with_files(|files| {
        let weights = Weights::open(files, LoadOptions::default(), Box::new(Silent)).unwrap();
        for (layer, form) in FORMS.into_iter().enumerate() {
            let matrix = |part: &str| {
                let name = format!("model.layers.{layer}.self_attn.{part}_proj.weight");
                weights.projection(&name, 2, 256).unwrap()
            };
            let (stored, expected) = (matrix("q"), matrix("o"));
            assert_eq!(stored.form(), form);
            for (number, expected) in stored.to_f32().into_iter().zip(expected.to_f32()) {
                assert!(number.to_bits().abs_diff(expected.to_bits()) <= 1, "{form}: {number} is {expected}");
            }
        }
        assert_eq!(weights.table("lm_head.weight", 5, 256).unwrap().to_f32(), [1.0; 5 * 256]);
        assert_eq!(weights.unclaimed(), [""; 0]);
    });
}

#[test]
fn its_configuration_and_its_tokenizer() {
    with_files(|files| {
        let expected = json!({
            "architectures": ["Qwen2ForCausalLM"], "hidden_size": 256, "num_hidden_layers": 13,
            "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 5,
            "tie_word_embeddings": false, "rope_scaling": null,
        });
        assert_eq!(ConfigFile::read(files).unwrap().json(), &expected);
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let expected = GgufTokenizer {
            model: Some("gpt2".to_owned()),
            pre: Some("qwen2".to_owned()),
            tokens: texts(&["a", "b", "Ġa", "<|endoftext|>", "<|im_end|>"]),
            token_types: vec![1, 1, 1, 3, 3],
            merges: texts(&["Ġ a"]),
            bos_id: Some(3),
            eos_id: Some(4),
            eot_id: None,
            add_bos: Some(false),
            chat_template: Some("{{ messages[0].content }}".to_owned()),
        };
        assert_eq!(GgufTokenizer::read(files).unwrap(), Some(expected));
    });
}
