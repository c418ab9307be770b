//! How a checkpoint is to be loaded: from where, in which numbers, quantised or not.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LoadOptions {
    pub format: LoadFormat,
    pub dtype: Dtype,
    pub quantization: Quantization,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LoadFormat {
    /// The checkpoint beside the configuration, or the GGUF file that is both.
    #[default]
    Auto,
    /// Random weights in the configuration's shapes: for measuring and testing without files.
    Dummy { seed: u64 },
}

/// The numbers that matrices are held in. Those that a checkpoint holds quantised stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Dtype {
    /// As the checkpoint has them.
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

/// What is done to linear layers while they load. Embeddings and heads are left alone, as bitsandbytes does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Quantization {
    #[default]
    None,
    /// One scale per output and eight bits a weight, as LLM.int8.
    Int8,
    /// NormalFloat of four bits, a scale per 64 weights, the scales quantised to eight bits.
    Nf4,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    #[error("`{0}` is no dtype: choose from auto, float32 (float), float16 (half), bfloat16")]
    Dtype(String),
    #[error("`{0}` is no quantization that can be made at load: choose from none, int8, nf4")]
    Quantization(String),
}

impl FromStr for Dtype {
    type Err = OptionError;

    /// The names of vLLM's `--dtype`.
    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "auto" => Ok(Self::Auto),
            "float32" | "float" => Ok(Self::F32),
            "float16" | "half" => Ok(Self::F16),
            "bfloat16" => Ok(Self::Bf16),
            _ => Err(OptionError::Dtype(text.to_owned())),
        }
    }
}

impl FromStr for Quantization {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "none" => Ok(Self::None),
            "int8" => Ok(Self::Int8),
            "nf4" => Ok(Self::Nf4),
            _ => Err(OptionError::Quantization(text.to_owned())),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        })
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_vllm() {
        for dtype in [Dtype::Auto, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        for quantization in [Quantization::None, Quantization::Int8, Quantization::Nf4] {
            assert_eq!(quantization.to_string().parse(), Ok(quantization));
        }
        assert_eq!(("half".parse(), "float".parse()), (Ok(Dtype::F16), Ok(Dtype::F32)));
    }

    #[test]
    fn other_names_are_told_what_there_is() {
        let error = "fp8".parse::<Quantization>().unwrap_err().to_string();
        assert!(error.contains("`fp8`") && error.contains("nf4"), "{error}");
        let error = "int4".parse::<Dtype>().unwrap_err().to_string();
        assert!(error.contains("`int4`") && error.contains("bfloat16"), "{error}");
    }
}
