//! The files of a model's folder that its text side is made of.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use crate::error::FilesError;
use crate::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};

const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Contents, as they are; only the tokenizer must be there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextFiles {
    pub tokenizer: Vec<u8>,
    pub tokenizer_config: Option<Vec<u8>>,
    pub generation_config: Option<Vec<u8>>,
    pub config: Option<Vec<u8>>,
    /// Wins over the template in `tokenizer_config`.
    pub chat_template: Option<Vec<u8>>,
}

impl TextFiles {
    pub fn read(folder: &Path) -> Result<Self, FilesError> {
        let tokenizer = folder.join("tokenizer.json");
        Ok(Self {
            tokenizer: read(&tokenizer, MAX_TOKENIZER_BYTES)?
                .ok_or_else(|| FilesError::NoTokenizer { path: tokenizer.display().to_string() })?,
            tokenizer_config: read(&folder.join("tokenizer_config.json"), MAX_CONFIG_BYTES)?,
            generation_config: read(&folder.join("generation_config.json"), MAX_CONFIG_BYTES)?,
            config: read(&folder.join("config.json"), MAX_CONFIG_BYTES)?,
            chat_template: read(&folder.join("chat_template.jinja"), MAX_TEMPLATE_BYTES)?,
        })
    }
}

/// `None` if there is no such file.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, FilesError> {
    let unreadable = |source| FilesError::Unreadable { path: path.display().to_string(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() <= limit {
        return Ok(Some(bytes));
    }
    Err(FilesError::TooLarge { path: path.display().to_string(), limit: limit as u64 })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_needs_a_tokenizer_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TextFiles::read(folder.path()), Err(FilesError::NoTokenizer { .. })));
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let expected = TextFiles { tokenizer: b"{}".to_vec(), ..TextFiles::default() };
        assert_eq!(TextFiles::read(folder.path()).unwrap(), expected);

        fs::write(folder.path().join("chat_template.jinja"), "x".repeat(MAX_TEMPLATE_BYTES + 1)).unwrap();
        assert!(matches!(TextFiles::read(folder.path()), Err(FilesError::TooLarge { .. })));
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        fs::create_dir(folder.path().join("config.json")).unwrap();
        assert!(matches!(TextFiles::read(folder.path()), Err(FilesError::Unreadable { .. })));
    }
}
