//! Metadata of a GGUF file: numbers and texts at once, lists where they lie.

use std::ops::Range;

use super::GgufProblem;
use super::reader::Reader;

/// More than any vocabulary or list of merges.
const LIST_LIMIT: u64 = 2 << 20;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    List(List),
}

/// Elements that were found to lie within the file, and are decoded when they are asked for.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct List {
    kind: Kind,
    count: usize,
    bytes: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Value {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, GgufProblem> {
        let kind = Kind::read(reader)?;
        match kind {
            Kind::List => List::read(reader).map(Self::List),
            kind => kind.one(reader),
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Whole(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(number) => Some(*number),
            Self::Whole(number) => Some(*number as f64),
            _ => None,
        }
    }

    pub(super) fn as_flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&List> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

impl List {
    fn read(reader: &mut Reader<'_>) -> Result<Self, GgufProblem> {
        let kind = Kind::read(reader)?;
        if kind == Kind::List {
            return Err(GgufProblem::Nested { at: reader.at() });
        }
        let count = reader.count("elements of a list", kind.least(), LIST_LIMIT)?;
        let start = reader.at();
        if kind == Kind::Text {
            for _ in 0..count {
                reader.text()?;
            }
        } else {
            reader.take(count as u64 * kind.least())?;
        }
        Ok(Self { kind, count, bytes: start..reader.at() })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// `file` is the one that it was read from.
    pub(super) fn elements(&self, file: &[u8]) -> Result<Vec<Value>, GgufProblem> {
        let mut reader = Reader::new(&file[self.bytes.clone()]);
        (0..self.count).map(|_| self.kind.one(&mut reader)).collect()
    }
}

impl Kind {
    fn read(reader: &mut Reader<'_>) -> Result<Self, GgufProblem> {
        const KINDS: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Flag,
            Kind::Text,
            Kind::List,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        let at = reader.at();
        let id = reader.u32()?;
        KINDS.get(id as usize).copied().ok_or(GgufProblem::ValueKind { at, id })
    }

    /// Bytes that one takes, of a text those of its length.
    fn least(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text | Self::List => 8,
        }
    }

    fn one(self, reader: &mut Reader<'_>) -> Result<Value, GgufProblem> {
        let at = reader.at();
        Ok(match self {
            Self::U8 => Value::Whole(u8::from_le_bytes(reader.array()?).into()),
            Self::I8 => Value::Whole(i8::from_le_bytes(reader.array()?).into()),
            Self::U16 => Value::Whole(u16::from_le_bytes(reader.array()?).into()),
            Self::I16 => Value::Whole(i16::from_le_bytes(reader.array()?).into()),
            Self::U32 => Value::Whole(u32::from_le_bytes(reader.array()?).into()),
            Self::I32 => Value::Whole(i32::from_le_bytes(reader.array()?).into()),
            Self::U64 => Value::Whole(u64::from_le_bytes(reader.array()?).into()),
            Self::I64 => Value::Whole(i64::from_le_bytes(reader.array()?).into()),
            Self::F32 => Value::Float(f32::from_le_bytes(reader.array()?).into()),
            Self::F64 => Value::Float(f64::from_le_bytes(reader.array()?)),
            Self::Flag => Value::Flag(reader.array::<1>()? != [0]),
            Self::Text => Value::Text(reader.text()?.to_owned()),
            Self::List => return Err(GgufProblem::Nested { at }),
        })
    }
}
