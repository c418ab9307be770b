//! Which model is served, and how it is loaded.

use std::str::FromStr;

use sluice_checkpoint::{LoadFormat, LoadOptions, OptionError};

use super::{ConfigError, ModelSection};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelConfig {
    pub source: ModelSource,
    pub served_name: ServedName,
    /// The model's own length bounds it too. Without it, so does what fits in memory.
    pub max_model_len: Option<u32>,
    pub load: LoadOptions,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelSource {
    Embedded,
    /// A folder, a GGUF file, or a name on the hub.
    Named(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServedName {
    /// The folder's, or the embedded model's.
    OfTheModel,
    Given(String),
}

impl ModelConfig {
    pub(super) fn of(typed: ModelSection) -> Result<Self, ConfigError> {
        if typed.max_model_len.is_some_and(|length| length < 2) {
            let problem = "must hold a token of the prompt and one of the answer";
            return Err(ConfigError::new("model.max_model_len", problem));
        }
        Ok(Self {
            load: LoadOptions {
                format: format(&typed.load_format())?,
                dtype: choice("model.dtype", &typed.dtype())?,
                quantization: choice("model.quantization", &typed.quantization())?,
            },
            source: ModelSource::typed(typed.source),
            served_name: typed.served_name.map_or(ServedName::OfTheModel, ServedName::Given),
            max_model_len: typed.max_model_len,
        })
    }
}

impl ModelSource {
    pub(crate) fn typed(source: Option<String>) -> Self {
        source.map_or(Self::Embedded, Self::Named)
    }
}

fn format(typed: &str) -> Result<LoadFormat, ConfigError> {
    match typed {
        "auto" | "safetensors" => Ok(LoadFormat::Auto),
        "dummy" => Ok(LoadFormat::Dummy { seed: 0 }),
        other => {
            let problem = format!("unknown format `{other}`: there are `auto`, `safetensors` and `dummy`");
            Err(ConfigError::new("model.load_format", problem))
        }
    }
}

fn choice<T: FromStr<Err = OptionError>>(key: &str, typed: &str) -> Result<T, ConfigError> {
    typed.parse().map_err(|error: OptionError| ConfigError::new(key, error.to_string()))
}
