//! GGUF, llama.cpp's format of one file: configuration, tokenizer and weights, read without trust.
//!
//! Versions 2 and 3 of the layout in ggml's `docs/gguf.md`. Nothing is allocated before a length was compared with
//! what the file holds.

mod config;
mod names;
mod problem;
mod reader;
mod tokenizer;
mod value;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

pub(crate) use config::config;
pub use problem::GgufProblem;
use reader::Reader;
pub use tokenizer::GgufTokenizer;
use value::Value;

use crate::error::{Shape, TensorProblem};
use crate::files::FileBytes;
use crate::ggml::{GgmlBlocks, GgmlKind};
use crate::matrix::{Form, MatrixData};
use crate::{LoadError, ModelFiles};

const MAGIC: [u8; 4] = *b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const DIMENSIONS: u32 = 4;

/// Far more than any model's; a larger count is a damaged one.
const ENTRIES: u64 = 1 << 16;

/// At least a name's length, a kind and a byte.
const LEAST_ENTRY: u64 = 8 + 4 + 1;

/// At least a name's length, a number of dimensions, one of them, a kind and an offset.
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// One file, or the parts of a split one.
pub(crate) struct Gguf {
    parts: Vec<Part>,
}

struct Part {
    file: String,
    bytes: FileBytes,
    header: Header,
}

/// All that stands before the tensors' numbers.
struct Header {
    values: HashMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// Its bytes lie within the file, beside those of all others, and are as many as its shape takes.
struct Tensor {
    /// Outermost first: the file has it the other way round.
    shape: Vec<usize>,
    form: Form,
    bytes: Range<usize>,
}

impl Gguf {
    /// All parts of a file that is split, which is named by its first.
    pub(crate) fn open(files: &ModelFiles, path: &Path) -> Result<Self, LoadError> {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut parts = vec![Part::open(files, &file)?];
        let count = parts[0].header.values.get("split.count").and_then(Value::as_u64).unwrap_or(1);
        if count > 1 {
            let wrong = |problem| LoadError::Gguf { file: file.clone(), problem: Box::new(problem) };
            let stem = file.strip_suffix(&format!("-00001-of-{count:05}.gguf"));
            let stem = stem.ok_or_else(|| wrong(GgufProblem::NotTheFirst { count }))?;
            for part in 2..=count.min(ENTRIES) {
                parts.push(Part::open(files, &format!("{stem}-{part:05}-of-{count:05}.gguf"))?);
            }
        }
        Ok(Self { parts })
    }

    /// Of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().flat_map(|part| part.header.tensors.values()).map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// Of all tensors, as Hugging Face calls them where they are known.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let names = self.parts.iter().flat_map(|part| part.header.tensors.keys());
        names.map(|name| names::hugging_face(name).unwrap_or_else(|| name.clone()))
    }

    /// A tensor by Hugging Face's name for it, and the file that it is in.
    pub(crate) fn tensor(&self, name: &str, expected: &[usize]) -> Result<(MatrixData<'_>, &str), TensorProblem> {
        let missing = || TensorProblem::Missing { file: self.file().to_owned() };
        let (part, tensor) = self.find(name).ok_or_else(missing)?;
        if tensor.shape != expected {
            let (expected, found) = (Shape(expected.to_vec()), Shape(tensor.shape.clone()));
            return Err(TensorProblem::Shape { file: part.file.clone(), expected, found });
        }
        Ok((tensor.data(&part.bytes), &part.file))
    }

    /// Begins to read a tensor from the disk.
    pub(crate) fn will_need(&self, name: &str) {
        if let Some((part, tensor)) = self.find(name) {
            part.bytes.will_need(tensor.bytes.clone());
        }
    }

    fn find(&self, name: &str) -> Option<(&Part, &Tensor)> {
        let name = names::gguf(name)?;
        self.parts.iter().find_map(|part| Some((part, part.header.tensors.get(&name)?)))
    }

    fn holds(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.header.tensors.contains_key(name))
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }

    fn file(&self) -> &str {
        &self.first().file
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.first().header.values.get(key)
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> LoadError {
        LoadError::ConfigKey { file: self.file().to_owned(), key: key.to_owned(), problem: problem.into() }
    }
}

impl Part {
    fn open(files: &ModelFiles, file: &str) -> Result<Self, LoadError> {
        let bytes = files.open(file)?;
        let wrong = |problem| LoadError::Gguf { file: file.to_owned(), problem: Box::new(problem) };
        let header = Header::read(&bytes).map_err(wrong)?;
        Ok(Self { file: file.to_owned(), bytes, header })
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, GgufProblem> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(GgufProblem::Magic);
        }
        match reader.u32()? {
            2 | 3 => {}
            version => return Err(GgufProblem::Version(version)),
        }
        let tensors = reader.count("tensors", LEAST_TENSOR, ENTRIES)?;
        let entries = reader.count("entries of metadata", LEAST_ENTRY, ENTRIES)?;
        let mut values = HashMap::with_capacity(entries);
        for _ in 0..entries {
            let key = reader.text()?.to_owned();
            let value = Value::read(&mut reader)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(GgufProblem::Twice(key));
            }
        }
        let alignment = alignment(values.get(ALIGNMENT))?;
        let tensors = read_tensors(&mut reader, tensors, alignment, bytes.len())?;
        Ok(Self { values, tensors })
    }
}

impl Tensor {
    fn data<'a>(&self, file: &'a [u8]) -> MatrixData<'a> {
        let bytes = Cow::Borrowed(&file[self.bytes.clone()]);
        match self.form {
            Form::F16 => MatrixData::F16(bytes),
            Form::Bf16 => MatrixData::Bf16(bytes),
            Form::Ggml(kind) => MatrixData::Ggml(GgmlBlocks { kind, blocks: bytes }),
            // The last that a file can name: see `form`.
            Form::F32 | Form::Int8 | Form::Nf4 { .. } => MatrixData::F32(bytes),
        }
    }
}

fn alignment(value: Option<&Value>) -> Result<u64, GgufProblem> {
    let Some(value) = value else { return Ok(DEFAULT_ALIGNMENT) };
    let whole = value.as_u64().filter(|alignment| alignment.is_power_of_two() && *alignment <= 1 << 20);
    whole.ok_or(GgufProblem::Alignment)
}

fn read_tensors(
    reader: &mut Reader<'_>,
    count: usize,
    alignment: u64,
    length: usize,
) -> Result<BTreeMap<String, Tensor>, GgufProblem> {
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let name = reader.text()?.to_owned();
        let tensor = read_tensor(reader, &name, alignment)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(GgufProblem::Twice(name));
        }
    }
    let start = (reader.at() as u64).next_multiple_of(alignment);
    let mut places = Vec::with_capacity(tensors.len());
    for (name, tensor) in &mut tensors {
        let place = |offset: usize| usize::try_from(start).ok()?.checked_add(offset);
        let (from, to) = (place(tensor.bytes.start), place(tensor.bytes.end));
        let outside = || GgufProblem::Outside { tensor: name.clone() };
        let to = to.filter(|to| *to <= length).ok_or_else(outside)?;
        tensor.bytes = from.ok_or_else(outside)?..to;
        places.push((tensor.bytes.start, tensor.bytes.end, name));
    }
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(GgufProblem::Overlap { first: pair[0].2.clone(), second: pair[1].2.clone() }),
        None => Ok(tensors),
    }
}

/// With offsets from where tensors begin.
fn read_tensor(reader: &mut Reader<'_>, name: &str, alignment: u64) -> Result<Tensor, GgufProblem> {
    let shape_problem = || GgufProblem::TensorShape { tensor: name.to_owned() };
    let dimensions = reader.u32()?;
    if !(1..=DIMENSIONS).contains(&dimensions) {
        return Err(shape_problem());
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let size = usize::try_from(reader.u64()?).ok().filter(|size| *size > 0);
        shape.push(size.ok_or_else(shape_problem)?);
    }
    let (row, id) = (shape[0], reader.u32()?);
    shape.reverse();
    let form = form(id).ok_or_else(|| GgufProblem::unknown_kind(name, id))?;
    if let Form::Ggml(kind) = form
        && !row.is_multiple_of(kind.block_numbers())
    {
        return Err(GgufProblem::Row { tensor: name.to_owned(), row, kind });
    }
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    // Five bytes a number is more than any kind takes: nothing below overflows.
    let count = count.filter(|count| count.checked_mul(5).is_some()).ok_or_else(shape_problem)?;
    let offset = reader.u64()?;
    if !offset.is_multiple_of(alignment) {
        return Err(GgufProblem::Offset { tensor: name.to_owned(), offset, alignment });
    }
    let outside = || GgufProblem::Outside { tensor: name.to_owned() };
    let start = usize::try_from(offset).map_err(|_| outside())?;
    let length = usize::try_from(form.bytes(1, count)).map_err(|_| outside())?;
    let end = start.checked_add(length).ok_or_else(outside)?;
    Ok(Tensor { shape, form, bytes: start..end })
}

fn form(id: u32) -> Option<Form> {
    match id {
        0 => Some(Form::F32),
        1 => Some(Form::F16),
        30 => Some(Form::Bf16),
        id => GgmlKind::of_id(id).map(Form::Ggml),
    }
}
