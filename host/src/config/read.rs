//! Reads settings from a file and from the environment. An unknown key is an error that suggests the nearest one.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::{ConfigError, Settings};

const PREFIX: &str = "SLUICE__";
/// A configuration is not larger; another file may well be.
const FILE_BYTES: u64 = 1 << 20;

pub fn file(path: &Path) -> Result<Settings, ConfigError> {
    let origin = path.display().to_string();
    let failed = |error: &dyn std::fmt::Display| ConfigError::new(&origin, error.to_string());
    let size = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if size > FILE_BYTES {
        return Err(failed(&format!("has {size} bytes, which no configuration has")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    settings(text.parse::<Table>().map_err(|error| failed(&error))?, &origin)
}

/// `SLUICE__SERVER__PORT=8080` is `port = 8080` in `[server]`.
pub fn environment(variables: impl Iterator<Item = (String, String)>) -> Result<Settings, ConfigError> {
    let mut table = Table::new();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let Some((section, key)) = path.split_once("__") else {
            return Err(ConfigError::new(&name, format!("is not of the form {PREFIX}SECTION__KEY")));
        };
        let section = table.entry(section.to_ascii_lowercase()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(key.to_ascii_lowercase(), scalar(text));
        }
    }
    settings(table, "environment")
}

/// A number where it reads as one; everything else is a string.
fn scalar(text: String) -> Value {
    text.parse().map(Value::Integer).unwrap_or(Value::String(text))
}

fn settings(table: Table, origin: &str) -> Result<Settings, ConfigError> {
    let sections: Vec<&str> = Settings::SECTIONS.iter().map(|(name, _)| *name).collect();
    for (name, section) in &table {
        let Some((_, keys)) = Settings::SECTIONS.iter().find(|(known, _)| known == name) else {
            return Err(ConfigError::new(origin, unknown("section", name, &sections)));
        };
        let Value::Table(section) = section else {
            return Err(ConfigError::new(origin, format!("`{name}` is a section: write `[{name}]`")));
        };
        if let Some(key) = section.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(ConfigError::new(origin, unknown(&format!("key in [{name}]"), key, keys)));
        }
    }
    table.try_into().map_err(|error: toml::de::Error| ConfigError::new(origin, error.to_string().trim_end()))
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    let nearest = nearest.map_or_else(String::new, |nearest| format!(": did you mean `{nearest}`?"));
    format!("unknown {what} `{name}`{nearest}")
}
