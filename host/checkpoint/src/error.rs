//! What can be wrong with a model's files: each error names the file or tensor and what to do about it.

use std::fmt;

use crate::files::GGUF;
use crate::gguf::GgufProblem;
use crate::matrix::Form;
use crate::options::{Dtype, Quantization};

/// Loading stops at the first of these; nothing is served from a model that did not load whole.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("there is no folder or GGUF file `{model}`, and it is no ORG/NAME of the Hugging Face hub: check the path")]
    NoSuchModel { model: String },
    #[error("`{path}` is a file: name the model's folder, or a file that ends in .gguf")]
    NotAModel { path: String },
    #[error("`{folder}` holds several models, {}: name one of these files", files.join(", "))]
    SeveralFiles { folder: String, files: Vec<String> },
    #[error(
        "`{model}` is no folder, and not in the Hugging Face cache (looked in {looked}; HF_HUB_CACHE, HF_HOME or HOME \
         say where it is): get it with `{command}`{}",
        if *offline { ", after unsetting HF_HUB_OFFLINE" } else { "" }
    )]
    NotInCache { model: String, looked: String, command: String, offline: bool },
    #[error("{place} has no file `{file}`: {}", whole(file))]
    MissingFile { place: String, file: String },
    #[error("`{file}` of {place} cannot be read ({source}): check its permissions and the disk")]
    Unreadable { place: String, file: String, source: std::io::Error },
    #[error("`{file}` is {bytes} bytes, and at most {limit} are read: this is not the file it should be")]
    TooLarge { file: String, bytes: usize, limit: usize },
    #[error("`{file}` is not valid JSON ({source}): download it again")]
    Json { file: String, source: serde_json::Error },
    #[error("`{file}`: key `{key}` {problem}")]
    ConfigKey { file: String, key: String, problem: String },
    #[error("`{file}` names the architecture `{found}`, and these are served: {}", supported.join(", "))]
    UnknownArchitecture { file: String, found: String, supported: Vec<&'static str> },
    #[error("`{file}` is not a whole safetensors file ({source}): it is truncated or damaged, download it again")]
    Header { file: String, source: safetensors::SafeTensorError },
    #[error("`{file}` names the tensor `{tensor}` twice: it is damaged, download it again")]
    Twice { file: String, tensor: String },
    #[error("`{file}` names the shard `{shard}`, which is not a plain file name: download the index again")]
    ShardName { file: String, shard: String },
    #[error("`{file}` cannot be served from: {problem}")]
    Gguf { file: String, problem: Box<GgufProblem> },
    #[error("tensor `{tensor}` {problem}")]
    Tensor { tensor: String, problem: Box<TensorProblem> },
}

/// `file` is where the tensor was looked for.
#[derive(Debug, thiserror::Error)]
pub enum TensorProblem {
    #[error("is missing from {file}: these weights are not of this configuration")]
    Missing { file: String },
    #[error("in {file} has shape {found}, expected {expected} by the configuration: the two do not belong together")]
    Shape { file: String, expected: Shape, found: Shape },
    #[error("in {file} is stored as {found:?}, and {} is read: convert the checkpoint", list(expected))]
    Dtype { file: String, expected: Vec<safetensors::Dtype>, found: safetensors::Dtype },
    #[error("in {file} holds {value} at index {index}: the checkpoint is damaged, download it again")]
    NotFinite { file: String, index: usize, value: f32 },
    #[error(
        "in {file} holds {value} at index {index}, which {dtype} cannot hold: choose another dtype, such as float32"
    )]
    Overflow { file: String, index: usize, value: f32, dtype: Dtype },
    #[error("in {file} is held as {found} already and cannot be made {asked}: leave the quantization out")]
    Quantized { file: String, found: Form, asked: Quantization },
    #[error("would have more than {limit} random numbers: the configuration is damaged")]
    TooLarge { limit: usize },
    #[error("would be {bytes} bytes of random numbers, which memory does not hold: choose a narrower dtype")]
    NoMemory { bytes: u64 },
    #[error("in {file} {problem}: quantise the checkpoint again, or load one that is not quantised")]
    QuantState { file: String, problem: String },
}

/// A tensor's dimensions, outermost first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape(pub Vec<usize>);

impl TensorProblem {
    pub(crate) fn of(self, tensor: &str) -> LoadError {
        LoadError::Tensor { tensor: tensor.to_owned(), problem: Box::new(self) }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What a model must be so that none of its files is missing.
fn whole(file: &str) -> &'static str {
    if file.ends_with(GGUF) {
        "check the path, and download all parts of a model that is split into one folder"
    } else {
        "a model is a folder in Hugging Face's layout; download it again, whole"
    }
}

fn list(dtypes: &[safetensors::Dtype]) -> String {
    dtypes.iter().map(|dtype| format!("{dtype:?}")).collect::<Vec<_>>().join(", ")
}
