//! `config.json`: what was written there becomes what is meant, once.

use serde_json::Value;

use crate::{Dtype, LoadError, ModelFiles, gguf};

const CONFIG: &str = "config.json";

/// An error quotes no more characters of a value.
const QUOTED: usize = 60;

/// No dimension of a model is larger: it keeps a damaged configuration from overflowing a product.
pub(crate) const LARGEST: u64 = 1 << 24;

/// A `config.json`, or what a GGUF file has instead, read key by key so that an error names its key.
pub struct ConfigFile {
    file: String,
    /// Before every key of an error: of a section its name and a dot.
    prefix: String,
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
        Self { file: file.to_owned(), prefix: String::new(), value }
    }

    /// For messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What a GGUF file's metadata comes to.
    #[cfg(test)]
    pub(crate) fn json(&self) -> &Value {
        &self.value
    }

    /// The numbers that the checkpoint's matrices are in, so far as the configuration says; newer files call it `dtype`.
    pub fn dtype(&self) -> Result<Dtype, LoadError> {
        for key in ["torch_dtype", "dtype"] {
            if let Some(value) = self.get(key) {
                let dtype = value.as_str().and_then(|name| name.parse().ok());
                return dtype.ok_or_else(|| {
                    self.wrong(key, &format!("is {}, expected float32, float16 or bfloat16", quote(value)))
                });
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
        size.map(Some).ok_or_else(|| {
            self.wrong(key, &format!("is {}, expected a whole number from 1 to {LARGEST}", quote(value)))
        })
    }

    pub fn positive(&self, key: &str) -> Result<f64, LoadError> {
        self.optional_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.map(Some).ok_or_else(|| self.wrong(key, &format!("is {}, expected a positive number", quote(value))))
    }

    /// False where it is absent, which is what the format says.
    pub fn flag(&self, key: &str) -> Result<bool, LoadError> {
        self.flag_or(key, false)
    }

    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, &format!("is {}, expected true or false", quote(value))))
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, &format!("is {}, expected a text", quote(value))))
    }

    /// The object under a key, to be read like a file of its own.
    pub fn section(&self, key: &str) -> Result<Option<Self>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(object) if object.is_object() => {
                let prefix = format!("{}{key}.", self.prefix);
                Ok(Some(Self { file: self.file.clone(), prefix, value: object.clone() }))
            }
            Some(other) => Err(self.wrong(key, &format!("is {}, expected an object or null", quote(other)))),
        }
    }

    /// Refuses a setting whose meaning is not implemented, rather than serve wrong answers.
    pub fn refuse(&self, key: &str, served: &[&str]) -> Result<(), LoadError> {
        let Some(value) = self.get(key) else { return Ok(()) };
        if value.as_str().is_some_and(|text| served.contains(&text)) {
            return Ok(());
        }
        let instead = if served.is_empty() { "null".to_owned() } else { served.join(", ") };
        Err(self.wrong(key, &format!("is {}, which is not served yet: only {instead} is", quote(value))))
    }

    /// The same for what may be off, but not on.
    pub fn refuse_flag(&self, key: &str) -> Result<(), LoadError> {
        if self.flag(key)? { Err(self.wrong(key, "is true, which is not served yet: only false is")) } else { Ok(()) }
    }

    /// A list of texts, if it is there, names nothing but what is served.
    pub fn refuse_others(&self, key: &str, served: &str) -> Result<(), LoadError> {
        let Some(value) = self.get(key) else { return Ok(()) };
        let list = value.as_array().ok_or_else(|| self.wrong(key, &format!("is {}, expected a list", quote(value))))?;
        match list.iter().find(|entry| entry.as_str() != Some(served)) {
            None => Ok(()),
            Some(other) => {
                Err(self.wrong(key, &format!("names {}, which is not served yet: only {served} is", quote(other))))
            }
        }
    }

    /// An error that names the file and the key.
    pub fn wrong(&self, key: &str, problem: &str) -> LoadError {
        LoadError::ConfigKey {
            file: self.file.clone(),
            key: format!("{}{key}", self.prefix),
            problem: problem.to_owned(),
        }
    }

    fn missing(&self, key: &str) -> LoadError {
        self.wrong(key, "is missing: download the file again, or take it from the model it belongs to")
    }

    /// Null is the same as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }
}

/// As it is written in the file, as far as a message can hold it.
fn quote(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
