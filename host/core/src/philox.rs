//! Philox 4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
//!
//! A draw depends on its key and its counter alone, so neither order nor company can change it.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

pub fn philox(key: u64, counter: u128) -> [u32; 4] {
    let mut key = [low(key), low(key >> 32)];
    let mut words = [0, 32, 64, 96].map(|shift| low((counter >> shift) as u64));
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(words[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(words[2]);
        words = [low(second >> 32) ^ words[1] ^ key[0], low(second), low(first >> 32) ^ words[3] ^ key[1], low(first)];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// Uniform in [0, 1), with the 53 bits that an `f64` holds.
pub fn uniform(key: u64, counter: u128) -> f64 {
    let [first, second, ..] = philox(key, counter);
    let bits = (u64::from(first) << 32 | u64::from(second)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

fn low(word: u64) -> u32 {
    (word & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish.
    #[test]
    fn known_answers() {
        let check = |key, counter, expected| assert_eq!(philox(key, counter), expected);
        check(0, 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check(u64::MAX, u128::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = 0x0370_7344_1319_8a2e_85a3_08d3_243f_6a88;
        check(0x299f_31d0_a409_3822, pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
