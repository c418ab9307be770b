//! Memory that kernels need for themselves: reserved once, lent to each launch. One stream runs them one after the other, so
//! all launches share it.

use super::args::Pointer;
use crate::attention::SPREAD_ROWS;
use crate::{Arena, Card, Region};

/// Where each part is.
#[derive(Clone, Debug)]
pub(super) struct Workspace {
    base: Pointer,
    partial: Region,
    arrivals: Region,
    attention_partial: Region,
    scratch: Region,
    library: Region,
    bytes: u64,
}

/// Blocks of a product that leave sums to each other, at most: two row groups each.
const GROUPS_PER_BLOCK: u64 = 2;

/// Of a row group's sums, in bytes, at most: 256 rows by wgmma, 64 by mma.sync.
const WIDE_SUMS: u64 = 8 * 32 * 32 * 16;
const MMA_SUMS: u64 = 8 * 8 * 32 * 16;

/// Counters, all zeros between launches. Products have one for each tile of outputs, attention for each row and head.
pub(super) const COUNTERS: u32 = 1 << 16;

const ATTENTION_PARTIAL: u64 = 32 << 20;

/// What one part of a context leaves of the up to eight queries of a head: maximum, sum, and 128 numbers each.
const ATTENTION_PART: u64 = 8 * 130 * 4;

/// Only where a row is drawn by one block, which has no room for it.
const SCRATCH: u64 = 64 << 20;

/// What cuBLASLt's algorithms are chosen with.
const LIBRARY: u64 = 64 << 20;

impl Workspace {
    /// Nothing is reserved yet.
    pub(super) fn plan(card: &Card) -> Self {
        let mut arena = Arena::default();
        let sums = if card.has_wgmma() { WIDE_SUMS } else { MMA_SUMS };
        let partial = arena.take(u64::from(card.multiprocessors) * GROUPS_PER_BLOCK * sums);
        let arrivals = arena.take(u64::from(COUNTERS) * 4);
        let attention_partial = arena.take(ATTENTION_PARTIAL);
        let scratch = arena.take(if card.has_wgmma() { 0 } else { SCRATCH });
        let library = arena.take(LIBRARY);
        Self { base: 0, partial, arrivals, attention_partial, scratch, library, bytes: arena.used() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same, `base` being where its memory, all zeros, begins.
    #[must_use]
    pub(super) fn at(mut self, base: Pointer) -> Self {
        self.base = base;
        self
    }

    pub(super) fn partial(&self) -> Pointer {
        self.base + self.partial.at.0
    }

    pub(super) fn arrivals(&self) -> Pointer {
        self.base + self.arrivals.at.0
    }

    pub(super) fn attention_partial(&self) -> Pointer {
        self.base + self.attention_partial.at.0
    }

    pub(super) fn scratch(&self) -> Pointer {
        self.base + self.scratch.at.0
    }

    /// Where it is, and its bytes.
    pub(super) fn library(&self) -> (Pointer, u64) {
        (self.base + self.library.at.0, self.library.bytes)
    }

    /// Rows of decode attention that one launch may have, each cut into so many parts.
    pub(super) fn split_rows(&self, kv_heads: u32, splits: u32) -> u32 {
        let room =
            self.attention_partial.bytes / (ATTENTION_PART * u64::from(kv_heads.max(1)) * u64::from(splits.max(1)));
        let counters = COUNTERS / kv_heads.max(1);
        let room = if splits > 1 { u32::try_from(room).unwrap_or(u32::MAX) } else { u32::MAX };
        room.min(counters).min(SPREAD_ROWS)
    }

    /// Rows that one launch may draw, of `stride` logits each.
    pub(super) fn drawn_rows(&self, stride: u32) -> u32 {
        let room = self.scratch.bytes / (4 * u64::from(stride.max(1)));
        u32::try_from(room).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;

    #[test]
    fn a_launch_has_room_for_what_it_leaves() {
        for card in [Card::h200(), Card::rtx_4090()] {
            let workspace = Workspace::plan(&card).at(1 << 40);
            for (kv_heads, splits) in [(8, 1), (8, 16), (40, 16), (40, 2), (2, 8)] {
                let rows = u64::from(workspace.split_rows(kv_heads, splits));
                assert!(rows >= 1 && rows * u64::from(kv_heads) <= u64::from(COUNTERS));
                let bytes = rows * u64::from(kv_heads * splits) * ATTENTION_PART;
                assert!(splits == 1 || bytes <= workspace.attention_partial.bytes);
            }
            // A spread launch has two blocks for each multiprocessor, and each leaves two parts.
            assert!(u64::from(card.multiprocessors) * 4 * ATTENTION_PART <= workspace.attention_partial.bytes);
            assert_eq!(workspace.drawn_rows(152_064) == 0, card.has_wgmma());
        }
    }

    #[test]
    fn parts_stand_apart() {
        let workspace = Workspace::plan(&Card::rtx_4090()).at(1 << 40);
        let (library, bytes) = workspace.library();
        let starts = [
            workspace.partial(),
            workspace.arrivals(),
            workspace.attention_partial(),
            workspace.scratch(),
            library,
            (1 << 40) + workspace.bytes(),
        ];
        assert!(starts.is_sorted_by(|before, after| before < after), "{starts:?}");
        assert_eq!(library + bytes, (1 << 40) + workspace.bytes());
    }
}
