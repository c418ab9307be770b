//! Keeps attention's entropy steady beyond the context that a model was made for: queries grow with the logarithm of
//! their position (Su, 2021, as Qwen's first series does it).

pub(crate) struct Logn {
    native: u32,
}

impl Logn {
    /// `native` is the context that the model was made for, at least 2.
    pub(crate) fn new(native: u32) -> Self {
        Self { native }
    }

    /// Multiplies a token's queries.
    pub(crate) fn scale(&self, position: u32, query: &mut [f32]) {
        let factor = self.factor(position);
        if factor != 1.0 {
            query.iter_mut().for_each(|value| *value *= factor);
        }
    }

    /// log_native(position), the position counted from 1, where it is beyond `native`.
    pub(crate) fn factor(&self, position: u32) -> f32 {
        let position = position.saturating_add(1);
        if position > self.native { (f64::from(position).ln() / f64::from(self.native).ln()) as f32 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_grow_beyond_the_native_context() {
        let factor = |position| {
            let mut query = [1.0, -2.0];
            Logn::new(2048).scale(position, &mut query);
            assert_eq!(query[1], -2.0 * query[0]);
            query[0]
        };
        assert_eq!([factor(0), factor(1000), factor(2047)], [1.0; 3]);
        assert!(factor(2048) > 1.0);
        assert!((factor(4095) - 12.0 / 11.0).abs() < 1e-6, "log 2^12 to the base 2^11");
        assert!((factor(8191) - 13.0 / 11.0).abs() < 1e-6);
    }
}
