//! Random weights of a configuration's true shapes, where speed is measured and answers do not matter.

use sluice_core::philox::philox;

/// A norm's weights lie around 1. A matrix is uniform with variance 1 / inputs, which keeps activations near 1.
/// The values depend on the seed, the tensor's name and the index, on nothing else.
pub fn tensor(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let inputs = shape.last().copied().unwrap_or(1);
    let (middle, spread) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, (3.0 / inputs as f32).sqrt()) };
    let key = seed ^ fnv(name);
    let unit = |word: u32| (word >> 8) as f32 / (1 << 23) as f32 - 1.0;
    let words = (0u128..).flat_map(|counter| philox(key, counter));
    words.take(shape.iter().product()).map(|word| middle + spread * unit(word)).collect()
}

/// FNV-1a: tells names apart, promises nothing else.
fn fnv(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
