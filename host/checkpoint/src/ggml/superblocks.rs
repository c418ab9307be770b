//! Blocks of 256 numbers in parts of 16 or 32, each with a small scale that the block's own scale multiplies.

use super::scale;

/// d · scale · code - dmin · least, codes of two bits, scale and least of four bits for every 16 numbers
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes, d, dmin) = (&block[..16], &block[16..80], scale(block, 80), scale(block, 82));
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let (d, least) = (d * f32::from(scales[part] & 0xf), dmin * f32::from(scales[part] >> 4));
        let (codes, shift) = twos(codes, part);
        for (out, code) in out.iter_mut().zip(codes) {
            *out = d * f32::from(code >> shift & 3) - least;
        }
    }
}

/// d · (scale - 32) · (code - 4), codes of three bits: the third of all together first, scales of six bits
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (thirds, codes, scales, d) = (&block[..32], &block[32..96], &block[96..108], scale(block, 108));
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[part % 8] >> (part / 8 * 4) & 0xf;
        let high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
        let d = d * (f32::from(low | high << 4) - 32.0);
        let (codes, shift) = twos(codes, part);
        let thirds = &thirds[part % 2 * 16..];
        for (out, (code, third)) in out.iter_mut().zip(codes.iter().zip(thirds)) {
            let third = third >> (part / 2) & 1;
            *out = d * f32::from((code >> shift & 3 | third << 2) as i8 - 4);
        }
    }
}

/// d · scale · code - dmin · least, codes of four bits, scale and least of six bits for every 32 numbers
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, codes) = (scale(block, 0), scale(block, 2), &block[4..16], &block[16..144]);
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = sixes(scales, part);
        let (d, least) = (d * f32::from(scale), dmin * f32::from(least));
        for (out, code) in out.iter_mut().zip(&codes[part / 2 * 32..]) {
            *out = d * f32::from(code >> (part % 2 * 4) & 0xf) - least;
        }
    }
}

/// As Q4_K, with the fifth bits of all codes together before the others
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, fifths, codes) =
        (scale(block, 0), scale(block, 2), &block[4..16], &block[16..48], &block[48..176]);
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = sixes(scales, part);
        let (d, least) = (d * f32::from(scale), dmin * f32::from(least));
        for (out, (code, fifth)) in out.iter_mut().zip(codes[part / 2 * 32..].iter().zip(fifths)) {
            let code = code >> (part % 2 * 4) & 0xf | (fifth >> part & 1) << 4;
            *out = d * f32::from(code) - least;
        }
    }
}

/// d · scale · (code - 32), codes of six bits: four low, then two high, a scale of eight bits for every 16 numbers
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (lows, highs, scales, d) = (&block[..128], &block[128..192], &block[192..208], scale(block, 208));
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        // A half of 128 numbers is four quarters of 32; two quarters share a low byte, all four a high one.
        let (half, quarter, offset) = (part / 8, part % 8 / 2, part % 2 * 16);
        let lows = &lows[half * 64 + quarter % 2 * 32 + offset..];
        let highs = &highs[half * 32 + offset..];
        let d = d * f32::from(scales[part] as i8);
        for (out, (low, high)) in out.iter_mut().zip(lows.iter().zip(highs)) {
            let code = low >> (quarter / 2 * 4) & 0xf | (high >> (quarter * 2) & 3) << 4;
            *out = d * f32::from(code as i8 - 32);
        }
    }
}

/// Where the codes of two bits of 16 numbers lie, and how far they are to be shifted: a byte holds four numbers that
/// are 32 apart.
fn twos(codes: &[u8], part: usize) -> (&[u8], usize) {
    (&codes[part / 8 * 32 + part % 2 * 16..], part % 8 / 2 * 2)
}

/// Scale and least of one of eight parts: six bits each, packed into twelve bytes.
fn sixes(scales: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (scales[part] & 63, scales[part + 4] & 63);
    }
    let rest = scales[part + 4];
    (rest & 0xf | scales[part - 4] >> 6 << 4, rest >> 4 | scales[part] >> 6 << 4)
}
