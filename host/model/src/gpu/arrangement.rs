//! Which rows and columns of a checkpoint's matrices stand where on a GPU: heads are padded, gate and up interleaved.

use sluice_kernels::op::HEAD_DIM;
use sluice_kernels::pack::interleaved_row;

use crate::gpu::shape::Shape;

/// How one projection's matrices, below each other, become one matrix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Arrangement {
    /// For each row on the GPU the one that it comes from; `None`: zeros.
    pub(crate) rows: Vec<Option<usize>>,
    /// Every 64 inputs are followed by 64 zeros.
    pub(crate) spaced: bool,
}

const HEAD: usize = HEAD_DIM as usize;

impl Arrangement {
    /// As they are, and zeros up to `outputs`.
    pub(crate) fn plain(rows: usize, outputs: usize) -> Self {
        let rows = (0..outputs).map(|row| (row < rows).then_some(row)).collect();
        Self { rows, spaced: false }
    }

    /// Queries and keys keep their halves apart, which turn with each other; values stand together.
    pub(crate) fn qkv(shape: &Shape) -> Self {
        let (dim, turned) = (shape.size.head_dim, (shape.heads.queries + shape.heads.kv) as usize);
        let heads = turned + shape.heads.kv as usize;
        let rows = (0..heads * HEAD).map(|row| {
            let (head, place) = (row / HEAD, row % HEAD);
            let number =
                if head < turned { turned_number(place, dim) } else { Some(place).filter(|place| *place < dim) };
            number.map(|number| head * dim + number)
        });
        Self { rows: rows.collect(), spaced: false }
    }

    /// Its inputs are heads of values.
    pub(crate) fn attention_output(shape: &Shape) -> Self {
        Self { spaced: shape.pads_heads(), ..Self::plain(shape.size.hidden, shape.size.hidden) }
    }

    /// Gate above up, eight rows of each in turn.
    pub(crate) fn gate_up(shape: &Shape) -> Self {
        let each = shape.size.ffn;
        Self { rows: (0..2 * each).map(|place| Some(interleaved_row(each, place))).collect(), spaced: false }
    }

    /// The weights of a head's norm, where the numbers of a turned head stand.
    pub(crate) fn head_norm(shape: &Shape) -> Self {
        let dim = shape.size.head_dim;
        Self { rows: (0..HEAD).map(|place| turned_number(place, dim)).collect(), spaced: false }
    }

    /// Of a row whose source is so wide.
    pub(crate) fn width(&self, source: usize) -> usize {
        if self.spaced { 2 * source } else { source }
    }

    /// One row; `block` numbers are those of 64 inputs.
    pub(crate) fn copy<T: Copy>(&self, source: &[T], out: &mut [T], block: usize, zero: T) {
        if !self.spaced {
            return out.copy_from_slice(source);
        }
        for (source, out) in source.chunks_exact(block).zip(out.chunks_exact_mut(2 * block)) {
            let (real, padding) = out.split_at_mut(block);
            real.copy_from_slice(source);
            padding.fill(zero);
        }
    }
}

/// The number of a head of `dim` that stands at a place of a padded one.
fn turned_number(place: usize, dim: usize) -> Option<usize> {
    let (half, within) = (place / (HEAD / 2), place % (HEAD / 2));
    (within < dim / 2).then_some(half * dim / 2 + within)
}

#[cfg(test)]
mod tests {
    use sluice_kernels::op::Heads;

    use super::*;
    use crate::model::Dimensions;

    fn shape(head_dim: usize) -> Shape {
        let size = Dimensions { vocab: 20, hidden: 128, layers: 1, heads: 2, kv_heads: 1, head_dim, ffn: 64 };
        Shape { size, heads: Heads { queries: 2, kv: 1 }, head_rows: 32 }
    }

    #[test]
    fn heads_that_fill_their_place_stay_as_they_are() {
        let qkv = Arrangement::qkv(&shape(128));
        assert_eq!(qkv, Arrangement::plain(512, 512));
        assert_eq!(Arrangement::head_norm(&shape(128)), Arrangement::plain(128, 128));
        assert!(!Arrangement::attention_output(&shape(128)).spaced);
    }

    #[test]
    fn halves_of_narrow_heads_turn_with_each_other_and_values_stand_together() {
        let rows = Arrangement::qkv(&shape(64)).rows;
        let at = |head: usize, place: usize| rows[head * 128 + place];
        assert_eq!([at(0, 0), at(0, 31), at(0, 32), at(0, 63)], [Some(0), Some(31), None, None]);
        assert_eq!([at(0, 64), at(0, 95), at(0, 96), at(0, 127)], [Some(32), Some(63), None, None]);
        assert_eq!([at(2, 0), at(2, 64)], [Some(128), Some(160)], "keys");
        assert_eq!([at(3, 0), at(3, 63), at(3, 64)], [Some(192), Some(255), None], "values");
        let mut sources: Vec<usize> = rows.into_iter().flatten().collect();
        sources.sort_unstable();
        assert_eq!(sources, (0..256).collect::<Vec<_>>());
        assert!(Arrangement::attention_output(&shape(64)).spaced);
    }

    #[test]
    fn gate_and_up_take_turns() {
        let rows = Arrangement::gate_up(&shape(64)).rows;
        assert_eq!([rows[0], rows[7], rows[8], rows[15], rows[16]], [0, 7, 64, 71, 8].map(Some));
        assert_eq!(Arrangement::plain(20, 32).rows[19..21], [Some(19), None]);
    }
}
