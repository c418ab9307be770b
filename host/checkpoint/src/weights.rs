//! Tensors by name, checked against the shape that the configuration asks for, in the form that was asked for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use safetensors::Dtype as FileDtype;

use crate::error::TensorProblem;
use crate::gguf::Gguf;
use crate::progress::Meter;
use crate::safetensors_file::SafeTensorsFiles;
use crate::{
    ConfigFile, Dtype, Form, LoadError, LoadFormat, LoadOptions, MatrixData, ModelFiles, Progress, Quantization,
    StoredMatrix, bitsandbytes, dummy, float, int8, nf4,
};

/// Where a model's numbers come from, how many it took, and which were left.
pub struct Weights {
    source: Source,
    options: LoadOptions,
    meter: Meter,
    parameters: AtomicU64,
    asked: Mutex<BTreeSet<String>>,
}

enum Source {
    SafeTensors(SafeTensorsFiles),
    Gguf(Gguf),
    /// Random, for measuring and testing without files.
    Dummy {
        seed: u64,
        dtype: Dtype,
    },
}

/// A tensor as it was found, not yet looked into, and the file that it is in.
struct Found<'a> {
    data: MatrixData<'a>,
    file: &'a str,
}

impl Weights {
    /// Reads headers; `progress` hears of what is read later.
    pub fn open(files: &ModelFiles, options: LoadOptions, progress: Box<dyn Progress>) -> Result<Self, LoadError> {
        let source = Source::open(files, &options)?;
        Ok(Self {
            meter: Meter::new(progress, source.bytes()),
            source,
            options,
            parameters: AtomicU64::new(0),
            asked: Mutex::new(BTreeSet::new()),
        })
    }

    /// Of all tensors that were taken so far.
    pub fn parameters(&self) -> u64 {
        self.parameters.load(Ordering::Relaxed)
    }

    /// A vector, such as a bias or the weights of a norm.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let data = self.take(name, &[length])?.data;
        Ok(StoredMatrix { outputs: 1, inputs: length, data }.to_f32())
    }

    /// The matrix of an embedding or a head, of shape `[outputs, inputs]`: in the dtype that was asked for.
    pub fn table(&self, name: &str, outputs: usize, inputs: usize) -> Result<StoredMatrix<'_>, LoadError> {
        let Found { data, file } = self.take(name, &[outputs, inputs])?;
        let converted = float::convert(data, self.options.dtype);
        let data = converted.map_err(|float::Overflow { index, value }| {
            let dtype = self.options.dtype;
            TensorProblem::Overflow { file: file.to_owned(), index, value, dtype }.of(name)
        })?;
        Ok(StoredMatrix { outputs, inputs, data })
    }

    /// The matrix of a linear layer, of shape `[outputs, inputs]`: in the dtype that was asked for, then quantised.
    pub fn projection(&self, name: &str, outputs: usize, inputs: usize) -> Result<StoredMatrix<'_>, LoadError> {
        let matrix = self.table(name, outputs, inputs)?;
        let asked = self.options.quantization;
        let data = match (asked, matrix.form()) {
            (Quantization::None, _) | (Quantization::Int8, Form::Int8) | (Quantization::Nf4, Form::Nf4 { .. }) => {
                return Ok(matrix);
            }
            (Quantization::Int8, Form::F32 | Form::F16 | Form::Bf16) => MatrixData::Int8(int8::quantize(&matrix)),
            (Quantization::Nf4, Form::F32 | Form::F16 | Form::Bf16) => MatrixData::Nf4(nf4::quantize(&matrix)),
            (_, found) => {
                let file = self.source.find(name, &[outputs, inputs])?.file.to_owned();
                return Err(TensorProblem::Quantized { file, found, asked }.of(name));
            }
        };
        Ok(StoredMatrix { outputs, inputs, data })
    }

    /// What a tensor is held as in the files, by headers alone.
    pub fn form(&self, name: &str, shape: &[usize]) -> Result<Form, LoadError> {
        // One whose shape is wrong is not also one that nobody asked for.
        self.ask(name);
        match &self.source {
            Source::Dummy { dtype, .. } => Ok(dummy::form(*dtype)),
            stored => Ok(stored.find(name, shape)?.data.form()),
        }
    }

    /// Tensors in the files that nobody asked for, by name.
    pub fn unclaimed(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = |name: &String| {
            asked.contains(name) || bitsandbytes::whole(name).is_some_and(|whole| asked.contains(&whole))
        };
        let mut names = self.source.names();
        names.retain(|name| !claimed(name));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// All numbers are finite. Allocates nothing before the header agreed to `shape`.
    fn take(&self, name: &str, shape: &[usize]) -> Result<Found<'_>, LoadError> {
        let found = self.source.find(name, shape)?;
        self.ask(name);
        self.source.will_need(name);
        found.check_finite(name)?;
        let count: usize = shape.iter().product();
        self.parameters.fetch_add(count as u64, Ordering::Relaxed);
        self.meter.read(found.data.form().bytes(1, count));
        Ok(found)
    }

    fn ask(&self, name: &str) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

impl Source {
    fn open(files: &ModelFiles, options: &LoadOptions) -> Result<Self, LoadError> {
        match (options.format, files) {
            (LoadFormat::Dummy { seed }, _) => Ok(Self::Dummy { seed, dtype: dummy_dtype(files, options.dtype)? }),
            (LoadFormat::Auto, ModelFiles::Gguf(path)) => Gguf::open(files, path).map(Self::Gguf),
            (LoadFormat::Auto, _) => SafeTensorsFiles::open(files).map(Self::SafeTensors),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::SafeTensors(files) => files.bytes(),
            Self::Gguf(file) => file.bytes(),
            Self::Dummy { .. } => 0,
        }
    }

    fn will_need(&self, name: &str) {
        match self {
            Self::SafeTensors(files) => files.will_need(name),
            Self::Gguf(file) => file.will_need(name),
            Self::Dummy { .. } => {}
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::SafeTensors(files) => files.names().collect(),
            Self::Gguf(file) => file.names().collect(),
            Self::Dummy { .. } => Vec::new(),
        }
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Found<'_>, LoadError> {
        match self {
            Self::SafeTensors(files) => in_safetensors(files, name, shape),
            Self::Gguf(gguf) => {
                let (data, file) = gguf.tensor(name, shape).map_err(|problem| problem.of(name))?;
                Ok(Found { data, file })
            }
            Self::Dummy { seed, dtype } => {
                let data = dummy::data(*seed, name, shape, *dtype).map_err(|problem| problem.of(name))?;
                Ok(Found { data, file: "random weights" })
            }
        }
    }
}

/// Random weights are in the numbers that the configuration names. One that is not there names none.
fn dummy_dtype(files: &ModelFiles, asked: Dtype) -> Result<Dtype, LoadError> {
    match (asked, ConfigFile::read(files)) {
        (Dtype::Auto, Ok(config)) => config.dtype(),
        (Dtype::Auto, Err(LoadError::MissingFile { .. })) => Ok(Dtype::Auto),
        (Dtype::Auto, Err(error)) => Err(error),
        (asked, _) => Ok(asked),
    }
}

fn in_safetensors<'a>(files: &'a SafeTensorsFiles, name: &str, shape: &[usize]) -> Result<Found<'a>, LoadError> {
    let tensor = files.tensor(name).map_err(|problem| problem.of(name))?;
    if let Some(data) = bitsandbytes::find(files, name, shape)? {
        return Ok(Found { data, file: tensor.file });
    }
    let plain = tensor.expect_dtype(&[FileDtype::F32, FileDtype::F16, FileDtype::BF16]);
    plain.and_then(|()| tensor.expect_shape(shape)).map_err(|problem| problem.of(name))?;
    let bytes = Cow::Borrowed(tensor.bytes);
    let data = match tensor.dtype {
        FileDtype::F16 => MatrixData::F16(bytes),
        FileDtype::BF16 => MatrixData::Bf16(bytes),
        _ => MatrixData::F32(bytes),
    };
    Ok(Found { data, file: tensor.file })
}

impl Found<'_> {
    fn check_finite(&self, name: &str) -> Result<(), LoadError> {
        match self.data.first_not_finite() {
            None => Ok(()),
            Some((part, index, value)) => {
                let problem = TensorProblem::NotFinite { file: self.file.to_owned(), index, value };
                Err(problem.of(&bitsandbytes::part(name, part)))
            }
        }
    }
}
