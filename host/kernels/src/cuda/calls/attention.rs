//! Rotary embedding with the write to the cache, and both kinds of attention.

use std::f32::consts::LOG2_E;

use super::{Call, Launch, Site, is_wide, refuse, require};
use crate::attention::Path;
use crate::cuda::args::{AttentionArgs, MAP_TOKENS, PrefillArgs, RopeArgs, TensorMap};
use crate::op::{BLOCK_TOKENS, DecodeAttention, HEAD_DIM, Heads, LayerCache, MOST_ROWS, PrefillAttention, Rope};
use crate::{Address, DeviceError};

/// The second size of a grid, which heads of keys are in as well as rows, goes up to here.
const MOST_GRID: u32 = MOST_ROWS;

/// Of a block that turns, each with a warp.
const ROPE_HEADS: u32 = 4;

const ROPE_THREADS: u32 = 32 * ROPE_HEADS;

/// A kernel's tile of queries has room for so many of one head of keys.
const MOST_GROUP: u32 = 8;

/// To each multiprocessor: with more of them, the kernel's registers do not suffice.
const SPREAD_BLOCKS: u32 = 2;

pub(super) fn rope(op: &Rope, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    require(op.rows <= MOST_ROWS, || format!("rotary embedding of {} rows: at most {MOST_ROWS}", op.rows))?;
    require((1..=HEAD_DIM).contains(&op.head_dim), || format!("rotary embedding of heads of {}", op.head_dim))?;
    let qkv = site.sum_in_rows("queries, keys and values", Some(op.qkv))?;
    let arguments = RopeArgs {
        qkv: qkv.whole,
        parts: qkv.parts,
        bias: site.at_any(op.bias),
        q_norm: site.at_any(op.head_norms.map(|[queries, _]| queries)),
        k_norm: site.at_any(op.head_norms.map(|[_, keys]| keys)),
        cos_sin: site.at(op.angles),
        angle_rows: site.at(op.angle_rows),
        slots: site.at(op.slots),
        q: site.at(op.q),
        k_cache: site.at(op.cache.keys()),
        v_cache: site.at(op.cache.values()),
        heads: op.heads.queries,
        kv_heads: op.heads.kv,
        splits: qkv.count,
        split_stride: qkv.stride,
        eps: op.eps,
        head_dim: op.head_dim,
        query_scale: site.at_any(op.query_scale),
    };
    let all = op.heads.queries + 2 * op.heads.kv;
    if op.rows > 0 {
        let grid = [all.div_ceil(ROPE_HEADS), op.rows, 1];
        calls.push(Call::Kernel(Launch::new("rope_kv", grid, ROPE_THREADS, &arguments)));
    }
    Ok(())
}

/// Several launches where one has no room for what its blocks leave to each other.
pub(super) fn decode(op: &DecodeAttention, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    grouped(op.heads)?;
    let splits = if let Path::Split { splits, .. } = op.path { splits } else { 1 };
    let together = site.workspace.split_rows(op.heads.kv, splits);
    require(together > 0 && splits > 0, || format!("decode attention with {:?}, {:?}", op.path, op.heads))?;
    for first in (0..op.rows).step_by(together as usize) {
        calls.push(Call::Kernel(decode_rows(op, first, together.min(op.rows - first), site)?));
    }
    Ok(())
}

fn decode_rows(op: &DecodeAttention, first: u32, rows: u32, site: Site<'_>) -> Result<Launch, DeviceError> {
    let width = op.heads.queries * HEAD_DIM;
    let (out_row, out_oct) = op.out.layout.strides(width);
    let (kernel, grid) = match op.path {
        Path::Split { warps: 12, splits } => ("decode_attention_12", [splits, op.heads.kv, rows]),
        Path::Split { warps: 6, splits } => ("decode_attention_6", [splits, op.heads.kv, rows]),
        Path::Split { warps, .. } => return Err(refuse(format!("no decode attention has {warps} warps"))),
        Path::Spread => ("decode_attention_spread", [SPREAD_BLOCKS * site.card.multiprocessors, 1, 1]),
    };
    let behind = |address: Address, bytes: u32| site.at(address) + u64::from(first) * u64::from(bytes);
    let arguments = AttentionArgs {
        q: behind(op.q, width * 2),
        k_cache: site.at(op.cache.keys()),
        v_cache: site.at(op.cache.values()),
        tables: behind(op.tables, op.table_stride * 4),
        lengths: behind(op.lengths, 4),
        out: behind(op.out.at, out_row * 2),
        partial: site.workspace.attention_partial(),
        arrivals: site.workspace.arrivals(),
        heads: op.heads.queries,
        kv_heads: op.heads.kv,
        table_stride: op.table_stride,
        splits: if op.path == Path::Spread { 1 } else { grid[0] },
        out_row,
        out_oct,
        wide: is_wide(op.out),
        scale: op.scale * LOG2_E,
        starts: behind(op.starts, 4),
        batch: rows,
        padding: 0,
    };
    Ok(Launch::as_compiled(kernel, grid, &arguments))
}

pub(super) fn prefill(op: &PrefillAttention, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    grouped(op.heads)?;
    let items = op.tile_count.checked_mul(op.heads.queries);
    let items = items.ok_or_else(|| refuse(format!("prefill attention of {} tiles", op.tile_count)))?;
    if items == 0 {
        return Ok(());
    }
    // The one with wgmma hands the items out itself.
    let (kernel, blocks) = match site.card.has_wgmma() {
        true => ("prefill_wgmma", items.min(site.card.multiprocessors)),
        false => ("prefill_mma", items),
    };
    let [k_map, v_map] = maps(op.cache, site)?;
    let arguments = PrefillArgs {
        k_map,
        v_map,
        q: site.at(op.q),
        k_cache: site.at(op.cache.keys()),
        v_cache: site.at(op.cache.values()),
        out: site.at(op.out),
        tables: site.at(op.tables),
        sequences: site.at(op.runs),
        tiles: site.at(op.tiles),
        // The queries are scaled where they are turned.
        query_scale: 0,
        heads: op.heads.queries,
        kv_heads: op.heads.kv,
        table_stride: op.table_stride,
        tile_count: op.tile_count,
        first_group: first_group(op.cache)?,
        scale: op.scale * LOG2_E,
        padding: [0; 5],
    };
    calls.push(Call::Kernel(Launch::as_compiled(kernel, [blocks, 1, 1], &arguments)));
    Ok(())
}

/// Those of the pool; where nothing reads them, zeros.
fn maps(cache: LayerCache, site: Site<'_>) -> Result<[TensorMap; 2], DeviceError> {
    match site.maps.get(&cache.pool) {
        Some(maps) => Ok(*maps),
        None if site.card.has_wgmma() => Err(refuse("prefill attention over a cache without tensor maps")),
        None => Ok([TensorMap([0; 16]); 2]),
    }
}

/// Where the layer begins within the pool's maps.
fn first_group(cache: LayerCache) -> Result<u32, DeviceError> {
    let pool = cache.pool;
    let groups = u64::from(pool.kv_heads) * u64::from(BLOCK_TOKENS / MAP_TOKENS) * u64::from(pool.blocks);
    let first = groups * u64::from(cache.layer);
    i32::try_from(first).map(|_| first as u32).map_err(|_| refuse(format!("{pool:?} is too large for tensor maps")))
}

fn grouped(heads: Heads) -> Result<(), DeviceError> {
    let Heads { queries, kv } = heads;
    let fits = kv > 0 && queries.is_multiple_of(kv) && queries / kv <= MOST_GROUP && kv <= MOST_GRID;
    require(fits, || format!("attention of {queries} heads over {kv}: at most {MOST_GROUP} to each"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tests::{MEMORY, launches, planned, planned_with};
    use super::*;
    use crate::op::{Activations, KvPool, Sum};
    use crate::{Card, Layout, Op};

    const HEADS: Heads = Heads { queries: 40, kv: 8 };

    fn cache() -> LayerCache {
        let pool = KvPool { keys: Address(1 << 20), values: Address(1 << 24), layers: 4, blocks: 10, kv_heads: 8 };
        LayerCache { pool, layer: 3 }
    }

    fn decode_op(rows: u32, path: Path, layout: Layout) -> DecodeAttention {
        DecodeAttention {
            q: Address(1 << 30),
            cache: cache(),
            tables: Address(0x1000),
            table_stride: 32,
            lengths: Address(0x2000),
            starts: Address(0x3000),
            out: Activations { at: Address(1 << 31), layout },
            path,
            heads: HEADS,
            rows,
            scale: 0.25,
        }
    }

    fn decode_launches(rows: u32, path: Path, layout: Layout) -> Vec<(&'static str, [u32; 3], AttentionArgs)> {
        launches(&planned(&Card::h200(), Op::DecodeAttention(decode_op(rows, path, layout))).expect("it is launched"))
    }

    #[test]
    fn rows_are_cut_where_a_launch_has_no_room_for_more() {
        let check = |rows, path, layout, expected: &[u32]| {
            let found = decode_launches(rows, path, layout);
            assert_eq!(found.iter().map(|(_, _, arguments)| arguments.batch).collect::<Vec<_>>(), expected);
            let mut first = 0;
            for (_, grid, arguments) in found {
                let behind = |bytes: u64| MEMORY + first * bytes;
                assert_eq!(arguments.q, behind(40 * 256) + (1 << 30));
                assert_eq!(arguments.tables, behind(32 * 4) + 0x1000);
                assert_eq!((arguments.lengths, arguments.starts), (behind(4) + 0x2000, behind(4) + 0x3000));
                let out_row = if layout == Layout::Rows { 40 * 256 } else { 16 };
                assert_eq!(arguments.out, behind(out_row) + (1 << 31));
                assert_eq!(arguments.scale.to_bits(), (0.25 * LOG2_E).to_bits());
                match path {
                    Path::Split { splits, .. } => assert_eq!(grid, [splits, 8, arguments.batch]),
                    Path::Spread => assert_eq!(grid, [264, 1, 1]),
                }
                first += u64::from(arguments.batch);
            }
        };
        check(0, Path::Spread, Layout::Rows, &[]);
        check(256, Path::Spread, Layout::Wide { rows: 256 }, &[256]);
        check(600, Path::Spread, Layout::Rows, &[256, 256, 88]);
        check(3, Path::Split { warps: 12, splits: 16 }, Layout::Rows, &[3]);
        check(100, Path::Split { warps: 6, splits: 16 }, Layout::Rows, &[63, 37]);
        check(300, Path::Split { warps: 6, splits: 1 }, Layout::Rows, &[256, 44]);
    }

    #[test]
    fn heads_and_warps_that_no_kernel_has_are_refused() {
        let refused = |change: &dyn Fn(&mut DecodeAttention)| {
            let mut op = decode_op(1, Path::Spread, Layout::Rows);
            change(&mut op);
            planned(&Card::h200(), Op::DecodeAttention(op)).expect_err("it is refused").to_string()
        };
        assert!(refused(&|op| op.heads.kv = 0).contains("40 heads over 0"));
        assert!(refused(&|op| op.heads.kv = 4).contains("40 heads over 4: at most 8"));
        assert!(refused(&|op| op.heads.kv = 7).contains("40 heads over 7"));
        assert!(refused(&|op| op.path = Path::Split { warps: 5, splits: 1 }).contains("5 warps"));
        assert!(refused(&|op| op.path = Path::Split { warps: 6, splits: 0 }).contains("splits: 0"));
    }

    #[test]
    fn prefill_is_by_items_or_by_multiprocessors() {
        let op = |tile_count| {
            Op::PrefillAttention(PrefillAttention {
                q: Address(0),
                out: Address(0),
                cache: cache(),
                tables: Address(0),
                table_stride: 32,
                runs: Address(0),
                tiles: Address(0),
                tile_count,
                heads: HEADS,
                scale: 1.0,
            })
        };
        let some = [TensorMap([7; 16]), TensorMap([9; 16])];
        let maps = HashMap::from([(cache().pool, some)]);
        let launch = |card: &Card, tiles| {
            launches::<PrefillArgs>(&planned_with(card, op(tiles), &maps).expect("it is launched"))
        };
        let (name, grid, arguments) = launch(&Card::h200(), 3)[0];
        assert_eq!((name, grid, [arguments.k_map, arguments.v_map]), ("prefill_wgmma", [120, 1, 1], some));
        assert_eq!(arguments.first_group, 3 * 10 * 8 * 2);
        assert_eq!(arguments.k_cache, MEMORY + (1 << 20) + 3 * 10 * 8 * 16 * 128 * 2);
        assert_eq!(launch(&Card::h200(), 100)[0].1, [132, 1, 1]);
        assert!(launch(&Card::h200(), 0).is_empty());
        let (name, grid, _) =
            launches::<PrefillArgs>(&planned(&Card::rtx_4090(), op(100)).expect("it needs no maps"))[0];
        assert_eq!((name, grid), ("prefill_mma", [4000, 1, 1]));
        assert!(planned(&Card::h200(), op(1)).is_err());
    }

    #[test]
    fn turning_takes_a_warp_for_each_head() {
        let op = |rows| {
            Op::Rope(Rope {
                qkv: Sum::Parts { at: Address(64), count: 2, stride: 9 },
                bias: None,
                head_norms: Some([Address(256), Address(512)]),
                head_dim: 64,
                eps: 1e-6,
                angles: Address(0),
                angle_rows: Address(0),
                slots: Address(0),
                query_scale: None,
                q: Address(0),
                cache: cache(),
                heads: HEADS,
                rows,
            })
        };
        let (name, grid, arguments) =
            launches::<RopeArgs>(&planned(&Card::rtx_4090(), op(5)).expect("it is launched"))[0];
        assert_eq!((name, grid), ("rope_kv", [14, 5, 1]));
        assert_eq!((arguments.qkv, arguments.parts, arguments.splits), (0, MEMORY + 64, 2));
        assert_eq!((arguments.bias, arguments.q_norm, arguments.k_norm), (0, MEMORY + 256, MEMORY + 512));
        assert_eq!((arguments.query_scale, arguments.head_dim), (0, 64));
        assert!(planned(&Card::rtx_4090(), op(70_000)).is_err());
    }
}
