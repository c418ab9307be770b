//! One layer of the paged cache: `[block][kv head][token][dim]`, keys and values alike.

use sluice_kernels::Address;
use sluice_kernels::op::{BLOCK_TOKENS, HEAD_DIM, Heads, LayerCache};

use super::fault::{Fault, expect, index};
use super::memory::{Memory, element};
use super::numbers::{narrow, widen};

const DIM: usize = HEAD_DIM as usize;

pub(super) const BLOCK: usize = BLOCK_TOKENS as usize;

/// Queries that share a head of keys, at most: a kernel has no room for more.
const MOST_QUERIES: u32 = 8;

pub(super) struct Cache {
    keys: Address,
    values: Address,
    blocks: usize,
    heads: usize,
}

/// One head's keys and values of the first tokens of a sequence, `[token][DIM]`.
pub(super) struct Context {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl Cache {
    pub(super) fn check(cache: &LayerCache, heads: Heads) -> Result<Self, Fault> {
        let pool = &cache.pool;
        expect(cache.layer < pool.layers, "cache", || {
            format!("has {} layers and no layer {}", pool.layers, cache.layer)
        })?;
        expect(pool.kv_heads == heads.kv, "cache", || {
            format!("has {} heads of keys, expected {}", pool.kv_heads, heads.kv)
        })?;
        let shared = heads.queries.checked_div(heads.kv).filter(|_| heads.queries.is_multiple_of(heads.kv));
        expect(shared.is_some_and(|shared| (1..=MOST_QUERIES).contains(&shared)), "heads", || {
            format!("are {} for {} heads of keys, expected 1 to {MOST_QUERIES} for each", heads.queries, heads.kv)
        })?;
        let (keys, values) = (cache.keys(), cache.values());
        Ok(Self { keys, values, blocks: pool.blocks as usize, heads: heads.kv as usize })
    }

    /// Places for tokens.
    pub(super) fn slots(&self) -> usize {
        self.blocks * BLOCK
    }

    /// One token's, all heads.
    pub(super) fn write(&self, memory: &mut Memory, slot: usize, keys: &[f32], values: &[f32]) -> Result<(), Fault> {
        for (field, pool, numbers) in [("cache.keys", self.keys, keys), ("cache.values", self.values, values)] {
            for (head, numbers) in numbers.chunks_exact(DIM).enumerate() {
                let at = element::<u16>(self.place(pool, slot / BLOCK, head), slot % BLOCK * DIM);
                let out: &mut [u16] = memory.write_many(field, at, DIM)?;
                out.iter_mut().zip(numbers).for_each(|(out, number)| *out = narrow(*number));
            }
        }
        Ok(())
    }

    /// One head's part of the tokens of a sequence with this table of blocks; only what is meant is read.
    pub(super) fn context(&self, memory: &Memory, table: &[i32], length: usize, head: usize) -> Result<Context, Fault> {
        let covered = table.len() * BLOCK;
        expect(length <= covered, "tables", || format!("cover {covered} tokens, and a context has {length}"))?;
        let mut context = Context { keys: Vec::new(), values: Vec::new() };
        for (block, first) in table.iter().zip((0..length).step_by(BLOCK)) {
            let block = index("tables", *block, self.blocks)?;
            let count = BLOCK.min(length - first) * DIM;
            let (keys, values) = (self.place(self.keys, block, head), self.place(self.values, block, head));
            context.keys.extend(memory.read_many("cache.keys", keys, count)?.iter().copied().map(widen));
            context.values.extend(memory.read_many("cache.values", values, count)?.iter().copied().map(widen));
        }
        Ok(context)
    }

    fn place(&self, pool: Address, block: usize, head: usize) -> Address {
        element::<u16>(pool, (block * self.heads + head) * BLOCK * DIM)
    }
}
