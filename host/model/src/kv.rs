//! The paged cache of keys and values: one pool per layer, taken whole at the start.

use crate::memory::reserve;
use crate::model::Dimensions;

/// Blocks that sequences hold through their block tables; who holds which is the engine's business.
pub struct KvCache {
    layers: Vec<KvLayer>,
}

/// Per block and head, the keys as `[head_dim, block_tokens]`, so that the scores of neighbours are computed side by
/// side, and the values as `[block_tokens, head_dim]`.
pub(crate) struct KvLayer {
    keys: Vec<f32>,
    values: Vec<f32>,
    heads: usize,
    head_dim: usize,
    block_tokens: usize,
}

/// One head's part of a block.
pub(crate) struct KvHead<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) tokens: usize,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{blocks} KV blocks of {block_tokens} tokens do not fit in memory: reserve fewer blocks")]
pub struct KvTooLarge {
    pub blocks: u32,
    pub block_tokens: u32,
}

impl KvCache {
    pub(crate) fn new(size: &Dimensions, blocks: u32, block_tokens: u32) -> Result<Self, KvTooLarge> {
        let too_large = KvTooLarge { blocks, block_tokens };
        let layer = || KvLayer::new(size, blocks as usize, block_tokens as usize);
        let layers = (0..size.layers).map(|_| layer()).collect::<Option<_>>();
        Ok(Self { layers: layers.ok_or(too_large)? })
    }

    /// What [`Self::new`] reserves, at most 2^64 - 1.
    pub(crate) fn bytes(size: &Dimensions, blocks: u32, block_tokens: u32) -> u64 {
        let per_token = (2 * size.layers * size.kv_heads * size.head_dim * size_of::<f32>()) as u64;
        (u64::from(blocks) * u64::from(block_tokens)).saturating_mul(per_token)
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [KvLayer] {
        &mut self.layers
    }
}

impl KvLayer {
    fn new(size: &Dimensions, blocks: usize, block_tokens: usize) -> Option<Self> {
        let per_token = size.kv_heads * size.head_dim;
        let length = blocks.checked_mul(block_tokens)?.checked_mul(per_token)?;
        Some(Self {
            keys: reserve(length)?,
            values: reserve(length)?,
            heads: size.kv_heads,
            head_dim: size.head_dim,
            block_tokens,
        })
    }

    /// One token's keys and values, all heads, at its position.
    pub(crate) fn write(&mut self, block: u32, position: usize, key: &[f32], value: &[f32]) {
        let (offset, dim) = (position % self.block_tokens, self.head_dim);
        let heads = key.chunks_exact(dim).zip(value.chunks_exact(dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = self.start(block, head);
            let keys = &mut self.keys[start..start + dim * self.block_tokens];
            for (column, key) in keys.chunks_exact_mut(self.block_tokens).zip(key) {
                column[offset] = *key;
            }
            self.values[start + offset * dim..][..dim].copy_from_slice(value);
        }
    }

    #[inline(always)]
    pub(crate) fn head(&self, block: u32, head: usize) -> KvHead<'_> {
        let start = self.start(block, head);
        let length = self.head_dim * self.block_tokens;
        KvHead {
            keys: &self.keys[start..start + length],
            values: &self.values[start..start + length],
            tokens: self.block_tokens,
        }
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    #[inline(always)]
    fn start(&self, block: u32, head: usize) -> usize {
        (block as usize * self.heads + head) * self.head_dim * self.block_tokens
    }
}
