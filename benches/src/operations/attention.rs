//! Cases of attention over caches whose blocks lie in any order, with no numbers behind the ends of sequences.

use sluice_kernels::attention::{Path, Run, Tile, is_long, starts, tiles};
use sluice_kernels::op::{BLOCK_TOKENS, DecodeAttention, HEAD_DIM, Heads, KvPool, LayerCache, PrefillAttention};
use sluice_kernels::{Address, Layout, Op};

use super::Subject;
use super::case::{Case, Compared};
use super::limits::ATTENDED;
use super::view::View;

/// A context's tokens.
const LENGTHS: [u32; 6] = [17, 0, 1, 600, 16, 333];
const LONG_LENGTHS: [u32; 5] = [5000, 16, 0, 1, 1025];
const SHORT_LENGTHS: [u32; 5] = [17, 0, 1, 16, 40];

/// Of a step of 128 rows, of which 58 are padding.
const PADDED_LENGTHS: [u32; 128] = {
    let mut lengths = [0; 128];
    let mut row = 0;
    while row < 70 {
        lengths[row] = 333;
        row += 1;
    }
    lengths
};

/// Rows on either side of where another way to cut the work is chosen.
const ROWS: [u32; 13] = [1, 2, 3, 7, 8, 16, 17, 32, 63, 64, 128, 200, 256];

/// The same where contexts are long.
const LONG_ROWS: [u32; 6] = [1, 2, 3, 7, 8, 32];

/// Full blocks, which sequences share.
const SHARED: u32 = 64;

const fn heads(queries: u32, kv: u32) -> Heads {
    Heads { queries, kv }
}

/// 1, 5, 7 and 8 queries to a head of keys.
const HEADS: [Heads; 5] = [heads(40, 8), heads(14, 2), heads(4, 4), heads(8, 1), heads(5, 1)];

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let (rows, long_rows): (&[u32], &[u32]) = if full { (&ROWS, &LONG_ROWS) } else { (&[1, 3, 16, 64], &[]) };
    let lengths: &'static [u32] = if full { &LENGTHS } else { &SHORT_LENGTHS };
    let of_heads = |heads: Heads| {
        let long = long_rows.iter().map(move |rows| (heads, *rows, &LONG_LENGTHS[..]));
        let padded = full.then_some((heads, 128, &PADDED_LENGTHS[..]));
        let sizes = rows.iter().map(move |rows| (heads, *rows, lengths)).chain(long).chain(padded);
        let name = format!("decode-attention {}/{}", heads.queries, heads.kv);
        Subject::new(name, sizes, |case, (heads, rows, lengths)| decode(case, heads, rows, lengths))
    };
    let decodes = if full { &HEADS[..] } else { &HEADS[2..4] };
    let mut subjects: Vec<Subject> = decodes.iter().map(|heads| of_heads(*heads)).collect();
    let prefills = if full { &HEADS[..] } else { &HEADS[3..] };
    let prefill = move |case: &mut Case, heads| prefill(case, heads, full);
    subjects.push(Subject::new("prefill-attention", prefills.iter().copied(), prefill));
    subjects
}

/// A layer's cache and the sequences that are in it.
struct Sequences {
    cache: LayerCache,
    tables: Address,
    stride: u32,
}

/// Whole blocks are some of those that all share; the last block is a sequence's own, and holds no numbers behind its end.
/// What a table says beyond them is `unused`.
fn sequences(case: &mut Case, heads: Heads, lengths: &[u32], unused: impl Fn(u32) -> i32) -> Sequences {
    // The last holds no number at all.
    let blocks = SHARED + lengths.len() as u32 + 1;
    let none = Address(0);
    let pool = KvPool { keys: none, values: none, layers: 2, blocks, kv_heads: heads.kv };
    let bytes = 2 * pool.layer_bytes();
    let pool = KvPool { keys: case.image.room(bytes).at, values: case.image.room(bytes).at, ..pool };
    let cache = LayerCache { pool, layer: 1 };
    // Places of blocks, in any order; the shared ones first.
    let mut places = case.random.order(blocks - 1);
    for block in &places[..SHARED as usize] {
        fill(case, cache, heads, *block, BLOCK_TOKENS);
    }
    let owned = places.split_off(SHARED as usize);
    let stride = lengths.iter().map(|length| length.div_ceil(BLOCK_TOKENS)).max().unwrap_or(0) + 2;
    let mut tables = Vec::new();
    for (length, own) in lengths.iter().zip(owned) {
        let (full, rest) = (length / BLOCK_TOKENS, length % BLOCK_TOKENS);
        let mut table: Vec<i32> = (0..full).map(|_| places[case.random.below(SHARED) as usize] as i32).collect();
        if rest > 0 {
            fill(case, cache, heads, own, rest);
            table.push(own as i32);
        }
        table.resize(stride as usize, unused(blocks));
        tables.extend(table);
    }
    Sequences { cache, tables: case.put(&tables), stride }
}

/// The first tokens of a block.
fn fill(case: &mut Case, cache: LayerCache, heads: Heads, block: u32, tokens: u32) {
    for pool in [cache.keys(), cache.values()] {
        for head in 0..heads.kv {
            let numbers = case.random.halves((tokens * HEAD_DIM) as usize, 1.0);
            let place = u64::from((block * heads.kv + head) * BLOCK_TOKENS * HEAD_DIM);
            case.image.write(pool.offset(place * 2), &numbers);
        }
    }
}

/// All rows of one of these lengths, in turns.
fn decode(case: &mut Case, heads: Heads, rows: u32, lengths: &[u32]) {
    let lengths: Vec<u32> = lengths.iter().copied().cycle().take(rows as usize).collect();
    let long = is_long(lengths.iter().copied().max().unwrap_or(0));
    let path = Path::choose(rows, long);
    let sequences = sequences(case, heads, &lengths, |blocks| blocks as i32 - 1);
    let width = heads.queries * HEAD_DIM;
    let q = case.halves(rows * width, 1.0);
    let starts: Vec<i32> = starts(&lengths, heads.kv).map(|start| start as i32).collect();
    let lengths: Vec<i32> = lengths.into_iter().map(|length| length as i32).collect();
    let (lengths, starts) = (case.put(&lengths), case.put(&starts));
    let wide = matches!(rows, 16 | 32 | 64 | 128 | 256).then_some(Layout::Wide { rows });
    for layout in [Some(Layout::Rows), wide].into_iter().flatten() {
        let out = case.room_for_activations(rows, width, layout);
        let op = DecodeAttention {
            q,
            cache: sequences.cache,
            tables: sequences.tables,
            table_stride: sequences.stride,
            lengths,
            starts,
            out,
            path,
            heads,
            rows,
            scale: (HEAD_DIM as f32).sqrt().recip(),
        };
        let (contexts, layout) = (if long { ", long" } else { "" }, if layout == Layout::Rows { "" } else { ", wide" });
        let Heads { queries, kv } = heads;
        let name = format!("decode attention {rows} rows, {queries} over {kv} heads{contexts}{layout}, {path:?}");
        let attended = Compared::close("what is seen", View::of(out, rows, width), ATTENDED);
        case.check(name, Op::DecodeAttention(op), vec![attended]);
    }
}

/// The first rows of runs, what is cached before them, and their new tokens: from nothing and behind prefixes, across
/// tiles and blocks and not, rows between them left out.
fn runs(full: bool) -> Vec<Run> {
    let sizes: &[(i32, i32)] = if full {
        &[(0, 513), (0, 1), (37, 129), (600, 17), (16, 16), (1000, 128), (15, 2), (0, 256)]
    } else {
        &[(0, 131), (0, 1), (37, 17)]
    };
    let mut first_row = 0;
    let run = |(start, count): &(i32, i32)| {
        let run = Run { first_row, start: *start, count: *count, unused: 0 };
        first_row += count + 2;
        run
    };
    sizes.iter().map(run).collect()
}

fn prefill(case: &mut Case, heads: Heads, full: bool) {
    let runs = runs(full);
    let lengths: Vec<u32> = runs.iter().map(|run| (run.start + run.count) as u32).collect();
    // Nothing looks behind a sequence's end.
    let sequences = sequences(case, heads, &lengths, |blocks| blocks as i32 + 1_000_000);
    let mut all: Vec<Tile> = Vec::new();
    tiles(&runs, &mut all);
    let (rows, width) = (runs.iter().map(|run| run.first_row + run.count).max().unwrap_or(0), heads.queries * HEAD_DIM);
    let (q, out) = (case.halves(rows as u32 * width, 1.0), case.room::<u16>((rows as u32 + 2) * width).at);
    let op = PrefillAttention {
        q,
        out,
        cache: sequences.cache,
        tables: sequences.tables,
        table_stride: sequences.stride,
        runs: case.put(&runs),
        tiles: case.put(&all),
        tile_count: all.len() as u32,
        heads,
        scale: (HEAD_DIM as f32).sqrt().recip(),
    };
    let view = |run: &Run| {
        let first = u64::from(run.first_row as u32 * width) * 2;
        View::rows_at(out.offset(first), run.count as u32, width)
    };
    let seen = runs.iter().map(|run| (view(run), view(run))).collect();
    let Heads { queries, kv } = heads;
    let name = format!("prefill attention {} runs, {queries} over {kv} heads", runs.len());
    case.check(name, Op::PrefillAttention(op), vec![Compared::Close("what is seen", seen, ATTENDED)]);
}
