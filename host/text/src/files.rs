//! The files of a model's folder that its text side is made of.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use crate::error::FilesError;
use crate::{MAX_RANKS_BYTES, MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};

const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// Contents, as they are; only the tokenizer must be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextFiles {
    pub tokenizer: TokenizerFile,
    pub tokenizer_config: Option<Vec<u8>>,
    pub generation_config: Option<Vec<u8>>,
    pub config: Option<Vec<u8>>,
    /// Wins over the template in `tokenizer_config`.
    pub chat_template: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenizerFile {
    /// `tokenizer.json`, which wins.
    Json(Vec<u8>),
    /// `qwen.tiktoken`, of Qwen's first models.
    Tiktoken(Vec<u8>),
}

impl TextFiles {
    /// A tokenizer and nothing else.
    pub fn new(tokenizer: TokenizerFile) -> Self {
        Self { tokenizer, tokenizer_config: None, generation_config: None, config: None, chat_template: None }
    }

    pub fn read(folder: &Path) -> Result<Self, FilesError> {
        Ok(Self {
            tokenizer: tokenizer(folder)?,
            tokenizer_config: read(&folder.join("tokenizer_config.json"), MAX_CONFIG_BYTES)?,
            generation_config: read(&folder.join("generation_config.json"), MAX_CONFIG_BYTES)?,
            config: read(&folder.join("config.json"), MAX_CONFIG_BYTES)?,
            chat_template: read(&folder.join("chat_template.jinja"), MAX_TEMPLATE_BYTES)?,
        })
    }
}

fn tokenizer(folder: &Path) -> Result<TokenizerFile, FilesError> {
    if let Some(json) = read(&folder.join("tokenizer.json"), MAX_TOKENIZER_BYTES)? {
        return Ok(TokenizerFile::Json(json));
    }
    let ranks = read(&folder.join("qwen.tiktoken"), MAX_RANKS_BYTES)?;
    ranks.map(TokenizerFile::Tiktoken).ok_or_else(|| FilesError::NoTokenizer { folder: folder.display().to_string() })
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
        let none = TextFiles::read(folder.path()).unwrap_err().to_string();
        assert!(none.contains("tokenizer.json") && none.contains("qwen.tiktoken"), "{none}");
        fs::write(folder.path().join("qwen.tiktoken"), "IQ== 0").unwrap();
        let ranks = TokenizerFile::Tiktoken(b"IQ== 0".to_vec());
        assert_eq!(TextFiles::read(folder.path()).unwrap(), TextFiles::new(ranks));
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let json = TokenizerFile::Json(b"{}".to_vec());
        assert_eq!(TextFiles::read(folder.path()).unwrap(), TextFiles::new(json));

        fs::write(folder.path().join("chat_template.jinja"), "x".repeat(MAX_TEMPLATE_BYTES + 1)).unwrap();
        assert!(matches!(TextFiles::read(folder.path()), Err(FilesError::TooLarge { .. })));
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        fs::create_dir(folder.path().join("config.json")).unwrap();
        assert!(matches!(TextFiles::read(folder.path()), Err(FilesError::Unreadable { .. })));
    }
}
