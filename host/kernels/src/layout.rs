//! How the activations of a step lie in memory.

/// Where number `i` of row `m` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// One row after the other.
    Rows,
    /// As the wide products read it: eight numbers of each of so many rows at a time, and the numbers within 64 in the
    /// order of [`wide_index`].
    Wide { rows: u32 },
}

impl Layout {
    /// Of number `i` of row `m`, in numbers from the beginning; a row has `width` of them.
    pub fn index(self, m: usize, i: usize, width: usize) -> usize {
        match self {
            Self::Rows => m * width + i,
            Self::Wide { rows } => {
                let i = wide_index(i);
                i / 8 * 8 * rows as usize + m * 8 + i % 8
            }
        }
    }

    /// The two steps, in numbers, that kernels go by: from a row to the next, and from eight numbers to the next eight.
    pub fn strides(self, width: u32) -> (u32, u32) {
        match self {
            Self::Rows => (width, 8),
            Self::Wide { rows } => (8, 8 * rows),
        }
    }
}

/// Where input `k` stands among the activations of a wide product. A permutation of each 64: the weights are stored for
/// the products of few rows, the order in which the tensor cores walk over `k` is given, so the activations move.
pub fn wide_index(k: usize) -> usize {
    (k & !63) | (k & 32) | ((k & 4) << 2) | ((k & 2) << 2) | ((k >> 2) & 6) | (k & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_place() {
        for layout in [Layout::Rows, Layout::Wide { rows: 16 }] {
            let mut seen = vec![false; 16 * 192];
            for (m, i) in (0..16).flat_map(|m| (0..192).map(move |i| (m, i))) {
                assert!(!std::mem::replace(&mut seen[layout.index(m, i, 192)], true), "{layout:?} {m} {i}");
            }
        }
        assert_eq!(Layout::Wide { rows: 16 }.strides(192), (8, 128));
    }
}
