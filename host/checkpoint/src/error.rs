//! What can be wrong with a model's files: each error names the file or tensor and what to do about it.

use std::fmt;

/// Loading stops at the first of these; nothing is served from a model that did not load whole.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{place} has no file `{file}`: a model is a folder in Hugging Face's layout; download it again, whole")]
    MissingFile { place: String, file: String },
    #[error("`{file}` of {place} cannot be read ({source}): check its permissions and the disk")]
    Unreadable { place: String, file: String, source: std::io::Error },
    #[error("`{file}` is {bytes} bytes, and at most {limit} are read: this is not the file it should be")]
    TooLarge { file: String, bytes: usize, limit: usize },
    #[error("`{file}` is not valid JSON ({source}): download it again")]
    Json { file: String, source: serde_json::Error },
    #[error("`{file}`: key `{key}` {problem}")]
    ConfigKey { file: String, key: String, problem: String },
    #[error("`config.json` names the architecture `{found}`, and these are served: {}", supported.join(", "))]
    UnknownArchitecture { found: String, supported: Vec<&'static str> },
    #[error("`{file}` is not a whole safetensors file ({source}): it is truncated or damaged, download it again")]
    Header { file: String, source: safetensors::SafeTensorError },
    #[error("`{file}` names the shard `{shard}`, which is not a plain file name: download the index again")]
    ShardName { file: String, shard: String },
    #[error("tensor `{tensor}` {problem}")]
    Tensor { tensor: String, problem: Box<TensorProblem> },
}

/// `file` is where the tensor was looked for.
#[derive(Debug, thiserror::Error)]
pub enum TensorProblem {
    #[error("is missing from {file}: these weights are not of this `config.json`")]
    Missing { file: String },
    #[error("in {file} has shape {found}, expected {expected} by `config.json`: the two do not belong together")]
    Shape { file: String, expected: Shape, found: Shape },
    #[error("in {file} is stored as {found:?}, and F32, F16 and BF16 are read: convert the checkpoint")]
    Dtype { file: String, found: safetensors::Dtype },
    #[error("in {file} holds {value} at index {index}: the checkpoint is damaged, download it again")]
    NotFinite { file: String, index: usize, value: f32 },
}

/// A tensor's dimensions, outermost first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape(pub Vec<usize>);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
