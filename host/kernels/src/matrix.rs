//! Weights as kernels read them.

use crate::Address;

/// y = x · Wᵀ of `outputs` rows of `inputs` weights.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Matrix {
    pub form: WeightForm,
    pub outputs: u32,
    pub inputs: u32,
    pub weights: Address,
    /// Of `Int8` and `Nf4`.
    pub scales: Address,
    /// A factor on every weight, beside its scale.
    pub unit: f32,
}

/// Where weight `[n][k]` is, and how many bits it has. A tile is 16 outputs by 64 inputs; tiles of the same outputs
/// follow each other. Within a tile, lane `4 g + t` of a warp has the rows `g` and `g + 8`, and of each the inputs
/// `8 t ..` and `32 + 8 t ..`, eight of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightForm {
    /// Row-major, bf16.
    Bf16,
    /// 1,024 bytes a tile: for each half of the inputs and each lane four inputs of row `g`, four more, and the same of
    /// row `g + 8`. Scales: f32, one per output.
    Int8,
    /// 512 bytes a tile: for each lane the four bytes of (row `g`, first half), (`g + 8`, first), (`g`, second),
    /// (`g + 8`, second), two weights a byte, the first in its high bits. Scales: f16, 16 a tile, of the rows 0, 8, 1, 9,
    /// …; a weight is `TABLE[code] · scale · unit`.
    Nf4,
}

/// Outputs and inputs of a tile. Every matrix has whole tiles.
pub const TILE: (u32, u32) = (16, 64);

impl WeightForm {
    /// What a matrix takes: its weights, and its scales.
    pub fn bytes(self, outputs: u64, inputs: u64) -> (u64, u64) {
        let count = outputs.saturating_mul(inputs);
        match self {
            Self::Bf16 => (count.saturating_mul(2), 0),
            Self::Int8 => (count, outputs.saturating_mul(4)),
            Self::Nf4 => (count / 2, count / 32),
        }
    }
}
