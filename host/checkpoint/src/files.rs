//! Where a model's files come from: a folder in Hugging Face's layout, or bytes within the program.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
use serde_json::Value;

use crate::{LoadError, hub};

/// A configuration or an index is kilobytes; a larger one is not what it says it is.
const JSON_LIMIT: usize = 64 << 20;

/// What the name of such a file ends in.
pub(crate) const GGUF: &str = ".gguf";

#[derive(Clone, Debug)]
pub enum ModelFiles {
    Folder(PathBuf),
    /// One file that is the whole model, or the first part of it.
    Gguf(PathBuf),
    Embedded(EmbeddedFiles),
}

/// Files within the program, by the names they would have in a folder.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedFiles {
    pub name: &'static str,
    pub files: &'static [(&'static str, &'static [u8])],
}

/// One file's contents, without a copy where the platform allows.
#[derive(Debug)]
pub enum FileBytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl ModelFiles {
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// A folder, or a GGUF file by its ending.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let gguf = path.as_os_str().as_encoded_bytes().ends_with(GGUF.as_bytes());
        if gguf { Self::Gguf(path) } else { Self::Folder(path) }
    }

    /// What the model is called when nobody names it: the folder's or file's own name, or its id on the hub.
    pub fn name(&self) -> String {
        match self {
            Self::Embedded(embedded) => embedded.name.to_owned(),
            Self::Folder(path) => hub::name_of_snapshot(path)
                .unwrap_or_else(|| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()),
            Self::Gguf(path) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }

    /// The contents of a file that must be there.
    pub fn open(&self, file: &str) -> Result<FileBytes, LoadError> {
        self.find(file)?.ok_or_else(|| LoadError::MissingFile { place: self.place(), file: file.to_owned() })
    }

    /// The contents of a file that may be there.
    pub fn find(&self, file: &str) -> Result<Option<FileBytes>, LoadError> {
        match self {
            Self::Embedded(embedded) => {
                Ok(embedded.files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| FileBytes::Static(bytes)))
            }
            Self::Folder(folder) => self.find_in(folder, file),
            // Whatever else lies in its folder is not of this model.
            Self::Gguf(path) if file.ends_with(GGUF) => self.find_in(path.parent().unwrap_or(Path::new("")), file),
            Self::Gguf(_) => Ok(None),
        }
    }

    fn find_in(&self, folder: &Path, file: &str) -> Result<Option<FileBytes>, LoadError> {
        match map(&folder.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LoadError::Unreadable { place: self.place(), file: file.to_owned(), source }),
        }
    }

    pub(crate) fn find_json(&self, file: &str) -> Result<Option<Value>, LoadError> {
        let Some(bytes) = self.find(file)? else { return Ok(None) };
        if bytes.len() > JSON_LIMIT {
            return Err(LoadError::TooLarge { file: file.to_owned(), bytes: bytes.len(), limit: JSON_LIMIT });
        }
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|source| LoadError::Json { file: file.to_owned(), source })
    }

    /// For messages.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Embedded(embedded) => format!("the embedded model `{}`", embedded.name),
            Self::Folder(path) => format!("the folder `{}`", path.display()),
            Self::Gguf(path) => format!("the folder of `{}`", path.display()),
        }
    }
}

impl FileBytes {
    /// Begins to read a part from the disk, so that whoever walks through it does not wait for every page.
    pub(crate) fn will_need(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // It is only advice: where it cannot be taken, pages come one by one.
            drop(map.advise_range(Advice::WillNeed, part.start, part.len()));
        }
        #[cfg(not(unix))]
        drop(part);
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

fn map(path: &Path) -> io::Result<FileBytes> {
    let file = File::open(path)?;
    // A file of no bytes cannot be mapped on every platform.
    if file.metadata()?.len() == 0 {
        return Ok(FileBytes::Static(&[]));
    }
    // SAFETY: the mapping is read-only and private, and every use copies out of it while the model loads. What
    // remains is another process that truncates the file meanwhile; model files are replaced, not edited.
    #[allow(unsafe_code, reason = "weights are mapped: reading gigabytes into memory first would double it")]
    let map = unsafe { Mmap::map(&file)? };
    Ok(FileBytes::Mapped(map))
}
