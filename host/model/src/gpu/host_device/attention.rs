//! Attention over the paged cache, of one token a row and of runs of new tokens.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use sluice_kernels::attention::{Path, Run, TILE_ROWS, Tile, starts};
use sluice_kernels::op::{DecodeAttention, HEAD_DIM, PrefillAttention};

use super::cache::{Cache, Context};
use super::fault::{Fault, expect, index, natural};
use super::memory::{Memory, element};
use super::numbers;
use super::product::dot;

const DIM: usize = HEAD_DIM as usize;

/// Of a block: there is a kernel for each.
const WARPS: [u32; 3] = [4, 6, 12];

pub(super) fn decode(op: &DecodeAttention, memory: &mut Memory) -> Result<(), Fault> {
    let cache = Cache::check(&op.cache, op.heads)?;
    let (rows, stride) = (op.rows as usize, op.table_stride as usize);
    let width = op.heads.queries as usize * DIM;
    let lengths: &[i32] = memory.read("lengths", op.lengths, rows)?;
    let tables: &[i32] = memory.read("tables", op.tables, rows.saturating_mul(stride))?;
    check_path(op, memory, lengths)?;
    let queries = numbers::read(memory, "q", op.q, rows.saturating_mul(width))?;
    let group = width / op.heads.kv as usize;
    let mut out = vec![0.0; queries.len()];
    out.par_chunks_mut(group).zip(queries.par_chunks(group)).enumerate().try_for_each(|(index, (out, queries))| {
        let (row, head) = (index / op.heads.kv as usize, index % op.heads.kv as usize);
        let length = length(lengths[row])?;
        let context = cache.context(memory, &tables[row * stride..][..stride], length, head)?;
        attend(queries, &context, length, op.scale, out);
        Ok(())
    })?;
    numbers::write_rows(memory, "out", op.out, width, &out)
}

fn length(length: i32) -> Result<usize, Fault> {
    natural("lengths", length)
}

/// The work that is shared out by where rows start has to be told the truth.
fn check_path(op: &DecodeAttention, memory: &Memory, lengths: &[i32]) -> Result<(), Fault> {
    match op.path {
        Path::Split { warps, splits } => {
            let known = WARPS.contains(&warps) && (1..=Path::MOST_SPLITS).contains(&splits);
            expect(known, "path", || {
                format!("has {splits} splits of {warps} warps, expected 1 to {} of {WARPS:?}", Path::MOST_SPLITS)
            })
        }
        Path::Spread => {
            let found: &[i32] = memory.read("starts", op.starts, lengths.len() + 1)?;
            let lengths = lengths.iter().map(|tokens| length(*tokens).map(|tokens| tokens as u32));
            let lengths = lengths.collect::<Result<Vec<_>, _>>()?;
            let right = starts(&lengths, op.heads.kv).map(i64::from).eq(found.iter().map(|start| i64::from(*start)));
            expect(right, "starts", || format!("are {found:?}, which is not what the lengths {lengths:?} make"))
        }
    }
}

pub(super) fn prefill(op: &PrefillAttention, memory: &mut Memory) -> Result<(), Fault> {
    let cache = Cache::check(&op.cache, op.heads)?;
    let width = op.heads.queries as usize * DIM;
    let tiles: &[Tile] = memory.read("tiles", op.tiles, op.tile_count as usize)?;
    let tiles = tiles.iter().map(|tile| NewTokens::read(op, memory, tile)).collect::<Result<Vec<_>, _>>()?;
    let attended = tiles.par_iter().map(|tile| Ok((tile.row, tile.attend(op, memory, &cache)?)));
    for (row, numbers) in attended.collect::<Result<Vec<_>, _>>()? {
        numbers::write(memory, "out", element::<u16>(op.out, row * width), &numbers)?;
    }
    Ok(())
}

/// Those of a tile.
struct NewTokens<'a> {
    row: usize,
    count: usize,
    /// Of the first.
    position: usize,
    table: &'a [i32],
}

impl<'a> NewTokens<'a> {
    fn read(op: &PrefillAttention, memory: &'a Memory, tile: &Tile) -> Result<Self, Fault> {
        let sequence = natural("tiles", tile.run)?;
        let run_at = element::<Run>(op.runs, sequence);
        let run = memory.read::<Run>("runs", run_at, 1)?[0];
        let (count, start) = (natural("runs", run.count)?, natural("runs", run.start)?);
        let (first, row) = (index("tiles", tile.first, count)?, natural("runs", run.first_row)?);
        expect(first.is_multiple_of(TILE_ROWS as usize), "tiles", || format!("begin at {first} of a run"))?;
        let stride = op.table_stride as usize;
        let table_at = element::<i32>(op.tables, sequence * stride);
        Ok(Self {
            row: row + first,
            count: (count - first).min(TILE_ROWS as usize),
            position: start + first,
            table: memory.read("tables", table_at, stride)?,
        })
    }

    /// `[token][query head][DIM]`.
    fn attend(&self, op: &PrefillAttention, memory: &Memory, cache: &Cache) -> Result<Vec<f32>, Fault> {
        let (heads, width) = (op.heads.kv as usize, op.heads.queries as usize * DIM);
        let group = width / heads;
        let at = element::<u16>(op.q, self.row * width);
        let queries = numbers::read(memory, "q", at, self.count * width)?;
        let mut out = vec![0.0; queries.len()];
        for head in 0..heads {
            let context = cache.context(memory, self.table, self.position + self.count, head)?;
            let rows = queries.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate();
            for (token, (queries, out)) in rows {
                let part = head * group..(head + 1) * group;
                attend(&queries[part.clone()], &context, self.position + token + 1, op.scale, &mut out[part]);
            }
        }
        Ok(out)
    }
}

/// Queries that share a head of keys attend to its first `length` tokens; to none, and zeros come of it.
fn attend(queries: &[f32], context: &Context, length: usize, scale: f32, out: &mut [f32]) {
    let (keys, values) = (&context.keys[..length * DIM], &context.values[..length * DIM]);
    for (query, out) in queries.chunks_exact(DIM).zip(out.chunks_exact_mut(DIM)) {
        Arch::new().dispatch(Attend { query, keys, values, scale, out });
    }
}

struct Attend<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mut weights: Vec<f32> = self.keys.chunks_exact(DIM).map(|key| dot(self.query, key) * self.scale).collect();
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        weights.iter_mut().for_each(|weight| *weight = (*weight - max).exp());
        let total: f32 = weights.iter().sum();
        for (weight, values) in weights.iter().zip(self.values.chunks_exact(DIM)) {
            let share = weight / total;
            self.out.iter_mut().zip(values).for_each(|(out, value)| *out = share.mul_add(*value, *out));
        }
    }
}
