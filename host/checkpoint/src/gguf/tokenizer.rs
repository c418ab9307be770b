//! A GGUF file's tokenizer, as plain data for whoever builds one of it.

use super::value::Value;
use super::{Gguf, GgufProblem};
use crate::{LoadError, ModelFiles};

/// `tokenizer.ggml.*` and `tokenizer.chat_template`. Tokens are written as in `tokenizer.json`.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct GgufTokenizer {
    /// Such as `gpt2`, which is byte-level BPE.
    pub model: Option<String>,
    /// Which rule cuts a text before merges, such as `qwen2`.
    pub pre: Option<String>,
    /// By id.
    pub tokens: Vec<String>,
    /// By id: 1 is a normal token, 3 a control token, 4 one that a user defined, 5 an unused one. May be empty.
    pub token_types: Vec<i32>,
    /// Two tokens with a space between them, the first merge first.
    pub merges: Vec<String>,
    pub bos_id: Option<u32>,
    /// The end of a text,
    pub eos_id: Option<u32>,
    /// and of a turn.
    pub eot_id: Option<u32>,
    /// Whether `bos_id` stands before every prompt.
    pub add_bos: Option<bool>,
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// None where the files are not GGUF: their tokenizer is a file beside the others.
    pub fn read(files: &ModelFiles) -> Result<Option<Self>, LoadError> {
        let ModelFiles::Gguf(path) = files else { return Ok(None) };
        Self::of(&Gguf::open(files, path)?).map(Some)
    }

    fn of(file: &Gguf) -> Result<Self, LoadError> {
        let text = |key| one(file, key, "a text", |value| value.as_text().map(str::to_owned));
        let id = |key| one(file, key, "a token's id", |value| u32::try_from(value.as_u64()?).ok());
        let texts = |key| list(file, key, "texts", into_text);
        let kind = |value| match value {
            Value::Whole(number) => i32::try_from(number).ok(),
            _ => None,
        };
        let read = Self {
            model: text("tokenizer.ggml.model")?,
            pre: text("tokenizer.ggml.pre")?,
            tokens: texts("tokenizer.ggml.tokens")?,
            token_types: list(file, "tokenizer.ggml.token_type", "whole numbers", kind)?,
            merges: texts("tokenizer.ggml.merges")?,
            bos_id: id("tokenizer.ggml.bos_token_id")?,
            eos_id: id("tokenizer.ggml.eos_token_id")?,
            eot_id: id("tokenizer.ggml.eot_token_id")?,
            add_bos: one(file, "tokenizer.ggml.add_bos_token", "true or false", Value::as_flag)?,
            chat_template: text("tokenizer.chat_template")?,
        };
        let add_eos = "tokenizer.ggml.add_eos_token";
        if one(file, add_eos, "true or false", Value::as_flag)? == Some(true) {
            return Err(
                file.wrong(add_eos, "is true, which is not served: nothing would follow a prompt that has ended")
            );
        }
        if !read.token_types.is_empty() && read.token_types.len() != read.tokens.len() {
            let problem = format!("has {} entries for {} tokens", read.token_types.len(), read.tokens.len());
            return Err(file.wrong("tokenizer.ggml.token_type", problem));
        }
        Ok(read)
    }
}

fn into_text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn one<T>(file: &Gguf, key: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, LoadError> {
    let Some(value) = file.value(key) else { return Ok(None) };
    read(value).map(Some).ok_or_else(|| file.wrong(key, format!("must be {what}")))
}

/// Empty where it is absent.
fn list<T>(file: &Gguf, key: &str, what: &str, read: impl Fn(Value) -> Option<T>) -> Result<Vec<T>, LoadError> {
    let Some(value) = file.value(key) else { return Ok(Vec::new()) };
    let wrong = || file.wrong(key, format!("must be a list of {what}"));
    let damaged = |problem: GgufProblem| LoadError::Gguf { file: file.file().to_owned(), problem: Box::new(problem) };
    let elements = value.as_list().ok_or_else(wrong)?.elements(&file.first().bytes).map_err(damaged)?;
    elements.into_iter().map(read).collect::<Option<_>>().ok_or_else(wrong)
}
