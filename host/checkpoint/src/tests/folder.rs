//! Small models on the disk, as tests need them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::{LoadError, LoadOptions, ModelFiles, Silent, Weights};

/// By name: type, shape and bytes.
pub(super) type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A folder that is gone when this is.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn of(tensors: &Tensors) -> Self {
        let folder = Self::new();
        folder.write("model.safetensors", serialize(tensors));
        folder
    }

    pub(super) fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(file);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn files(&self) -> ModelFiles {
        ModelFiles::folder(self.0.path())
    }

    pub(super) fn weights(&self, options: LoadOptions) -> Result<Weights, LoadError> {
        Weights::open(&self.files(), options, Box::new(Silent))
    }
}

pub(super) fn serialize(tensors: &Tensors) -> Vec<u8> {
    let view = |dtype: &Dtype, shape: &Vec<usize>, bytes| TensorView::new(*dtype, shape.clone(), bytes).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| (name, view(dtype, shape, bytes)));
    safetensors::serialize(views, None).unwrap()
}

pub(super) fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
