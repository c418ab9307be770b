//! Rotary position embedding, in the layout of Hugging Face: a head's first half turns with its second.

/// How fast each pair of a head turns per position.
pub(crate) struct Rotary {
    speeds: Vec<f32>,
}

impl Rotary {
    pub(crate) fn new(theta: f64, head_dim: usize) -> Self {
        let speed = |pair: usize| 1.0 / theta.powf(pair as f64 / head_dim as f64) as f32;
        Self { speeds: (0..head_dim).step_by(2).map(speed).collect() }
    }

    /// The angles of all tokens of a step, one row of cosines and then sines each: computed once for all layers.
    pub(crate) fn angles(&self, positions: &[u32], angles: &mut [f32]) {
        let pairs = self.speeds.len();
        for (position, row) in positions.iter().zip(angles.chunks_exact_mut(2 * pairs)) {
            let (cos, sin) = row.split_at_mut(pairs);
            for ((cos, sin), speed) in cos.iter_mut().zip(sin).zip(&self.speeds) {
                (*sin, *cos) = (*position as f32 * speed).sin_cos();
            }
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

    #[test]
    fn the_product_of_two_heads_depends_on_their_distance() {
        let rotary = Rotary::new(10_000.0, 8);
        let at = |position: u32, head: [f32; 8]| {
            let mut angles = [0.0; 8];
            rotary.angles(&[position], &mut angles);
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
