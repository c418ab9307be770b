//! What was typed, and where: so that it can be shown which of several places decided.

use std::fmt::Write as _;
use std::path::Path;

use toml::Value;

use super::sections::Key;
use super::{ConfigError, Settings, read};

/// The places where settings are typed; the first stands over the second, and that over the third.
pub struct Layers {
    flags: Settings,
    environment: Settings,
    file: Settings,
    file_name: String,
}

impl Layers {
    pub fn read(
        flags: Settings,
        environment: impl Iterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            flags,
            environment: read::environment(environment)?,
            file: file.map(read::file).transpose()?.unwrap_or_default(),
            file_name: file.map(|path| path.display().to_string()).unwrap_or_default(),
        })
    }

    pub fn settings(&self) -> Settings {
        self.flags.clone().over(self.environment.clone()).over(self.file.clone())
    }

    /// All settings as a file that would set them so; with `origins`, each says where it comes from.
    pub fn show(&self, origins: bool) -> String {
        let mut text = String::new();
        for (section, keys) in Settings::sections() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "[{section}]");
            for key in keys {
                let line = self.line(section, &key, origins);
                let _ = writeln!(text, "{line}");
            }
            text.push('\n');
        }
        text
    }

    fn line(&self, section: &str, key: &Key, origins: bool) -> String {
        let (name, meaning) = (key.name, key.meaning.trim());
        let (value, origin) = match self.typed(section, name) {
            Some((value, origin)) => (Some(value), origin),
            None => (key.default.clone(), "default".to_owned()),
        };
        match (value, origins) {
            (Some(value), true) => format!("{:<36} # {origin}", format!("{name} = {value}")),
            (Some(value), false) => format!("{name} = {value}"),
            (None, _) => format!("# {name} is not set: {meaning}"),
        }
    }

    /// What was typed of a key last, and where.
    fn typed(&self, section: &str, key: &str) -> Option<(Value, String)> {
        let of = |settings: &Settings, origin: &dyn Fn() -> String| Some((settings.typed(section, key)?, origin()));
        of(&self.flags, &|| "command line".to_owned())
            .or_else(|| of(&self.environment, &|| read::variable_of(section, key)))
            .or_else(|| of(&self.file, &|| self.file_name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(flags: Settings, environment: &[(&str, &str)], file: &str) -> Layers {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let read = Layers::read(flags, environment, Some(&path)).unwrap();
        Layers { file_name: "sluice.toml".to_owned(), ..read }
    }

    fn line<'a>(shown: &'a str, key: &str) -> Vec<&'a str> {
        shown.lines().find(|line| line.starts_with(key)).unwrap().split(" # ").map(str::trim).collect()
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let mut flags = Settings::default();
        flags.server.port = Some(9);
        let environment = [("SLUICE__SERVER__PORT", "8"), ("SLUICE__ENGINE__REPLICAS", "2")];
        let file = "[server]\nport = 7\n[engine]\nreplicas = 3\nblock_size = 32\n[timeouts]\nqueue = 5";
        let shown = layers(flags, &environment, file).show(true);
        assert_eq!(line(&shown, "port "), ["port = 9", "command line"]);
        assert_eq!(line(&shown, "replicas"), ["replicas = 2", "SLUICE__ENGINE__REPLICAS"]);
        assert_eq!(line(&shown, "block_size"), ["block_size = 32", "sluice.toml"]);
        assert_eq!(line(&shown, "queue"), ["queue = 5.0", "sluice.toml"]);
        assert_eq!(line(&shown, "stall"), ["stall = 120.0", "default"]);
        assert!(shown.contains("# kv_blocks is not set: Blocks of the KV cache"));
    }

    #[test]
    fn what_is_shown_sets_the_same() {
        let file = "[policies]\nbatching = \"step-time\"\nbatching_config = { tpot_target_ms = 40 }\n\
                    [auth]\npublic_paths = [\"/health\"]\n[model]\nserved_name = \"a \\\"b\\\"\"";
        let first = layers(Settings::default(), &[], file);
        let shown = first.show(false);
        let again = layers(Settings::default(), &[], &shown);
        assert_eq!(again.show(false), shown);
        assert_eq!(again.settings().policies, first.settings().policies);
    }
}
