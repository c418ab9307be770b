//! The operations that a step is made of. Activations are bf16; heads are [`HEAD_DIM`] wide, and blocks of the KV cache
//! hold [`BLOCK_TOKENS`] tokens.

use crate::attention::Path;
use crate::product;
use crate::{Address, Layout, Matrix};

/// Narrower heads are padded with zeros where the weights are loaded.
pub const HEAD_DIM: u32 = 128;

pub const BLOCK_TOKENS: u32 = 16;

/// Rows that an operation may have: turning queries and keys has them in a dimension of a launch that goes no further.
pub const MOST_ROWS: u32 = 65_535;

/// One launch, or two where a card wants it so. Counts are of what is computed, padding included.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    Embed(Embed),
    Norm(Norm),
    Product(Product),
    Dequantize(Dequantize),
    Rope(Rope),
    DecodeAttention(DecodeAttention),
    PrefillAttention(PrefillAttention),
    SiluMul(SiluMul),
    Gather(Gather),
    Widen(Widen),
    Count(Count),
    Sample(Sample),
}

/// bf16 numbers, row after row or as a wide product reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activations {
    pub at: Address,
    pub layout: Layout,
}

/// What a product has made, for whoever takes it next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// bf16.
    Whole(Activations),
    /// f32, in rows: `count` matrices whose sum is meant, each `stride` numbers behind the one before.
    Parts { at: Address, count: u32, stride: u32 },
}

/// `hidden[r] = table[token of r]`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Embed {
    /// i32 `[rows]`; -1 - i is what was drawn last in row i of `drawn`.
    pub tokens: Address,
    pub drawn: Address,
    pub table: Address,
    pub hidden: Address,
    pub rows: u32,
    pub width: u32,
}

/// hidden += delta; out = hidden / rms(hidden) · weight (Zhang and Sennrich, arXiv 1910.07467).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Norm {
    /// In rows.
    pub hidden: Address,
    /// In rows.
    pub delta: Option<Sum>,
    pub weight: Address,
    pub out: Activations,
    pub rows: u32,
    pub width: u32,
    pub eps: f32,
}

/// y = x · Wᵀ. With `silu`, eight outputs of the gate and the eight that they gate follow each other, and y = silu(gate)
/// · up, half as wide.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Product {
    pub matrix: Matrix,
    pub kernel: product::Launch,
    pub silu: bool,
    pub x: Activations,
    pub y: Sum,
    pub rows: u32,
}

/// out = W in bf16, row-major, for a product that takes nothing else.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Dequantize {
    pub matrix: Matrix,
    pub scales: BlockScales,
    pub out: Address,
}

/// What the weights of a matrix are dequantised with. Products read the matrix' own scales, of f16 where it is `Nf4`; with
/// the others its weights are bitsandbytes' to the bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockScales {
    Own,
    /// f32, in the order of the matrix' own.
    F32(Address),
    /// A block's scale is `map[code] · largest + offset`, both of its group.
    Nested(NestedScales),
}

/// The scales of NF4 weights, quantised themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedScales {
    /// u8, in the order of the matrix' own.
    pub codes: Address,
    /// f32 `[256]`.
    pub map: Address,
    /// f32 pairs: largest and offset of each group of 256 blocks.
    pub groups: Address,
    /// i32 `[outputs]`: the first block of each row, where the blocks of group `i` are those from `256 i` on.
    pub first_blocks: Address,
}

/// What each head of one token becomes before attention: with its bias, normalised, turned (the first half of a head with
/// its second), the queries scaled; keys and values go to the cache.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rope {
    /// In rows: queries, keys, values.
    pub qkv: Sum,
    pub bias: Option<Address>,
    /// Weights for each head of the queries and of the keys.
    pub head_norms: Option<[Address; 2]>,
    /// Numbers of a head that are not padding.
    pub head_dim: u32,
    pub eps: f32,
    /// f32 pairs of cosine and sine, `HEAD_DIM / 2` a row.
    pub angles: Address,
    /// i32 `[rows]`, into `angles`.
    pub angle_rows: Address,
    /// i32 `[rows]`: block · BLOCK_TOKENS + offset; negative where nothing is written.
    pub slots: Address,
    /// f32 `[rows]`.
    pub query_scale: Option<Address>,
    /// `[rows][heads][HEAD_DIM]`.
    pub q: Address,
    pub cache: LayerCache,
    pub heads: Heads,
    pub rows: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    pub queries: u32,
    /// Of keys and values. Divides the queries', at most eight of them to each.
    pub kv: u32,
}

/// Keys and values of all layers, both alike: `[layer][block][kv head][BLOCK_TOKENS][HEAD_DIM]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KvPool {
    pub keys: Address,
    pub values: Address,
    pub layers: u32,
    pub blocks: u32,
    pub kv_heads: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerCache {
    pub pool: KvPool,
    pub layer: u32,
}

/// Of one token a row, all of whose context is in the cache.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DecodeAttention {
    /// `[rows][heads][HEAD_DIM]`.
    pub q: Address,
    pub cache: LayerCache,
    /// i32 `[rows][table_stride]`.
    pub tables: Address,
    pub table_stride: u32,
    /// i32 `[rows]`: tokens of the context, its own included; 0 gives zeros.
    pub lengths: Address,
    /// i32 `[rows + 1]`: what [`crate::attention::starts`] says.
    pub starts: Address,
    pub out: Activations,
    pub path: Path,
    pub heads: Heads,
    pub rows: u32,
    /// Of a score before its exponential, which is natural.
    pub scale: f32,
}

/// Of runs of new tokens, each behind the context of its sequence.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PrefillAttention {
    /// `[rows][heads][HEAD_DIM]`; so is `out`, whose other rows stay as they are.
    pub q: Address,
    pub out: Address,
    pub cache: LayerCache,
    /// i32 `[sequences][table_stride]`.
    pub tables: Address,
    pub table_stride: u32,
    /// [`crate::attention::Run`]s.
    pub runs: Address,
    /// [`crate::attention::Tile`]s.
    pub tiles: Address,
    pub tile_count: u32,
    pub heads: Heads,
    pub scale: f32,
}

/// out = silu(gate) · up, of rows in which eight of the gate and eight of the other follow each other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SiluMul {
    pub gate_up: Address,
    pub out: Activations,
    pub rows: u32,
    /// Of `out`.
    pub width: u32,
}

/// `out[r] = from[indices[r]]`, in rows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Gather {
    pub from: Address,
    /// i32 `[rows]`.
    pub indices: Address,
    pub out: Address,
    pub rows: u32,
    pub width: u32,
}

/// The same numbers, from rows to the layout of wide products of so many rows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Widen {
    pub from: Address,
    pub out: Address,
    pub rows: u32,
    pub width: u32,
}

/// Counts the tokens that the draws of some sequences penalise.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Count {
    /// i32.
    pub tokens: Address,
    /// [`crate::sampling::CountSpan`]s.
    pub spans: Address,
    pub span_count: u32,
    /// u32 `[slot][vocab]`.
    pub counts: Address,
    pub vocab: u32,
}

/// Draws a token after each row of logits, by the rules of [`crate::sampling`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// bf16 `[rows][stride]`.
    pub logits: Address,
    pub stride: u32,
    pub vocab: u32,
    /// [`crate::sampling::SampleRow`]s.
    pub draws: Address,
    /// i32 `[rows]`: of the token that the logits follow; the drawn one comes after it.
    pub positions: Address,
    /// i32, and f32.
    pub bias_tokens: Address,
    pub bias_values: Address,
    /// i32.
    pub forbidden: Address,
    /// u32 `[slot][vocab]`; what is drawn is added.
    pub counts: Address,
    /// i32 `[rows]`: the tokens that were drawn.
    pub drawn: Address,
    /// [`crate::sampling::SampleResult`]s.
    pub results: Address,
    /// i32 and f32 `[rows][TOP]`, most likely first.
    pub top_tokens: Address,
    pub top_logprobs: Address,
    pub rows: u32,
}

impl KvPool {
    /// Of the keys of one layer, in bytes.
    pub fn layer_bytes(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.kv_heads * BLOCK_TOKENS * HEAD_DIM) * 2
    }

    /// Of keys and values of all layers.
    pub fn bytes_per_block(layers: u32, kv_heads: u32) -> u64 {
        4 * u64::from(layers) * u64::from(kv_heads) * u64::from(BLOCK_TOKENS * HEAD_DIM)
    }
}

impl LayerCache {
    pub fn keys(&self) -> Address {
        self.pool.keys.offset(u64::from(self.layer) * self.pool.layer_bytes())
    }

    pub fn values(&self) -> Address {
        self.pool.values.offset(u64::from(self.layer) * self.pool.layer_bytes())
    }
}

impl Heads {
    /// Queries, keys and values of one token.
    pub fn qkv_width(&self) -> u32 {
        (self.queries + 2 * self.kv) * HEAD_DIM
    }
}
