//! Attention over pages that lie anywhere, with poison wherever no token is.

use proptest::prelude::*;
use sluice_kernels::Card;
use sluice_kernels::attention::{Path, Run, starts, tiles};
use sluice_kernels::op::{DecodeAttention, Heads, KvPool, LayerCache, Op, PrefillAttention};

use super::{DIM, Rig, assert_close, noise};

const BLOCKS: usize = 64;
const STRIDE: usize = 20;
const SCALE: f32 = 0.125;

/// Sequences whose keys and values are in the cache.
struct Cached {
    cache: LayerCache,
    heads: Heads,
    /// Of each sequence, `[STRIDE]`; entries that are not needed lead nowhere.
    tables: Vec<i32>,
    /// `[kv head][token][DIM]` of each sequence.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

fn place(heads: usize, block: usize, head: usize, offset: usize) -> usize {
    ((block * heads + head) * 16 + offset) * DIM
}

fn fill(rig: &mut Rig, heads: Heads, lengths: &[usize], seed: u64) -> Cached {
    let kv = heads.kv as usize;
    let mut pools = vec![vec![0x7fffu16; BLOCKS * kv * 16 * DIM]; 2];
    let mut tables = vec![i32::MAX; lengths.len() * STRIDE];
    // Blocks in an order of their own: 37 and 64 have no common divisor.
    let mut free = (0..BLOCKS).map(|index| index * 37 % BLOCKS);
    let mut numbers = [Vec::new(), Vec::new()];
    for (sequence, length) in lengths.iter().enumerate() {
        for page in 0..length.div_ceil(16) {
            tables[sequence * STRIDE + page] = free.next().unwrap() as i32;
        }
        for (which, pool) in pools.iter_mut().enumerate() {
            let of_sequence = noise(seed + 2 * sequence as u64 + which as u64, kv * length * DIM);
            for (index, number) in of_sequence.iter().enumerate() {
                let (head, token, dim) = (index / DIM / length, index / DIM % length, index % DIM);
                let block = tables[sequence * STRIDE + token / 16] as usize;
                pool[place(kv, block, head, token % 16) + dim] = half::bf16::from_f32(*number).to_bits();
            }
            numbers[which].push(of_sequence);
        }
    }
    let [keys, values] = numbers;
    let pool = KvPool {
        keys: rig.put(&pools[0]),
        values: rig.put(&pools[1]),
        layers: 1,
        blocks: BLOCKS as u32,
        kv_heads: heads.kv,
    };
    Cached { cache: LayerCache { pool, layer: 0 }, heads, tables, keys, values }
}

impl Cached {
    /// One token's queries, all heads, over the first `length` tokens of a sequence.
    fn reference(&self, sequence: usize, query: &[f32], length: usize) -> Vec<f64> {
        let (group, stored) = ((self.heads.queries / self.heads.kv) as usize, self.keys[sequence].len());
        let per_head = stored / self.heads.kv as usize;
        let head = |(head, query): (usize, &[f32])| {
            let row = |of: &[f32], token: usize| of[head / group * per_head + token * DIM..][..DIM].to_vec();
            let score = |token| {
                let key = row(&self.keys[sequence], token);
                let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(k)).sum();
                (dot * f64::from(SCALE)).exp()
            };
            let weights: Vec<f64> = (0..length).map(score).collect();
            let mut out = vec![0.0; DIM];
            for (token, weight) in weights.iter().enumerate() {
                let share = weight / weights.iter().sum::<f64>();
                let values = row(&self.values[sequence], token);
                out.iter_mut().zip(values).for_each(|(out, value)| *out += share * f64::from(value));
            }
            out
        };
        query.chunks(DIM).enumerate().flat_map(head).collect()
    }

    /// New tokens of a sequence behind `start` others, each as a row of its own.
    fn alone(&self, rig: &mut Rig, sequence: usize, queries: &[f32], start: usize) -> Vec<f32> {
        let width = self.heads.queries as usize * DIM;
        let lengths: Vec<usize> = (start + 1..).take(queries.len() / width).collect();
        let tables = self.tables[sequence * STRIDE..][..STRIDE].repeat(lengths.len());
        let rows = Cached { tables, keys: Vec::new(), values: Vec::new(), ..*self };
        let op = rows.decode(rig, queries, &lengths, SPLIT);
        rig.run(Op::DecodeAttention(op)).unwrap();
        rig.get_rows(op.out, lengths.len(), width)
    }

    fn decode(&self, rig: &mut Rig, queries: &[f32], lengths: &[usize], path: Path) -> DecodeAttention {
        let of_u32: Vec<u32> = lengths.iter().map(|length| *length as u32).collect();
        let starts: Vec<u32> = starts(&of_u32, self.heads.kv).collect();
        DecodeAttention {
            q: rig.put_bf16(queries),
            cache: self.cache,
            tables: rig.put(&self.tables),
            table_stride: STRIDE as u32,
            lengths: rig.put(&of_u32),
            starts: rig.put(&starts),
            out: rig.room_for_rows(queries.len()),
            path,
            heads: self.heads,
            rows: lengths.len() as u32,
            scale: SCALE,
        }
    }
}

const SPLIT: Path = Path::Split { warps: 6, splits: 1 };

fn heads() -> impl Strategy<Value = Heads> {
    (1u32..9, 1u32..3).prop_map(|(group, kv)| Heads { queries: group * kv, kv })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn one_token_a_row_attends_as_in_f64(
        heads in heads(),
        lengths in prop::collection::vec(prop_oneof![Just(0usize), Just(16), Just(17), 1usize..250], 1..5),
        path in prop::sample::select(&[SPLIT, Path::Spread][..]),
        to_wide: bool,
        seed in 0u64..1000,
    ) {
        let mut rig = Rig::new(Card::h200());
        let cached = fill(&mut rig, heads, &lengths, seed);
        let width = heads.queries as usize * DIM;
        let queries = noise(seed + 99, lengths.len() * width);
        let mut op = cached.decode(&mut rig, &queries, &lengths, path);
        if to_wide {
            op.out = rig.room_for_wide(8, width);
        }
        rig.run(Op::DecodeAttention(op)).unwrap();
        let found = rig.get_rows(op.out, lengths.len(), width);
        for (row, length) in lengths.iter().enumerate() {
            let expected = cached.reference(row, &queries[row * width..][..width], *length);
            assert_close(&found[row * width..][..width], &expected, &format!("length {length}"));
        }
    }

    #[test]
    fn new_tokens_attend_as_if_each_came_alone(
        heads in heads(),
        runs in prop::collection::vec((0usize..150, 1usize..150), 1..3),
        gap in 0usize..3,
        seed in 0u64..1000,
    ) {
        let mut rig = Rig::new(Card::h200());
        let lengths: Vec<usize> = runs.iter().map(|(start, count)| start + count).collect();
        let cached = fill(&mut rig, heads, &lengths, seed);
        let width = heads.queries as usize * DIM;
        let mut rows = gap;
        let runs: Vec<Run> = runs.iter().map(|(start, count)| {
            let run = Run { first_row: rows as i32, start: *start as i32, count: *count as i32, unused: 0 };
            rows += count + gap;
            run
        }).collect();
        let queries = noise(seed + 99, rows * width);
        let mut found_tiles = Vec::new();
        tiles(&runs, &mut found_tiles);
        let op = PrefillAttention {
            q: rig.put_bf16(&queries),
            out: rig.room::<u16>(rows * width),
            cache: cached.cache,
            tables: rig.put(&cached.tables),
            table_stride: STRIDE as u32,
            runs: rig.put(&runs),
            tiles: rig.put(&found_tiles),
            tile_count: found_tiles.len() as u32,
            heads,
            scale: SCALE,
        };
        rig.run(Op::PrefillAttention(op)).unwrap();
        let found = rig.get_bf16(op.out, rows * width);
        let mut covered = vec![false; rows];
        for (sequence, run) in runs.iter().enumerate() {
            let (first, count) = (run.first_row as usize, run.count as usize);
            covered[first..first + count].fill(true);
            let new = first * width..(first + count) * width;
            let alone = cached.alone(&mut rig, sequence, &queries[new.clone()], run.start as usize);
            prop_assert_eq!(&found[new], &alone[..], "{:?}", run);
        }
        for (row, _) in covered.iter().enumerate().filter(|(_, covered)| !**covered) {
            prop_assert!(found[row * width..][..width].iter().all(|number| number.is_nan()), "row {} was written", row);
        }
    }
}

#[test]
fn a_row_that_is_no_number_spoils_no_other() {
    let mut rig = Rig::new(Card::h200());
    let heads = Heads { queries: 2, kv: 1 };
    let cached = fill(&mut rig, heads, &[20, 0, 33], 1);
    let mut queries = noise(7, 3 * 2 * DIM);
    queries[2 * DIM..4 * DIM].fill(f32::NAN);
    let op = cached.decode(&mut rig, &queries, &[20, 0, 33], SPLIT);
    rig.run(Op::DecodeAttention(op)).unwrap();
    let found = rig.get_rows(op.out, 3, 2 * DIM);
    assert_eq!(found[2 * DIM..4 * DIM], [0.0; 2 * DIM], "length 0 gives zeros");
    for (row, length) in [(0, 20), (2, 33)] {
        let expected = cached.reference(row, &queries[row * 2 * DIM..][..2 * DIM], length);
        assert_close(&found[row * 2 * DIM..][..2 * DIM], &expected, "a row beside it");
    }
}
