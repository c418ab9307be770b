//! How attention is divided over a card: by the rows and their contexts, none of which a recorded step may depend on.

use bytemuck::{Pod, Zeroable};

use crate::op::BLOCK_TOKENS;

/// How the work of decode attention is cut. All give the same numbers, but for their rounding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// A block of so many warps for each row, head of keys and part of the context.
    Split { warps: u32, splits: u32 },
    /// Every block has the same number of pages, whatever the lengths.
    Spread,
}

/// Contexts beyond it take another path where rows are few.
const LONG: u32 = 1024;

/// Rows that [`Path::Spread`] can know at once.
pub const SPREAD_ROWS: u32 = 256;

/// Whether the longest of a step's contexts makes it a step of long contexts.
pub fn is_long(longest: u32) -> bool {
    longest > LONG
}

impl Path {
    /// As measured with 8 heads of keys on 132 multiprocessors.
    pub fn choose(rows: u32, long: bool) -> Self {
        match (rows, long) {
            (0..=2, false) => Self::Split { warps: 12, splits: 8 },
            (0..=2, true) => Self::Split { warps: 12, splits: 16 },
            (3..=7, true) => Self::Split { warps: 12, splits: 4 },
            (3..=16, false) => Self::Split { warps: 12, splits: 1 },
            (17..64, false) => Self::Split { warps: 6, splits: 1 },
            _ => Self::Spread,
        }
    }

    /// Parts of a context that are written down before they are combined, at most.
    pub const MOST_SPLITS: u32 = 16;
}

/// Pages of the rows before each row, times the heads of keys, and at last of all. What a step is padded with has none.
pub fn starts(lengths: &[u32], kv_heads: u32) -> impl Iterator<Item = u32> {
    let pages = lengths.iter().map(move |length| length.div_ceil(BLOCK_TOKENS) * kv_heads);
    std::iter::once(0).chain(pages.scan(0, |sum, pages| {
        *sum += pages;
        Some(*sum)
    }))
}

/// New tokens of one sequence, side by side.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Run {
    /// Of the step's tokens.
    pub first_row: i32,
    /// The first new token's position: so many are in the cache.
    pub start: i32,
    pub count: i32,
    pub unused: i32,
}

/// New tokens of one run that one block works on, [`TILE_ROWS`] of them or what is left.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Tile {
    pub run: i32,
    /// The first one's index within its run.
    pub first: i32,
}

pub const TILE_ROWS: u32 = 128;

/// Those with the longest context first, so that what is handed out last is short.
pub fn tiles(runs: &[Run], tiles: &mut Vec<Tile>) {
    tiles.clear();
    for (index, run) in (0..).zip(runs) {
        let firsts = (0..run.count).step_by(TILE_ROWS as usize);
        tiles.extend(firsts.map(|first| Tile { run: index, first }));
    }
    let context = |tile: &Tile| {
        let run = &runs[tile.run as usize];
        run.start + (tile.first + TILE_ROWS as i32).min(run.count)
    };
    tiles.sort_by_key(|tile| std::cmp::Reverse(context(tile)));
}

/// Tiles that so many runs of so many tokens together may have.
pub fn most_tiles(runs: u32, tokens: u32) -> u32 {
    tokens / TILE_ROWS + runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_new_token_once_longest_context_first() {
        let run = |first_row, start, count| Run { first_row, start, count, unused: 0 };
        let runs = [run(0, 0, 300), run(300, 1000, 1), run(301, 37, 129)];
        let mut found = vec![Tile { run: 9, first: 9 }];
        tiles(&runs, &mut found);
        let tile = |run, first| Tile { run, first };
        let expected = [tile(1, 0), tile(0, 256), tile(0, 128), tile(2, 128), tile(2, 0), tile(0, 0)];
        assert_eq!(found, expected);
        assert!(found.len() as u32 <= most_tiles(3, 430));
    }

    #[test]
    fn starts_count_pages_of_all_heads() {
        assert_eq!(starts(&[1, 17, 0, 600], 8).collect::<Vec<_>>(), [0, 8, 24, 24, 328]);
    }

    #[test]
    fn every_path_has_room_for_its_parts() {
        for (rows, long) in (0..300).flat_map(|rows| [(rows, false), (rows, true)]) {
            match Path::choose(rows, long) {
                Path::Split { warps, splits } => {
                    assert!(matches!(warps, 6 | 12) && (1..=Path::MOST_SPLITS).contains(&splits));
                }
                Path::Spread => assert!(rows >= 8),
            }
        }
    }
}
