//! Cases of what heads become before attention, in a cache whose other places hold no numbers.

use sluice_kernels::op::{Activations, BLOCK_TOKENS, HEAD_DIM, Heads, KvPool, LayerCache, Rope, Sum};
use sluice_kernels::{Address, Layout, Op};

use super::Subject;
use super::case::{Case, Compared};
use super::limits::ROUNDED;
use super::view::View;

/// What a model may or may not have.
#[derive(Clone, Copy)]
struct Features {
    name: &'static str,
    bias: bool,
    norms: bool,
    scaled: bool,
    /// Of the queries, keys and values; 1: a sum as it is.
    parts: u32,
    /// Numbers of a head that are not padding.
    head_dim: u32,
}

const fn features(name: &'static str, bias: bool, norms: bool, scaled: bool, parts: u32, head_dim: u32) -> Features {
    Features { name, bias, norms, scaled, parts, head_dim }
}

const FEATURES: [Features; 6] = [
    features("plain", false, false, false, 1, 128),
    features("bias", true, false, false, 1, 128),
    features("bias, 2 parts", true, false, false, 2, 128),
    features("norms, 64 of a head, 5 parts", false, true, false, 5, 64),
    features("norms, 96 of a head", false, true, false, 1, 96),
    features("all", true, true, true, 3, 128),
];

const fn heads(queries: u32, kv: u32) -> Heads {
    Heads { queries, kv }
}

/// Rows of the table of angles.
const ANGLES: u32 = 512;

/// Of one row.
const PAIRS: u32 = HEAD_DIM / 2;

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let shapes: &[(u32, Heads)] = if full {
        &[(1, heads(40, 8)), (5, heads(14, 2)), (64, heads(40, 8)), (300, heads(16, 16)), (7, heads(7, 1))]
    } else {
        &[(1, heads(4, 2)), (13, heads(3, 1))]
    };
    let sizes = shapes.iter().flat_map(|shape| FEATURES.map(|features| (*shape, features)));
    vec![Subject::new("rope", sizes, rope)]
}

fn rope(case: &mut Case, ((rows, heads), features): ((u32, Heads), Features)) {
    let width = heads.qkv_width();
    let weights = |case: &mut Case| {
        let numbers = padded(case.random.halves(HEAD_DIM as usize, 1.0), features.head_dim);
        case.put(&numbers)
    };
    let cache = cache(case, heads, rows);
    let slots = slots(case, rows);
    let op = Rope {
        qkv: qkv(case, rows, width, features),
        bias: features.bias.then(|| {
            let numbers = padded(case.random.halves(width as usize, 1.0), features.head_dim);
            case.put(&numbers)
        }),
        head_norms: features.norms.then(|| [weights(case), weights(case)]),
        head_dim: features.head_dim,
        eps: 1e-6,
        angles: angles(case),
        angle_rows: {
            let rows: Vec<i32> = (0..rows).map(|_| case.random.below(ANGLES) as i32).collect();
            case.put(&rows)
        },
        slots: case.put(&slots),
        query_scale: features.scaled.then(|| {
            let scales: Vec<f32> = (0..rows).map(|_| case.random.between(0.5, 2.0)).collect();
            case.put(&scales)
        }),
        q: case.room::<u16>(rows * heads.queries * HEAD_DIM).at,
        cache,
        heads,
        rows,
    };
    let queries = Compared::close("a query", View::rows_at(op.q, rows * heads.queries, HEAD_DIM), ROUNDED);
    let cached = |what, pool: Address| {
        let places = slots.iter().filter(|slot| **slot >= 0).flat_map(|slot| {
            let (block, token) = (*slot as u32 / BLOCK_TOKENS, *slot as u32 % BLOCK_TOKENS);
            (0..heads.kv).map(move |head| (block * heads.kv + head) * BLOCK_TOKENS + token)
        });
        let view = |place| View::rows_at(pool.offset(u64::from(place * HEAD_DIM) * 2), 1, HEAD_DIM);
        Compared::Close(what, places.map(|place| (view(place), view(place))).collect(), ROUNDED)
    };
    let compared = vec![queries, cached("a key", cache.keys()), cached("a value", cache.values())];
    let name = format!("rope {rows} rows, {} over {} heads, {}", heads.queries, heads.kv, features.name);
    case.check(name, Op::Rope(op), compared);
}

/// The second of three layers.
fn cache(case: &mut Case, heads: Heads, rows: u32) -> LayerCache {
    let none = Address(0);
    let blocks = rows.div_ceil(BLOCK_TOKENS) + 3;
    let pool = KvPool { keys: none, values: none, layers: 3, blocks, kv_heads: heads.kv };
    let bytes = pool.layer_bytes() * 3;
    let pool = KvPool { keys: case.image.room(bytes).at, values: case.image.room(bytes).at, ..pool };
    LayerCache { pool, layer: 1 }
}

/// Scattered; every fifth row's is none, but for the first's.
fn slots(case: &mut Case, rows: u32) -> Vec<i32> {
    let order = case.random.order((rows.div_ceil(BLOCK_TOKENS) + 3) * BLOCK_TOKENS);
    let slot = |(row, slot): (u32, u32)| if row % 5 == 4 { -1 - slot as i32 } else { slot as i32 };
    (0..rows).zip(order).map(slot).collect()
}

fn qkv(case: &mut Case, rows: u32, width: u32, features: Features) -> Sum {
    let count = (rows * width) as usize;
    if features.parts == 1 {
        let numbers = padded(case.random.halves(count, 1.0), features.head_dim);
        return Sum::Whole(Activations { at: case.put(&numbers), layout: Layout::Rows });
    }
    let stride = rows * width + 8;
    let part = |case: &mut Case| {
        let numbers = case.random.bell(count, 0.5);
        padded(numbers, features.head_dim).into_iter().chain([f32::NAN; 8])
    };
    let parts: Vec<f32> = (0..features.parts).flat_map(|_| part(case)).collect();
    Sum::Parts { at: case.put(&parts), count: features.parts, stride }
}

/// Half of a head's numbers stand at its beginning and half at its middle, and zeros behind each.
fn padded<T: bytemuck::Pod>(mut numbers: Vec<T>, head_dim: u32) -> Vec<T> {
    let padding = |place: usize| place % PAIRS as usize >= head_dim as usize / 2;
    numbers.iter_mut().enumerate().filter(|(place, _)| padding(*place)).for_each(|(_, number)| *number = T::zeroed());
    numbers
}

fn angles(case: &mut Case) -> Address {
    let angle = |case: &mut Case| case.random.between(0.0, std::f32::consts::TAU);
    let pairs: Vec<[f32; 2]> =
        (0..ANGLES * PAIRS).map(|_| angle(case).sin_cos()).map(|(sin, cos)| [cos, sin]).collect();
    case.put(&pairs)
}
