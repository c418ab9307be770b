//! What can be wrong with a GGUF file.

use crate::ggml::GgmlKind;

#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    #[error("it does not begin with `GGUF`: it is another file, or a damaged one")]
    Magic,
    #[error("its version is {0}, and 2 and 3 are read (little-endian): convert the model again")]
    Version(u32),
    #[error("{wanted} bytes are to follow at byte {at}, and {left} are left: it is truncated or damaged")]
    Truncated { at: usize, wanted: u64, left: u64 },
    #[error("it says that it has {count} {what}, and at most {limit} are read: it is damaged")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error("the text at byte {at} is not UTF-8: it is damaged")]
    NotText { at: usize },
    #[error("the value at byte {at} is of the unknown kind {id}: it is damaged")]
    ValueKind { at: usize, id: u32 },
    #[error("the list at byte {at} holds lists, which no model's does: it is damaged")]
    Nested { at: usize },
    #[error("`{0}` stands in it twice: it is damaged")]
    Twice(String),
    #[error("`general.alignment` is no power of two: it is damaged")]
    Alignment,
    #[error("the tensor `{tensor}` has no valid shape: it is damaged")]
    TensorShape { tensor: String },
    #[error("the tensor `{tensor}` is stored as {kind} ({id}), and these are read: F32, F16, BF16, {read}")]
    UnknownKind { tensor: String, kind: &'static str, id: u32, read: String },
    #[error("the tensor `{tensor}` has rows of {row} numbers, which are no whole blocks of {kind}: it is damaged")]
    Row { tensor: String, row: usize, kind: GgmlKind },
    #[error("the tensor `{tensor}` begins at {offset}, which is no multiple of {alignment}: it is damaged")]
    Offset { tensor: String, offset: u64, alignment: u64 },
    #[error("the tensor `{tensor}` reaches beyond the end: it is truncated or damaged, download it again")]
    Outside { tensor: String },
    #[error("the tensors `{first}` and `{second}` overlap: it is damaged, download it again")]
    Overlap { first: String, second: String },
    #[error("it is one of {count} parts: name the one that ends in `-00001-of-{count:05}.gguf`")]
    NotTheFirst { count: u64 },
}

impl GgufProblem {
    pub(super) fn unknown_kind(tensor: &str, id: u32) -> Self {
        let read = GgmlKind::all().iter().map(GgmlKind::to_string).collect::<Vec<_>>().join(", ");
        Self::UnknownKind { tensor: tensor.to_owned(), kind: kind_name(id), id, read }
    }
}

/// Kinds of ggml that are not read.
fn kind_name(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "an unknown kind",
    }
}
