//! Tensors by name, checked against the shape that the configuration asks for.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};

use crate::dummy;
use crate::error::{Shape, TensorProblem};
use crate::files::FileBytes;
use crate::{LoadError, MatrixData, ModelFiles, StoredMatrix};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadFormat {
    /// The checkpoint beside the configuration.
    SafeTensors,
    /// Random weights in the configuration's shapes: for measuring and testing without files.
    Dummy { seed: u64 },
}

/// Where a model's numbers come from, and how many it took.
pub struct Weights {
    source: Source,
    parameters: Cell<u64>,
}

enum Source {
    Stored(Checkpoint),
    /// Random, for measuring and testing without files.
    Dummy {
        seed: u64,
    },
}

/// One safetensors file, or the shards of one model.
struct Checkpoint {
    shards: Vec<Shard>,
    /// Which shard the index puts a tensor in; empty where there is one file.
    index: HashMap<String, usize>,
}

/// A file whose header was found to be true of it: offsets, shapes and types agree with each other and its length.
struct Shard {
    file: String,
    bytes: FileBytes,
    metadata: Metadata,
    data_start: usize,
}

impl Weights {
    pub fn open(files: &ModelFiles, format: LoadFormat) -> Result<Self, LoadError> {
        Ok(Self::new(match format {
            LoadFormat::SafeTensors => Source::Stored(Checkpoint::open(files)?),
            LoadFormat::Dummy { seed } => Source::Dummy { seed },
        }))
    }

    fn new(source: Source) -> Self {
        Self { source, parameters: Cell::new(0) }
    }

    /// Of all tensors that were taken so far.
    pub fn parameters(&self) -> u64 {
        self.parameters.get()
    }

    /// A vector, such as a bias or the weights of a norm.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let data = self.data(name, &[length])?;
        Ok(StoredMatrix { outputs: 1, inputs: length, data }.to_f32())
    }

    /// A matrix of shape `[outputs, inputs]`.
    pub fn matrix(&self, name: &str, outputs: usize, inputs: usize) -> Result<StoredMatrix<'_>, LoadError> {
        let data = self.data(name, &[outputs, inputs])?;
        Ok(StoredMatrix { outputs, inputs, data })
    }

    /// All numbers are finite. Allocates nothing before the header agreed to `shape`.
    fn data(&self, name: &str, shape: &[usize]) -> Result<MatrixData<'_>, LoadError> {
        let data = match &self.source {
            Source::Stored(checkpoint) => checkpoint
                .data(name, shape)
                .map_err(|problem| LoadError::Tensor { tensor: name.to_owned(), problem: Box::new(problem) })?,
            Source::Dummy { seed } => {
                let values = dummy::tensor(*seed, name, shape);
                MatrixData::F32(values.into_iter().flat_map(f32::to_le_bytes).collect())
            }
        };
        let count: usize = shape.iter().product();
        self.parameters.set(self.parameters.get() + count as u64);
        Ok(data)
    }
}

impl Checkpoint {
    fn open(files: &ModelFiles) -> Result<Self, LoadError> {
        match files.find_json(INDEX)? {
            Some(index) => Self::open_shards(files, &index),
            None => Ok(Self { shards: vec![Shard::open(files, SINGLE)?], index: HashMap::new() }),
        }
    }

    fn open_shards(files: &ModelFiles, json: &serde_json::Value) -> Result<Self, LoadError> {
        let wrong = |key: &str| LoadError::ConfigKey {
            file: INDEX.to_owned(),
            key: key.to_owned(),
            problem: "must map each tensor's name to its shard's file name".to_owned(),
        };
        let map = json.get("weight_map").and_then(|map| map.as_object()).ok_or_else(|| wrong("weight_map"))?;
        let mut shards: Vec<Shard> = Vec::new();
        let mut index = HashMap::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| wrong(tensor))?;
            let known = shards.iter().position(|known| known.file == shard);
            let place = known.unwrap_or(shards.len());
            if known.is_none() {
                shards.push(Shard::open(files, plain_name(shard)?)?);
            }
            index.insert(tensor.clone(), place);
        }
        Ok(Self { shards, index })
    }

    fn data(&self, name: &str, shape: &[usize]) -> Result<MatrixData<'_>, TensorProblem> {
        let missing = |file: &str| TensorProblem::Missing { file: file.to_owned() };
        let shard = match self.index.get(name) {
            Some(place) => &self.shards[*place],
            None if self.index.is_empty() => &self.shards[0],
            None => return Err(missing(INDEX)),
        };
        let info = shard.metadata.info(name).ok_or_else(|| missing(&shard.file))?;
        shard.read(info, shape)
    }
}

impl Shard {
    fn open(files: &ModelFiles, file: &str) -> Result<Self, LoadError> {
        let bytes = files.open(file)?;
        let header = |source| LoadError::Header { file: file.to_owned(), source };
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).map_err(header)?;
        let data_start = size_of::<u64>() + header_bytes;
        Ok(Self { file: file.to_owned(), bytes, metadata, data_start })
    }

    fn read(&self, info: &TensorInfo, expected: &[usize]) -> Result<MatrixData<'_>, TensorProblem> {
        let file = || self.file.clone();
        if info.shape != expected {
            let (expected, found) = (Shape(expected.to_vec()), Shape(info.shape.clone()));
            return Err(TensorProblem::Shape { file: file(), expected, found });
        }
        let (start, end) = info.data_offsets;
        let raw = Cow::Borrowed(&self.bytes[self.data_start + start..self.data_start + end]);
        let data = match info.dtype {
            Dtype::F32 => MatrixData::F32(raw),
            Dtype::F16 => MatrixData::F16(raw),
            Dtype::BF16 => MatrixData::Bf16(raw),
            found => return Err(TensorProblem::Dtype { file: file(), found }),
        };
        match data.first_not_finite() {
            None => Ok(data),
            Some((index, value)) => Err(TensorProblem::NotFinite { file: file(), index, value }),
        }
    }
}

/// A shard lies beside its index: a name that leads elsewhere is refused.
fn plain_name(shard: &str) -> Result<&str, LoadError> {
    if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
        return Err(LoadError::ShardName { file: INDEX.to_owned(), shard: shard.to_owned() });
    }
    Ok(shard)
}
