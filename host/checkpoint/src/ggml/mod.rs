//! The quantised forms of GGML, by the names that llama.cpp's files use: blocks of numbers with their own scales.
//!
//! The layouts are those of `ggml-common.h`, the formulas those of `ggml-quants.c` in ggml.

mod blocks;
mod superblocks;

use std::borrow::Cow;
use std::fmt;

use half::f16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgmlKind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Raw blocks, row by row: a row is a whole number of blocks.
#[derive(Clone, Debug)]
pub struct GgmlBlocks<'a> {
    pub kind: GgmlKind,
    pub blocks: Cow<'a, [u8]>,
}

/// How a kind is laid out.
struct Layout {
    name: &'static str,
    /// The number by which a file names it.
    id: u32,
    /// Numbers in a block.
    numbers: usize,
    bytes: usize,
    /// Where a block's scales in F16 lie.
    scales: &'static [usize],
    /// Of a block's bytes, all its numbers.
    dequantize: fn(&[u8], &mut [f32]),
}

const ALL: [GgmlKind; 10] = [
    GgmlKind::Q4_0,
    GgmlKind::Q4_1,
    GgmlKind::Q5_0,
    GgmlKind::Q5_1,
    GgmlKind::Q8_0,
    GgmlKind::Q2K,
    GgmlKind::Q3K,
    GgmlKind::Q4K,
    GgmlKind::Q5K,
    GgmlKind::Q6K,
];

impl GgmlKind {
    pub fn all() -> &'static [Self] {
        &ALL
    }

    /// By the number that stands in a file.
    pub(crate) fn of_id(id: u32) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.layout().id == id)
    }

    /// Numbers in a block.
    pub fn block_numbers(self) -> usize {
        self.layout().numbers
    }

    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// What so many numbers take, in whole blocks.
    pub(crate) fn bytes(self, count: u64) -> u64 {
        count.div_ceil(self.block_numbers() as u64) * self.block_bytes() as u64
    }

    fn layout(self) -> Layout {
        let layout =
            |name, id, numbers, bytes, scales, dequantize| Layout { name, id, numbers, bytes, scales, dequantize };
        match self {
            Self::Q4_0 => layout("Q4_0", 2, 32, 18, &[0], blocks::q4_0),
            Self::Q4_1 => layout("Q4_1", 3, 32, 20, &[0, 2], blocks::q4_1),
            Self::Q5_0 => layout("Q5_0", 6, 32, 22, &[0], blocks::q5_0),
            Self::Q5_1 => layout("Q5_1", 7, 32, 24, &[0, 2], blocks::q5_1),
            Self::Q8_0 => layout("Q8_0", 8, 32, 34, &[0], blocks::q8_0),
            Self::Q2K => layout("Q2_K", 10, 256, 84, &[80, 82], superblocks::q2_k),
            Self::Q3K => layout("Q3_K", 11, 256, 110, &[108], superblocks::q3_k),
            Self::Q4K => layout("Q4_K", 12, 256, 144, &[0, 2], superblocks::q4_k),
            Self::Q5K => layout("Q5_K", 13, 256, 176, &[0, 2], superblocks::q5_k),
            Self::Q6K => layout("Q6_K", 14, 256, 210, &[208], superblocks::q6_k),
        }
    }
}

impl GgmlBlocks<'_> {
    /// From the number at `start` on, which is the first of a block; whole blocks.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) {
        let layout = self.kind.layout();
        let blocks = &self.blocks[start / layout.numbers * layout.bytes..];
        for (out, block) in out.chunks_mut(layout.numbers).zip(blocks.chunks_exact(layout.bytes)) {
            (layout.dequantize)(block, out);
        }
    }

    /// The first number of a block whose scale is infinite or none, and that scale.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f32)> {
        let layout = self.kind.layout();
        for (index, block) in self.blocks.chunks_exact(layout.bytes).enumerate() {
            for at in layout.scales {
                let scale = scale(block, *at);
                if !scale.is_finite() {
                    return Some((index * layout.numbers, scale));
                }
            }
        }
        None
    }
}

impl fmt::Display for GgmlKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.layout().name)
    }
}

fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;
    use crate::{MatrixData, StoredMatrix};

    fn candle(kind: GgmlKind) -> GgmlDType {
        match kind {
            GgmlKind::Q4_0 => GgmlDType::Q4_0,
            GgmlKind::Q4_1 => GgmlDType::Q4_1,
            GgmlKind::Q5_0 => GgmlDType::Q5_0,
            GgmlKind::Q5_1 => GgmlDType::Q5_1,
            GgmlKind::Q8_0 => GgmlDType::Q8_0,
            GgmlKind::Q2K => GgmlDType::Q2K,
            GgmlKind::Q3K => GgmlDType::Q3K,
            GgmlKind::Q4K => GgmlDType::Q4K,
            GgmlKind::Q5K => GgmlDType::Q5K,
            GgmlKind::Q6K => GgmlDType::Q6K,
        }
    }

    fn theirs(tensor: &QTensor) -> Vec<f32> {
        tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn ours(kind: GgmlKind, bytes: &[u8], outputs: usize, inputs: usize) -> Vec<f32> {
        let data = MatrixData::Ggml(GgmlBlocks { kind, blocks: Cow::Borrowed(bytes) });
        StoredMatrix { outputs, inputs, data }.to_f32()
    }

    fn check(kind: GgmlKind, bytes: &[u8], outputs: usize, inputs: usize) {
        let tensor = qtensor_from_ggml(candle(kind), bytes, vec![outputs, inputs], &Device::Cpu).unwrap();
        let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(ours(kind, bytes, outputs, inputs)), bits(theirs(&tensor)), "{kind}");
    }

    /// Whatever bits a block holds, so long as its scales are finite.
    #[test]
    fn all_blocks_are_what_candle_makes_of_them() {
        let bytes = proptest::collection::vec(any::<u8>(), 6 * 210 + 1);
        proptest!(ProptestConfig::with_cases(64), |(bytes in bytes)| {
            for kind in ALL {
                let layout = kind.layout();
                let mut bytes = bytes[..6 * layout.bytes].to_vec();
                for block in bytes.chunks_exact_mut(layout.bytes) {
                    layout.scales.iter().for_each(|at| block[at + 1] &= 0xbb);
                }
                check(kind, &bytes, 3, 2 * layout.numbers);
            }
        });
    }

    #[test]
    fn what_candle_quantised_is_read_back() {
        let values = crate::dummy::tensor(3, "values", &[9, 512]);
        let tensor = Tensor::from_slice(&values, (9, 512), &Device::Cpu).unwrap();
        for kind in ALL {
            let tensor = QTensor::quantize(&tensor, candle(kind)).unwrap();
            let bytes = tensor.data().unwrap().to_vec();
            assert_eq!(bytes.len() as u64, kind.bytes(9 * 512));
            check(kind, &bytes, 9, 512);
            let error = ours(kind, &bytes, 9, 512).iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 0.05, "{kind} is {error} off");
        }
    }
}
