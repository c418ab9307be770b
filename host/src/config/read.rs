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
    let mut typed = Settings::default();
    for (name, text) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let Some((section, key)) = path.split_once("__") else {
            return Err(ConfigError::new(&name, format!("is not of the form {PREFIX}SECTION__KEY")));
        };
        typed = variable(&name, &section.to_ascii_lowercase(), &key.to_ascii_lowercase(), text)?.over(typed);
    }
    Ok(typed)
}

/// The variable of the environment that sets a key.
pub(crate) fn variable_of(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase())
}

/// A value as TOML writes it where that is what the key takes; otherwise the text as it stands.
fn variable(name: &str, section: &str, key: &str, text: String) -> Result<Settings, ConfigError> {
    let with = |value| {
        let keys = Table::from_iter([(key.to_owned(), value)]);
        settings(Table::from_iter([(section.to_owned(), Value::Table(keys))]), name)
    };
    match format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value")) {
        Some(value) => with(value).or_else(|error| with(Value::String(text)).map_err(|_| error)),
        None => with(Value::String(text)),
    }
}

fn settings(table: Table, origin: &str) -> Result<Settings, ConfigError> {
    let sections = Settings::sections();
    for (name, section) in &table {
        let Some((_, keys)) = sections.iter().find(|(known, _)| known == name) else {
            return Err(ConfigError::new(origin, unknown("section", name, sections.iter().map(|(known, _)| *known))));
        };
        let Value::Table(section) = section else {
            return Err(ConfigError::new(origin, format!("`{name}` is a section: write `[{name}]`")));
        };
        if let Some(key) = section.keys().find(|key| keys.iter().all(|known| known.name != key.as_str())) {
            let known = keys.iter().map(|known| known.name);
            return Err(ConfigError::new(origin, unknown(&format!("key in [{name}]"), key, known)));
        }
    }
    table.try_into().map_err(|error: toml::de::Error| ConfigError::new(origin, error.to_string().trim_end()))
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    let nearest = nearest.map_or_else(String::new, |nearest| format!(": did you mean `{nearest}`?"));
    format!("unknown {what} `{name}`{nearest}")
}
