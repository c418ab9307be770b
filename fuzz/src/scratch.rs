//! One file, written anew for every input: what is mapped when it is read must lie on a disk.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder of this process, gone with it.
pub struct Scratch {
    folder: TempDir,
    file: PathBuf,
}

impl Scratch {
    /// In memory where the machine has such a place.
    ///
    /// # Panics
    /// If no folder can be made: there is nothing to fuzz then.
    pub fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let folder = folder.expect("a temporary folder can be made");
        let file = folder.path().join(name);
        Self { folder, file }
    }

    /// # Panics
    /// If the disk is full.
    pub fn write(&self, bytes: &[u8]) -> &Path {
        fs::write(&self.file, bytes).expect("a temporary file can be written");
        &self.file
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
