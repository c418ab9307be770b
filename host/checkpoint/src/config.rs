//! `config.json` and `generation_config.json`: what was written there becomes what is meant, once.

use serde_json::Value;

use crate::{Dtype, LoadError, ModelFiles, gguf};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// No dimension of a model is larger: it keeps a damaged configuration from overflowing a product.
pub(crate) const LARGEST: u64 = 1 << 24;

/// A `config.json`, or what a GGUF file has instead, read key by key so that an error names its key.
pub struct ConfigFile {
    file: String,
    value: Value,
}

impl ConfigFile {
    pub fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        if let ModelFiles::Gguf(path) = files {
            return gguf::config(files, path);
        }
        let missing = || LoadError::MissingFile { place: files.place(), file: CONFIG.to_owned() };
        files.find_json(CONFIG)?.map(|value| Self::new(CONFIG, value)).ok_or_else(missing)
    }

    pub(crate) fn new(file: &str, value: Value) -> Self {
        Self { file: file.to_owned(), value }
    }

    /// For messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What a GGUF file's metadata, or a `config.json`, comes to.
    pub fn json(&self) -> &Value {
        &self.value
    }

    /// The numbers that the checkpoint's matrices are in, so far as the configuration says; newer files call it `dtype`.
    pub fn dtype(&self) -> Result<Dtype, LoadError> {
        for key in ["torch_dtype", "dtype"] {
            if let Some(value) = self.get(key) {
                let dtype = value.as_str().and_then(|name| name.parse().ok());
                return dtype
                    .ok_or_else(|| self.wrong(key, &format!("is {value}, expected float32, float16 or bfloat16")));
            }
        }
        Ok(Dtype::Auto)
    }

    pub fn architecture(&self) -> Result<String, LoadError> {
        let first = self.value.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        first
            .map(str::to_owned)
            .ok_or_else(|| self.wrong("architectures", "must be a list that names the architecture"))
    }

    /// A dimension: from 1 to 16,777,216.
    pub fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().filter(|size| (1..=LARGEST).contains(size));
        let size = size.and_then(|size| usize::try_from(size).ok());
        size.map(Some)
            .ok_or_else(|| self.wrong(key, &format!("is {value}, expected a whole number from 1 to {LARGEST}")))
    }

    pub fn positive(&self, key: &str) -> Result<f64, LoadError> {
        self.optional_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.map(Some).ok_or_else(|| self.wrong(key, &format!("is {value}, expected a positive number")))
    }

    /// False where it is absent, which is what the format says.
    pub fn flag(&self, key: &str) -> Result<bool, LoadError> {
        self.flag_or(key, false)
    }

    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, &format!("is {value}, expected true or false")))
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, &format!("is {value}, expected a text")))
    }

    /// The object under a key, to be read like a file of its own.
    pub fn section(&self, key: &str) -> Result<Option<Self>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(object) if object.is_object() => Ok(Some(Self::new(&self.file, object.clone()))),
            Some(other) => Err(self.wrong(key, &format!("is {other}, expected an object or null"))),
        }
    }

    /// Refuses a setting whose meaning is not implemented, rather than serve wrong answers.
    pub fn refuse(&self, key: &str, served: &[&str]) -> Result<(), LoadError> {
        let Some(value) = self.get(key) else { return Ok(()) };
        if value.as_str().is_some_and(|text| served.contains(&text)) || value == &Value::Bool(false) {
            return Ok(());
        }
        let instead = if served.is_empty() { "null".to_owned() } else { served.join(", ") };
        Err(self.wrong(key, &format!("is {value}, which is not served yet: only {instead} is")))
    }

    /// A list of texts, if it is there, names nothing but what is served.
    pub fn refuse_others(&self, key: &str, served: &str) -> Result<(), LoadError> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let list = value.as_array().ok_or_else(|| self.wrong(key, &format!("is {value}, expected a list")))?;
        match list.iter().find(|entry| entry.as_str() != Some(served)) {
            None => Ok(()),
            Some(other) => Err(self.wrong(key, &format!("names {other}, which is not served yet: only {served} is"))),
        }
    }

    /// Tokens that end an answer: of `generation_config.json`, or else of this file. May be empty.
    pub fn eos_ids(&self, files: &ModelFiles) -> Result<Vec<u32>, LoadError> {
        let generation = files.find_json(GENERATION)?.map(|value| Self::new(GENERATION, value));
        let first = generation.map_or(Ok(None), |generation| generation.own_eos_ids())?;
        Ok(first.map_or_else(|| self.own_eos_ids(), |ids| Ok(Some(ids)))?.unwrap_or_default())
    }

    fn own_eos_ids(&self) -> Result<Option<Vec<u32>>, LoadError> {
        let key = "eos_token_id";
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, &format!("is {value}, expected a token id or a list of them"));
        token_list(value).map(Some).ok_or_else(wrong)
    }

    /// An error that names the file and the key.
    pub fn wrong(&self, key: &str, problem: &str) -> LoadError {
        LoadError::ConfigKey { file: self.file.clone(), key: key.to_owned(), problem: problem.to_owned() }
    }

    fn missing(&self, key: &str) -> LoadError {
        self.wrong(key, "is missing: download the file again, or take it from the model it belongs to")
    }

    /// Null is the same as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }
}

fn token_list(value: &Value) -> Option<Vec<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().map(token).collect(),
        one => token(one).map(|id| vec![id]),
    }
}

pub fn wrong(key: &str, problem: &str) -> LoadError {
    LoadError::ConfigKey { file: CONFIG.to_owned(), key: key.to_owned(), problem: problem.to_owned() }
}
