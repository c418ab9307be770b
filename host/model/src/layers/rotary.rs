//! Rotary position embedding, in the layout of Hugging Face: a head's first half turns with its second.

use sluice_core::PromptVariants;

use crate::rope::Rope;
use crate::step::Step;

pub(crate) struct Rotary {
    /// For each variant, how fast each pair of a head turns per position.
    speeds: Vec<Vec<f32>>,
    variants: PromptVariants,
    attention_factor: f32,
}

impl Rotary {
    pub(crate) fn new(rope: &Rope, variants: PromptVariants, head_dim: usize) -> Self {
        let speeds = (0..variants.count()).map(|variant| rope.speeds(variant, head_dim)).collect();
        Self { speeds, variants, attention_factor: rope.attention_factor() }
    }

    /// The angles of all tokens of a step, one row of cosines and then sines each: computed once for all layers.
    pub(crate) fn angles(&self, step: &Step, angles: &mut [f32]) {
        let width = 2 * self.speeds[0].len();
        for (token, row) in angles.chunks_exact_mut(width).enumerate() {
            self.angles_at(step.positions[token], step.prompt_of(token), row);
        }
    }

    fn angles_at(&self, position: u32, prompt_tokens: u32, row: &mut [f32]) {
        let speeds = &self.speeds[self.variants.of(prompt_tokens) as usize];
        let (cosines, sines) = row.split_at_mut(speeds.len());
        for ((cosine, sine), speed) in cosines.iter_mut().zip(sines).zip(speeds) {
            let (sin, cos) = (position as f32 * speed).sin_cos();
            (*sine, *cosine) = (sin * self.attention_factor, cos * self.attention_factor);
        }
    }
}

/// Turns the heads in `x` by one token's angles.
pub(crate) fn rotate(x: &mut [f32], angles: &[f32]) {
    let (cos, sin) = angles.split_at(angles.len() / 2);
    for head in x.chunks_exact_mut(angles.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*first, *second) = (*first * cos - *second * sin, *first * sin + *second * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::Scaling;

    #[test]
    fn the_product_of_two_heads_depends_on_their_distance() {
        let rope = Rope { theta: 10_000.0, scaling: Scaling::None };
        let rotary = Rotary::new(&rope, PromptVariants::default(), 8);
        let at = |position: u32, head: [f32; 8]| {
            let mut angles = [0.0; 8];
            rotary.angles_at(position, 1, &mut angles);
            let mut head = head;
            rotate(&mut head, &angles);
            head
        };
        let product = |a: [f32; 8], b: [f32; 8]| a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>();
        let (query, key) = ([0.3, -1.0, 0.5, 2.0, -0.7, 0.1, 1.1, 0.9], [1.0, 0.2, -0.4, 0.6, 0.8, -1.5, 0.3, 0.7]);
        let near = product(at(9, query), at(4, key));
        assert!((near - product(at(105, query), at(100, key))).abs() < 1e-4);
        assert!((near - product(at(9, query), at(5, key))).abs() > 1e-2);
        assert_eq!(at(0, query), query);
    }
}
