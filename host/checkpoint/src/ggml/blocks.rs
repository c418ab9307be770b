//! Blocks of 32 numbers: a scale, sometimes a least value, and a code each.

use super::scale;

const HALF: usize = 16;

/// d · (code - 8)
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block, 0);
    fours(&block[2..], out, |code, _| f32::from(i16::from(code) - 8) * d);
}

/// d · code + m
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    fours(&block[4..], out, |code, _| f32::from(code) * d + m);
}

/// d · (code - 16), the fifth bits together before the others
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let (d, fifth) = (scale(block, 0), fifth_bits(&block[2..]));
    fours(&block[6..], out, |code, index| f32::from(i16::from(code | fifth(index)) - 16) * d);
}

/// d · code + m
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m, fifth) = (scale(block, 0), scale(block, 2), fifth_bits(&block[4..]));
    fours(&block[8..], out, |code, index| f32::from(code | fifth(index)) * d + m);
}

/// d · code
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block, 0);
    for (out, code) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*code as i8) * d;
    }
}

/// Low halves of the bytes are the first sixteen numbers, high halves the others.
fn fours(codes: &[u8], out: &mut [f32], number: impl Fn(u8, usize) -> f32) {
    let (low, high) = out.split_at_mut(HALF);
    for (index, ((low, high), code)) in low.iter_mut().zip(high).zip(codes).enumerate() {
        *low = number(code & 0xf, index);
        *high = number(code >> 4, index + HALF);
    }
}

fn fifth_bits(bytes: &[u8]) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    move |index| ((bits >> index & 1) << 4) as u8
}
