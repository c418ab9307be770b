//! The blocks of a GGUF file, as ggml lays them out, one output's weights each.

use super::super::activations::GROUP;
use super::super::floats::{F16, Number};
use super::blocks::{Block, Centered, CenteredSuper, Lifted, LoweredSuper};
use super::codes::{Codes, Eight, Five, Four, Six, Three, Two};

/// A type of block.
pub(crate) trait Format: 'static {
    type Block: Block;

    /// What a block takes in the file.
    const BYTES: usize;

    /// Puts one output's block, of [`Self::BYTES`] bytes, among those of the other outputs.
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block);
}

pub(crate) struct Q4_0;
pub(crate) struct Q4_1;
pub(crate) struct Q5_0;
pub(crate) struct Q5_1;
pub(crate) struct Q8_0;
pub(crate) struct Q2K;
pub(crate) struct Q3K;
pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;

impl Format for Q4_0 {
    type Block = Centered<Four>;
    const BYTES: usize = 18;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        block.scale[lane] = F16::read(bytes);
        block.codes.put(lane, &nibbles(&bytes[2..]));
    }
}

impl Format for Q4_1 {
    type Block = Lifted<Four>;
    const BYTES: usize = 20;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        block.scale[lane] = F16::read(bytes);
        block.offset[lane] = F16::read(&bytes[2..]);
        block.codes.put(lane, &nibbles(&bytes[4..]));
    }
}

impl Format for Q5_0 {
    type Block = Centered<Five>;
    const BYTES: usize = 22;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        block.scale[lane] = F16::read(bytes);
        block.codes.put(lane, &fifth_bits(&bytes[2..], nibbles(&bytes[6..])));
    }
}

impl Format for Q5_1 {
    type Block = Lifted<Five>;
    const BYTES: usize = 24;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        block.scale[lane] = F16::read(bytes);
        block.offset[lane] = F16::read(&bytes[2..]);
        block.codes.put(lane, &fifth_bits(&bytes[4..], nibbles(&bytes[8..])));
    }
}

impl Format for Q8_0 {
    type Block = Centered<Eight>;
    const BYTES: usize = 34;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        block.scale[lane] = F16::read(bytes);
        let mut codes = [0; GROUP];
        for (code, byte) in codes.iter_mut().zip(&bytes[2..]) {
            *code = byte.wrapping_add(128);
        }
        block.codes.put(lane, &codes);
    }
}

impl Format for Q2K {
    type Block = LoweredSuper<Two, 16>;
    const BYTES: usize = 84;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        let (scales, rest) = bytes.split_at(16);
        let (codes, halves) = rest.split_at(64);
        block.scale[lane] = F16::read(halves);
        block.minimum[lane] = F16::read(&halves[2..]);
        for (index, byte) in scales.iter().enumerate() {
            block.scales[index][lane] = byte & 15;
            block.minima[index][lane] = byte >> 4;
        }
        for (group, plane) in block.codes.iter_mut().enumerate() {
            plane.put(lane, &pairs(codes, group));
        }
    }
}

impl Format for Q3K {
    type Block = CenteredSuper<Three>;
    const BYTES: usize = 110;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        let (high, rest) = bytes.split_at(32);
        let (low, rest) = rest.split_at(64);
        let (scales, scale) = rest.split_at(12);
        block.scale[lane] = F16::read(scale);
        for (index, six) in block.scales.iter_mut().enumerate() {
            let low = scales[index % 8] >> (index / 8 * 4) & 15;
            let high = scales[8 + index % 4] >> (index / 4 * 2) & 3;
            six[lane] = (low | high << 4) as i8 - 32;
        }
        for (group, plane) in block.codes.iter_mut().enumerate() {
            let mut codes = pairs(low, group);
            for (code, high) in codes.iter_mut().zip(high) {
                *code |= (high >> group & 1) << 2;
            }
            plane.put(lane, &codes);
        }
    }
}

impl Format for Q4K {
    type Block = LoweredSuper<Four, 8>;
    const BYTES: usize = 144;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        let (head, codes) = bytes.split_at(16);
        put_head(head, lane, block);
        for (group, plane) in block.codes.iter_mut().enumerate() {
            plane.put(lane, &nibbles_of_pair(codes, group));
        }
    }
}

impl Format for Q5K {
    type Block = LoweredSuper<Five, 8>;
    const BYTES: usize = 176;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        let (head, rest) = bytes.split_at(16);
        let (high, low) = rest.split_at(32);
        put_head(head, lane, block);
        for (group, plane) in block.codes.iter_mut().enumerate() {
            let mut codes = nibbles_of_pair(low, group);
            for (code, high) in codes.iter_mut().zip(high) {
                *code |= (high >> group & 1) << 4;
            }
            plane.put(lane, &codes);
        }
    }
}

impl Format for Q6K {
    type Block = CenteredSuper<Six>;
    const BYTES: usize = 210;

    #[inline(always)]
    fn put(bytes: &[u8], lane: usize, block: &mut Self::Block) {
        let (low, rest) = bytes.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, scale) = rest.split_at(16);
        block.scale[lane] = F16::read(scale);
        for (scales, byte) in block.scales.iter_mut().zip(scales) {
            scales[lane] = *byte as i8;
        }
        for (group, plane) in block.codes.iter_mut().enumerate() {
            // Four groups share 64 bytes of low and 32 of high bits.
            let (four, group) = (group / 4, group % 4);
            let low = &low[four * 64 + group % 2 * 32..][..GROUP];
            let mut codes = pairs(high, four * 4 + group);
            for (code, low) in codes.iter_mut().zip(low) {
                *code = *code << 4 | low >> (group / 2 * 4) & 15;
            }
            plane.put(lane, &codes);
        }
    }
}

/// Inputs 0 to 15 in the low halves of 16 bytes, 16 to 31 in the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    let (low, high) = codes.split_at_mut(GROUP / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// One bit more for each, from four bytes.
#[inline(always)]
fn fifth_bits(bytes: &[u8], mut codes: [u8; GROUP]) -> [u8; GROUP] {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (index, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> index & 1) as u8) << 4;
    }
    codes
}

/// Two groups share 32 bytes: the even one the low halves, the odd one the high ones.
#[inline(always)]
fn nibbles_of_pair(bytes: &[u8], group: usize) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&bytes[group / 2 * GROUP..]) {
        *code = byte >> (group % 2 * 4) & 15;
    }
    codes
}

/// Four groups share 32 bytes: two bits each.
#[inline(always)]
fn pairs(bytes: &[u8], group: usize) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for (code, byte) in codes.iter_mut().zip(&bytes[group / 4 * GROUP..]) {
        *code = byte >> (group % 4 * 2) & 3;
    }
    codes
}

/// What Q4_K and Q5_K open with: scale, minimum, and six bits for each group's share of either.
#[inline(always)]
fn put_head<C: Codes>(bytes: &[u8], lane: usize, block: &mut LoweredSuper<C, 8>) {
    block.scale[lane] = F16::read(bytes);
    block.minimum[lane] = F16::read(&bytes[2..]);
    let bytes = &bytes[4..16];
    for group in 0..8 {
        let (scale, minimum) = if group < 4 {
            (bytes[group] & 63, bytes[group + 4] & 63)
        } else {
            let (low, scale, minimum) = (bytes[group + 4], bytes[group - 4] >> 6, bytes[group] >> 6);
            (low & 15 | scale << 4, low >> 4 | minimum << 4)
        };
        block.scales[group][lane] = scale;
        block.minima[group][lane] = minimum;
    }
}
