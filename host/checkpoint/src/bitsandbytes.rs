//! Matrices that bitsandbytes quantised and transformers saved: NF4 with its quantisation state, and INT8 with `SCB`.
//!
//! The names and layouts are those of `QuantState.as_dict(packed=True)` and `Linear8bitLt` in bitsandbytes.

use std::borrow::Cow;

use bytemuck::AnyBitPattern;
use safetensors::Dtype;
use serde_json::Value;

use crate::error::TensorProblem;
use crate::int8::Int8Rows;
use crate::nf4::{self, Absmax, NestedAbsmax, Nf4Blocks};
use crate::safetensors_file::{SafeTensorsFiles, Tensor};
use crate::{LoadError, MatrixData};

const NF4_STATE: &str = ".quant_state.bitsandbytes__nf4";
const FP4_STATE: &str = ".quant_state.bitsandbytes__fp4";

/// What lies beside a matrix `x.weight` as `x.weight.absmax` and so on.
const NF4_PARTS: [&str; 5] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", NF4_STATE];

/// The rows' largest absolute values.
pub(crate) const SCB: &str = ".SCB";

/// What lies beside it as `x.SCB` and so on.
const INT8_PARTS: [&str; 2] = [SCB, ".weight_format"];

const WEIGHT: &str = ".weight";

/// A state is a few hundred bytes.
const STATE_LIMIT: usize = 1 << 16;

/// The matrix that a tensor is a part of, if it can be one.
pub(crate) fn whole(part: &str) -> Option<String> {
    let nf4 = NF4_PARTS.iter().find_map(|ending| part.strip_suffix(ending)).map(str::to_owned);
    nf4.or_else(|| INT8_PARTS.iter().find_map(|ending| part.strip_suffix(ending)).map(|stem| format!("{stem}{WEIGHT}")))
}

/// The tensor that holds a part of a matrix: the matrix itself where `part` is empty.
pub(crate) fn part(whole: &str, part: &str) -> String {
    let stem = if part == SCB { whole.strip_suffix(WEIGHT).unwrap_or(whole) } else { whole };
    format!("{stem}{part}")
}

/// The matrix `name`, if bitsandbytes quantised it. Everything is checked but that the numbers are finite.
pub(crate) fn find<'a>(
    files: &'a SafeTensorsFiles,
    name: &str,
    shape: &[usize],
) -> Result<Option<MatrixData<'a>>, LoadError> {
    let Some(tensor) = files.find(name) else { return Ok(None) };
    if let Some(state) = files.find(&format!("{name}{NF4_STATE}")) {
        return Matrix { files, name, tensor, shape }.nf4(state).map(|blocks| Some(MatrixData::Nf4(blocks)));
    }
    if let Some(state) = files.find(&format!("{name}{FP4_STATE}")) {
        return Err(state_problem(state, "is quantised to FP4, and of bitsandbytes NF4 and INT8 are read").of(name));
    }
    match name.strip_suffix(WEIGHT) {
        Some(stem) if tensor.dtype == Dtype::I8 => {
            Matrix { files, name, tensor, shape }.int8(stem).map(|rows| Some(MatrixData::Int8(rows)))
        }
        _ => Ok(None),
    }
}

/// A quantised tensor, what the configuration expects of it, and where its parts are.
struct Matrix<'a, 'n> {
    files: &'a SafeTensorsFiles,
    name: &'n str,
    tensor: Tensor<'a>,
    shape: &'n [usize],
}

impl<'a> Matrix<'a, '_> {
    fn int8(&self, stem: &str) -> Result<Int8Rows<'a>, LoadError> {
        self.tensor.expect_shape(self.shape).map_err(|problem| problem.of(self.name))?;
        let absmax = self.part(format!("{stem}{SCB}"), Dtype::F32, &self.shape[..1])?;
        let format = format!("{stem}.weight_format");
        if let Some(tensor) = self.files.find(&format)
            && tensor.bytes.iter().any(|byte| *byte != 0)
        {
            return Err(state_problem(tensor, "says that the weight is not stored row by row").of(&format));
        }
        Ok(Int8Rows { codes: numbers(self.tensor.bytes), absmax: numbers(absmax.bytes) })
    }

    fn nf4(&self, state: Tensor<'a>) -> Result<Nf4Blocks<'a>, LoadError> {
        let state_name = format!("{}{NF4_STATE}", self.name);
        let state = State::read(state, self.shape).map_err(|problem| state_problem(state, problem).of(&state_name))?;
        let count: usize = self.shape.iter().product();
        let blocks = count.div_ceil(nf4::BLOCK);
        let expected = self.tensor.expect_dtype(&[Dtype::U8]);
        let expected = expected.and_then(|()| self.tensor.expect_shape(&[count.div_ceil(2), 1]));
        expected.map_err(|problem| problem.of(self.name))?;
        let mut table = [0.0; 16];
        table.copy_from_slice(&numbers(self.sibling(".quant_map", Dtype::F32, 16)?.bytes));
        let absmax = match state.nested_offset {
            None => Absmax::Plain(numbers(self.sibling(".absmax", Dtype::F32, blocks)?.bytes)),
            Some(offset) => {
                let mut map = Box::new([0.0; 256]);
                map.copy_from_slice(&numbers(self.sibling(".nested_quant_map", Dtype::F32, 256)?.bytes));
                let outer = self.sibling(".nested_absmax", Dtype::F32, blocks.div_ceil(nf4::NESTED_BLOCK))?;
                let codes = Cow::Borrowed(self.sibling(".absmax", Dtype::U8, blocks)?.bytes);
                Absmax::Nested(NestedAbsmax { codes, map, absmax: numbers(outer.bytes), offset })
            }
        };
        Ok(Nf4Blocks { codes: Cow::Borrowed(self.tensor.bytes), absmax, table })
    }

    fn sibling(&self, ending: &str, dtype: Dtype, length: usize) -> Result<Tensor<'a>, LoadError> {
        self.part(format!("{}{ending}", self.name), dtype, &[length])
    }

    fn part(&self, name: String, dtype: Dtype, shape: &[usize]) -> Result<Tensor<'a>, LoadError> {
        let tensor = self.files.tensor(&name);
        let checked = tensor.and_then(|tensor| {
            tensor.expect_dtype(&[dtype])?;
            tensor.expect_shape(shape)?;
            Ok(tensor)
        });
        checked.map_err(|problem| problem.of(&name))
    }
}

/// What the JSON beside a matrix says.
struct State {
    /// None where the scales are not quantised.
    nested_offset: Option<f32>,
}

impl State {
    /// Whatever it says that is not served is refused.
    fn read(tensor: Tensor<'_>, shape: &[usize]) -> Result<Self, String> {
        if tensor.dtype != Dtype::U8 || tensor.bytes.len() > STATE_LIMIT {
            return Err("is no quantisation state".to_owned());
        }
        let json: Value =
            serde_json::from_slice(tensor.bytes).map_err(|error| format!("is not valid JSON ({error})"))?;
        let expect = |key: &str, expected: Value| match json.get(key) {
            Some(found) if *found == expected => Ok(()),
            Some(found) => Err(format!("has {key} {found}, expected {expected}")),
            None => Err(format!("has no {key}")),
        };
        expect("quant_type", "nf4".into())?;
        expect("blocksize", nf4::BLOCK.into())?;
        expect("shape", shape.into())?;
        if json.get("nested_offset").is_none_or(Value::is_null) {
            return Ok(Self { nested_offset: None });
        }
        expect("nested_blocksize", nf4::NESTED_BLOCK.into())?;
        expect("nested_dtype", "float32".into())?;
        let offset = json["nested_offset"].as_f64().map(|offset| offset as f32).filter(|offset| offset.is_finite());
        offset.map(|offset| Self { nested_offset: Some(offset) }).ok_or_else(|| "has no nested_offset".to_owned())
    }
}

fn state_problem(tensor: Tensor<'_>, problem: impl Into<String>) -> TensorProblem {
    TensorProblem::QuantState { file: tensor.file.to_owned(), problem: problem.into() }
}

const _: () =
    assert!(cfg!(target_endian = "little"), "scales are used as they lie in the file, which is little-endian");

/// Numbers where they lie, or copied where they do not lie so that a processor can read them there.
fn numbers<T: AnyBitPattern>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
    }
}
