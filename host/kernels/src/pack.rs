//! Puts weights into the order of the kernels, once, while they are loaded.

use half::f16;
use rayon::prelude::*;

use crate::TILE;

/// Of a tile.
const ROWS: usize = TILE.0 as usize;
const INPUTS: usize = TILE.1 as usize;

/// Lanes of a warp.
const LANES: usize = 32;

/// NF4 codes, row after row, two a byte with the first in the high bits, to the order of
/// [`WeightForm::Nf4`](crate::WeightForm::Nf4). `inputs` and the rows make whole tiles.
pub fn nf4(codes: &[u8], inputs: usize) -> Vec<u8> {
    in_tiles(codes, inputs / 2, inputs / INPUTS, 512, |rows, block, tile| {
        for (lane, out) in tile.chunks_exact_mut(16).enumerate() {
            let row = lane / 4;
            for (word, out) in out.chunks_exact_mut(4).enumerate() {
                let first = block * INPUTS + 32 * (word >> 1) + 8 * (lane & 3);
                out.copy_from_slice(&rows[(row + 8 * (word & 1)) * inputs / 2 + first / 2..][..4]);
            }
        }
    })
}

/// The largest weight of each 64, row after row, to f16 in the order of [`WeightForm::Nf4`](crate::WeightForm::Nf4); and
/// the matrix's unit: a power of two that brings the largest close to f16's end, so that small ones keep their bits.
pub fn nf4_scales(absmax: &[f32], inputs: usize) -> (Vec<u8>, f32) {
    let largest = absmax.iter().fold(0.0f32, |most, absmax| most.max(absmax.abs()));
    let exponent = if largest > 0.0 { 14 - largest.log2().ceil() as i32 } else { 0 }.clamp(-100, 100);
    let power = (exponent as f32).exp2();
    let scales = nf4_blocks(absmax, inputs).into_iter().flat_map(|absmax| f16::from_f32(absmax * power).to_le_bytes());
    (scales.collect(), power.recip())
}

/// Something of each 64 weights, row after row, in the order of the scales of [`WeightForm::Nf4`](crate::WeightForm::Nf4).
pub fn nf4_blocks<T: Copy + Send + Sync>(blocks: &[T], inputs: usize) -> Vec<T> {
    let count = inputs / INPUTS;
    let tiles = blocks.par_chunks(ROWS * count).flat_map_iter(|rows| {
        (0..count)
            .flat_map(move |block| (0..ROWS).map(move |place| rows[(place / 2 + 8 * (place & 1)) * count + block]))
    });
    tiles.collect()
}

/// Bytes of signed weights, row after row, to the order of [`WeightForm::Int8`](crate::WeightForm::Int8).
pub fn int8(weights: &[u8], inputs: usize) -> Vec<u8> {
    in_tiles(weights, inputs, inputs / INPUTS, 1024, |rows, block, tile| {
        for (index, out) in tile.chunks_exact_mut(16).enumerate() {
            let (half, lane) = (index / LANES, index % LANES);
            for (word, out) in out.chunks_exact_mut(4).enumerate() {
                let first = block * INPUTS + 32 * half + 8 * (lane & 3) + 4 * (word & 1);
                out.copy_from_slice(&rows[(lane / 4 + 8 * (word >> 1)) * inputs + first..][..4]);
            }
        }
    })
}

/// Which row of (gate, up) side by side stands where: eight of the gate, the eight that they gate, the next eight.
pub fn interleaved_row(outputs_each: usize, place: usize) -> usize {
    let second = if place & 8 == 0 { 0 } else { outputs_each };
    second + place / 16 * 8 + place % 8
}

/// Calls `fill` with each sixteen rows, each block of inputs, and the tile that they become.
fn in_tiles(
    rows: &[u8],
    row_bytes: usize,
    blocks: usize,
    tile_bytes: usize,
    fill: impl Fn(&[u8], usize, &mut [u8]) + Sync,
) -> Vec<u8> {
    let mut packed = vec![0; rows.len()];
    let row_tiles = packed.par_chunks_mut(tile_bytes * blocks).zip(rows.par_chunks(ROWS * row_bytes));
    row_tiles.for_each(|(tiles, rows)| {
        tiles.chunks_exact_mut(tile_bytes).enumerate().for_each(|(block, tile)| fill(rows, block, tile));
    });
    packed
}
