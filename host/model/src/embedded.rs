//! The model within the program: what is served where none is configured.

use sluice_checkpoint::{EmbeddedFiles, ModelFiles};

/// Bytes of a file that ships in the repository, by its name.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../embedded/", $name)) as &[u8])),*]
    };
}

static EMBEDDED: EmbeddedFiles = EmbeddedFiles {
    name: "sluice-embedded",
    files: files![
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
};

/// A small Qwen3 with its tokenizer and chat template, in the layout of a model's folder.
pub fn embedded() -> ModelFiles {
    ModelFiles::Embedded(EMBEDDED)
}

#[cfg(test)]
mod tests {
    use sluice_checkpoint::{LoadOptions, Silent};

    use super::*;
    use crate::load;

    #[test]
    fn it_loads_and_is_small() {
        load(&embedded(), LoadOptions::default(), Box::new(Silent)).unwrap();
        assert!(embedded().open("model.safetensors").unwrap().len() <= 8 << 20, "it stays within 8 MiB");
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            assert!(!embedded().open(file).unwrap().is_empty(), "{file}");
        }
    }
}
