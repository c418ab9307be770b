//! One safetensors file, or the shards of one model: tensors by name, as they lie there.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Shape, TensorProblem};
use crate::files::FileBytes;
use crate::{LoadError, ModelFiles};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

pub(crate) struct SafeTensorsFiles {
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

/// A tensor within a mapped file.
#[derive(Clone, Copy)]
pub(crate) struct Tensor<'a> {
    pub(crate) file: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl SafeTensorsFiles {
    pub(crate) fn open(files: &ModelFiles) -> Result<Self, LoadError> {
        match files.find_json(INDEX)? {
            Some(index) => Self::open_shards(files, &index),
            None => Ok(Self { shards: vec![Shard::open(files, SINGLE)?], index: HashMap::new() }),
        }
    }

    /// Each shard is mapped once, however many tensors it holds.
    fn open_shards(files: &ModelFiles, json: &serde_json::Value) -> Result<Self, LoadError> {
        let wrong = |key: &str| LoadError::ConfigKey {
            file: INDEX.to_owned(),
            key: key.to_owned(),
            problem: "must map each tensor's name to its shard's file name".to_owned(),
        };
        let map = json.get("weight_map").and_then(|map| map.as_object()).filter(|map| !map.is_empty());
        let (mut shards, mut places, mut index) = (Vec::new(), HashMap::new(), HashMap::new());
        for (tensor, shard) in map.ok_or_else(|| wrong("weight_map"))? {
            let shard = plain_name(shard.as_str().ok_or_else(|| wrong(tensor))?)?;
            let place = match places.get(shard) {
                Some(place) => *place,
                None => {
                    shards.push(Shard::open(files, shard)?);
                    places.insert(shard, shards.len() - 1);
                    shards.len() - 1
                }
            };
            if shards[place].metadata.info(tensor).is_none() {
                let problem = TensorProblem::Missing { file: format!("{shard}, where {INDEX} puts it") };
                return Err(problem.of(tensor));
            }
            index.insert(tensor.clone(), place);
        }
        Ok(Self { shards, index })
    }

    pub(crate) fn find(&self, name: &str) -> Option<Tensor<'_>> {
        self.shard(name)?.find(name)
    }

    /// Begins to read a tensor from the disk.
    pub(crate) fn will_need(&self, name: &str) {
        if let Some(shard) = self.shard(name)
            && let Some(place) = shard.place(name)
        {
            shard.bytes.will_need(place);
        }
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        match self.index.get(name) {
            Some(place) => Some(&self.shards[*place]),
            None => self.shards.first().filter(|_| self.index.is_empty()),
        }
    }

    /// Fails where there is none.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor<'_>, TensorProblem> {
        let file = if self.index.is_empty() { SINGLE } else { INDEX };
        self.find(name).ok_or_else(|| TensorProblem::Missing { file: file.to_owned() })
    }

    /// Of all tensors, those that the index passes over too.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.metadata.data_len() as u64).sum()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.shards.iter().flat_map(|shard| shard.metadata.offset_keys())
    }
}

impl Shard {
    fn open(files: &ModelFiles, file: &str) -> Result<Self, LoadError> {
        let bytes = files.open(file)?;
        let header = |source| LoadError::Header { file: file.to_owned(), source };
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).map_err(header)?;
        let data_start = size_of::<u64>() + header_bytes;
        match twice(&bytes[size_of::<u64>()..data_start]) {
            Some(tensor) => Err(LoadError::Twice { file: file.to_owned(), tensor }),
            None => Ok(Self { file: file.to_owned(), bytes, metadata, data_start }),
        }
    }

    fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let (info, place) = (self.metadata.info(name)?, self.place(name)?);
        Some(Tensor { file: &self.file, dtype: info.dtype, shape: &info.shape, bytes: &self.bytes[place] })
    }

    fn place(&self, name: &str) -> Option<Range<usize>> {
        let (start, end) = self.metadata.info(name)?.data_offsets;
        Some(self.data_start + start..self.data_start + end)
    }
}

impl Tensor<'_> {
    pub(crate) fn expect_shape(&self, expected: &[usize]) -> Result<(), TensorProblem> {
        if self.shape == expected {
            return Ok(());
        }
        let (expected, found) = (Shape(expected.to_vec()), Shape(self.shape.to_vec()));
        Err(TensorProblem::Shape { file: self.file.to_owned(), expected, found })
    }

    pub(crate) fn expect_dtype(&self, expected: &[Dtype]) -> Result<(), TensorProblem> {
        if expected.contains(&self.dtype) {
            return Ok(());
        }
        let (expected, found) = (expected.to_vec(), self.dtype);
        Err(TensorProblem::Dtype { file: self.file.to_owned(), expected, found })
    }
}

/// A shard lies beside its index: a name that leads elsewhere is refused.
fn plain_name(shard: &str) -> Result<&str, LoadError> {
    if shard.is_empty() || shard.contains(['/', '\\']) || shard == ".." {
        return Err(LoadError::ShardName { file: INDEX.to_owned(), shard: shard.to_owned() });
    }
    Ok(shard)
}

/// The first name that a header has twice: of the two tensors a map would keep one without a word.
fn twice(header: &[u8]) -> Option<String> {
    serde_json::Deserializer::from_slice(header).deserialize_map(Twice).ok().flatten()
}

struct Twice;

impl<'de> Visitor<'de> for Twice {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let (mut seen, mut twice) = (BTreeSet::new(), None);
        while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(name) = seen.replace(name) {
                twice.get_or_insert(name);
            }
        }
        Ok(twice)
    }
}
