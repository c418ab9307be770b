//! A GGUF file's metadata as the `config.json` that the model was converted from.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::Gguf;
use super::value::{List, Value};
use crate::config::LARGEST;
use crate::{ConfigFile, LoadError, ModelFiles};

/// By GGUF's name.
const ARCHITECTURES: [(&str, &str); 2] = [("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// Hugging Face's sizes, by the ending of GGUF's keys, and whether a model may lack one.
const SIZES: [(&str, &str, bool); 7] = [
    ("hidden_size", "embedding_length", true),
    ("num_hidden_layers", "block_count", true),
    ("num_attention_heads", "attention.head_count", true),
    ("num_key_value_heads", "attention.head_count_kv", false),
    ("head_dim", "attention.key_length", false),
    ("intermediate_size", "feed_forward_length", true),
    ("max_position_embeddings", "context_length", true),
];

pub(crate) fn config(files: &ModelFiles, path: &Path) -> Result<ConfigFile, LoadError> {
    let file = Gguf::open(files, path)?;
    let (architecture, name) = architecture(&file)?;
    let mut config = Map::new();
    config.insert("architectures".to_owned(), json!([name]));
    for (key, ending, required) in SIZES {
        let from = format!("{architecture}.{ending}");
        match size(&file, &from)? {
            Some(size) => drop(config.insert(key.to_owned(), json!(size))),
            None if required => return Err(file.wrong(&from, MISSING)),
            None => {}
        }
    }
    refuse_other_widths(&file, architecture, &config)?;
    refuse_other_scales(&file, architecture)?;
    config.insert("rope_scaling".to_owned(), rope_scaling(&file, architecture)?);
    config.insert("rms_norm_eps".to_owned(), number(&file, architecture, "attention.layer_norm_rms_epsilon")?);
    config.insert("rope_theta".to_owned(), number(&file, architecture, "rope.freq_base")?);
    config.insert("vocab_size".to_owned(), json!(tokens(&file)?.len()));
    config.insert("tie_word_embeddings".to_owned(), json!(!file.holds("output.weight")));
    Ok(ConfigFile::new(file.file(), Json::Object(config)))
}

const MISSING: &str = "is missing: convert the model again";

/// GGUF's name for it, and Hugging Face's.
fn architecture(file: &Gguf) -> Result<(&'static str, &'static str), LoadError> {
    let key = "general.architecture";
    let value = file.value(key).ok_or_else(|| file.wrong(key, MISSING))?;
    let found = value.as_text().ok_or_else(|| file.wrong(key, "must be a text"))?;
    let known = ARCHITECTURES.into_iter().find(|(name, _)| *name == found);
    known.ok_or_else(|| LoadError::UnknownArchitecture {
        file: file.file().to_owned(),
        found: found.to_owned(),
        supported: ARCHITECTURES.iter().map(|(name, _)| *name).collect(),
    })
}

fn size(file: &Gguf, key: &str) -> Result<Option<u64>, LoadError> {
    let Some(value) = file.value(key) else { return Ok(None) };
    let size = value.as_u64().filter(|size| (1..=LARGEST).contains(size));
    size.map(Some).ok_or_else(|| file.wrong(key, format!("must be a whole number from 1 to {LARGEST}")))
}

fn number(file: &Gguf, architecture: &str, ending: &str) -> Result<Json, LoadError> {
    let key = format!("{architecture}.{ending}");
    let value = file.value(&key).ok_or_else(|| file.wrong(&key, MISSING))?;
    let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
    // A file has F32; the shortest decimal of it is what was meant, such as 1e-6.
    let shortest = number.and_then(|number| (number as f32).to_string().parse::<f64>().ok());
    shortest.map(|number| json!(number)).ok_or_else(|| file.wrong(&key, "must be a positive number"))
}

fn tokens(file: &Gguf) -> Result<&List, LoadError> {
    let key = "tokenizer.ggml.tokens";
    let list = file.value(key).ok_or_else(|| file.wrong(key, MISSING))?.as_list().filter(|list| list.len() > 0);
    list.ok_or_else(|| file.wrong(key, "must be a list of the vocabulary's tokens"))
}

/// Keys, values and what is turned of a head are as wide as the head, or the configuration would have to say more than
/// it can.
fn refuse_other_widths(file: &Gguf, architecture: &str, config: &Map<String, Json>) -> Result<(), LoadError> {
    let size_of = |key: &str| config.get(key).and_then(Json::as_u64);
    // As everyone reads a file without `attention.key_length`.
    let shared = || Some(size_of("hidden_size")? / size_of("num_attention_heads")?);
    let width = size_of("head_dim").or_else(shared);
    for ending in ["attention.value_length", "rope.dimension_count"] {
        let key = format!("{architecture}.{ending}");
        let found = size(file, &key)?;
        if let (Some(found), Some(width)) = (found, width)
            && found != width
        {
            return Err(file.wrong(&key, format!("is {found}, and only {width}, the width of a head, is served")));
        }
    }
    Ok(())
}

/// Settings that change the rotary embedding in ways that are not served, by what they are where they change nothing.
const NEUTRAL: [(&str, f64); 5] = [
    ("rope.scaling.attn_factor", 1.0),
    ("rope.scaling.yarn_attn_factor", 1.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("rope.scale_linear", 1.0),
];

fn refuse_other_scales(file: &Gguf, architecture: &str) -> Result<(), LoadError> {
    NEUTRAL.iter().try_for_each(|(ending, neutral)| refuse_other(file, &format!("{architecture}.{ending}"), *neutral))
}

fn refuse_other(file: &Gguf, key: &str, neutral: f64) -> Result<(), LoadError> {
    match file.value(key).map(Value::as_f64) {
        None => Ok(()),
        Some(Some(found)) if found == neutral => Ok(()),
        Some(Some(found)) => Err(file.wrong(key, format!("is {found:?}, and only {neutral:?} is served"))),
        Some(None) => Err(file.wrong(key, "must be a number")),
    }
}

/// YaRN, the one kind of scaled rotary embedding that is served.
fn rope_scaling(file: &Gguf, architecture: &str) -> Result<Json, LoadError> {
    let key = format!("{architecture}.rope.scaling.type");
    match file.value(&key).map(Value::as_text) {
        Some(Some("none")) => Ok(Json::Null),
        Some(Some("yarn")) => yarn(file, architecture),
        Some(_) => Err(file.wrong(&key, "is another than `none` and `yarn`, which are served")),
        // A factor without a type is llama.cpp's oldest kind, which is linear.
        None => {
            refuse_other(file, &format!("{architecture}.rope.scaling.factor"), 1.0)?;
            Ok(Json::Null)
        }
    }
}

fn yarn(file: &Gguf, architecture: &str) -> Result<Json, LoadError> {
    let original = format!("{architecture}.rope.scaling.original_context_length");
    let length = size(file, &original)?.ok_or_else(|| file.wrong(&original, MISSING))?;
    let factor = number(file, architecture, "rope.scaling.factor")?;
    let mut yarn = Map::new();
    yarn.insert("rope_type".to_owned(), json!("yarn"));
    yarn.insert("factor".to_owned(), factor);
    yarn.insert("original_max_position_embeddings".to_owned(), json!(length));
    for (name, ending) in [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")] {
        if file.value(&format!("{architecture}.{ending}")).is_some() {
            yarn.insert(name.to_owned(), number(file, architecture, ending)?);
        }
    }
    Ok(Json::Object(yarn))
}
