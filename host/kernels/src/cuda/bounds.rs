//! Refuses operations that would reach beyond the device's memory, as far as they say how much they read and write.
//!
//! What they do not say is what they are told on the card: tokens, blocks, slots and positions.

use crate::op::{
    Activations, BlockScales, Count, DecodeAttention, Dequantize, Embed, Gather, HEAD_DIM, LayerCache, Norm,
    PrefillAttention, Product, Rope, Sample, SiluMul, Sum, Widen,
};
use crate::sampling::{CountSpan, SampleResult, SampleRow, TOP};
use crate::{Address, DeviceError, Layout, Matrix, Op, Region, TILE, attention};

/// What kernels read and write at a time, and so what all rows begin at a multiple of.
const OCT: u64 = 16;

/// Kernels count in signed numbers.
const MOST: u64 = i32::MAX as u64;

/// `op` on a device with so many bytes.
pub(super) fn check(op: &Op, memory: u64) -> Result<(), DeviceError> {
    let bounds = Bounds { memory };
    match op {
        Op::Embed(op) => bounds.embed(op),
        Op::Norm(op) => bounds.norm(op),
        Op::Product(op) => bounds.product(op),
        Op::Dequantize(op) => bounds.dequantize(op),
        Op::Rope(op) => bounds.rope(op),
        Op::DecodeAttention(op) => bounds.decode(op),
        Op::PrefillAttention(op) => bounds.prefill(op),
        Op::SiluMul(op) => bounds.silu_mul(op),
        Op::Gather(op) => bounds.gather(op),
        Op::Widen(op) => bounds.widen(op),
        Op::Count(op) => bounds.count(op),
        Op::Sample(op) => bounds.sample(op),
    }
}

/// A region that is copied from or to.
pub(super) fn within(what: &str, region: Region, memory: u64) -> Result<(), DeviceError> {
    match region.at.0.checked_add(region.bytes) {
        Some(end) if end <= memory => Ok(()),
        _ => Err(DeviceError(format!("{what}: {} bytes from {} on, of {memory}", region.bytes, region.at.0))),
    }
}

struct Bounds {
    memory: u64,
}

impl Bounds {
    fn embed(&self, op: &Embed) -> Result<(), DeviceError> {
        self.numbers("embedding's tokens", op.tokens, op.rows)?;
        self.numbers("embedding's drawn tokens", op.drawn, 1)?;
        self.rows("embedding's table", op.table, 1, op.width)?;
        self.rows("embedding", op.hidden, op.rows, op.width)
    }

    fn norm(&self, op: &Norm) -> Result<(), DeviceError> {
        self.rows("norm's hidden state", op.hidden, op.rows, op.width)?;
        op.delta.map_or(Ok(()), |delta| self.sum("norm's addend", delta, op.rows, op.width))?;
        self.rows("norm's weights", op.weight, 1, op.width)?;
        self.activations("norm", op.out, op.rows, op.width)
    }

    fn product(&self, op: &Product) -> Result<(), DeviceError> {
        self.matrix("product's weights", &op.matrix)?;
        self.activations("product's input", op.x, op.rows, op.matrix.inputs)?;
        let outputs = if op.silu { op.matrix.outputs / 2 } else { op.matrix.outputs };
        self.sum("product", op.y, op.rows, outputs)
    }

    fn dequantize(&self, op: &Dequantize) -> Result<(), DeviceError> {
        self.matrix("quantised weights", &op.matrix)?;
        self.block_scales(op)?;
        self.rows("dequantised weights", op.out, op.matrix.outputs, op.matrix.inputs)
    }

    fn block_scales(&self, op: &Dequantize) -> Result<(), DeviceError> {
        let blocks = u64::from(op.matrix.outputs) * u64::from(op.matrix.inputs) / u64::from(TILE.1);
        match op.scales {
            BlockScales::Own => Ok(()),
            BlockScales::F32(scales) => self.bytes("scales of f32", scales, 4 * blocks, 8),
            BlockScales::Nested(nested) => {
                self.bytes("codes of scales", nested.codes, blocks, 2)?;
                self.bytes("map of scales", nested.map, 4 * 256, 4)?;
                // Fewest groups: one of each 256 blocks.
                self.bytes("groups of scales", nested.groups, 8 * blocks.div_ceil(256), 8)?;
                self.numbers("first blocks", nested.first_blocks, op.matrix.outputs)
            }
        }
    }

    fn rope(&self, op: &Rope) -> Result<(), DeviceError> {
        let width = op.heads.qkv_width();
        self.sum("queries, keys and values", op.qkv, op.rows, width)?;
        op.bias.map_or(Ok(()), |bias| self.rows("bias", bias, 1, width))?;
        for norm in op.head_norms.into_iter().flatten() {
            self.rows("norm of heads", norm, 1, HEAD_DIM)?;
        }
        // Of a pair of f32 for each two numbers of a head.
        self.rows("angles", op.angles, 2, HEAD_DIM)?;
        self.numbers("rows of angles", op.angle_rows, op.rows)?;
        self.numbers("slots", op.slots, op.rows)?;
        op.query_scale.map_or(Ok(()), |scale| self.numbers("scales of queries", scale, op.rows))?;
        self.rows("queries", op.q, op.rows, op.heads.queries * HEAD_DIM)?;
        self.cache(op.cache)
    }

    fn decode(&self, op: &DecodeAttention) -> Result<(), DeviceError> {
        let width = op.heads.queries * HEAD_DIM;
        self.rows("queries", op.q, op.rows, width)?;
        self.cache(op.cache)?;
        self.bytes("tables", op.tables, u64::from(op.rows) * u64::from(op.table_stride) * 4, 4)?;
        self.numbers("lengths", op.lengths, op.rows)?;
        self.numbers("starts", op.starts, op.rows.saturating_add(1))?;
        self.activations("decode attention", op.out, op.rows, width)
    }

    fn prefill(&self, op: &PrefillAttention) -> Result<(), DeviceError> {
        let width = op.heads.queries * HEAD_DIM;
        self.rows("queries", op.q, 1, width)?;
        self.rows("prefill attention", op.out, 1, width)?;
        self.cache(op.cache)?;
        self.bytes("tables", op.tables, u64::from(op.table_stride) * 4, 4)?;
        self.records::<attention::Run>("runs", op.runs, 1)?;
        self.records::<attention::Tile>("tiles", op.tiles, op.tile_count)
    }

    fn silu_mul(&self, op: &SiluMul) -> Result<(), DeviceError> {
        self.rows("gate and up", op.gate_up, op.rows, op.width.saturating_mul(2))?;
        self.activations("silu", op.out, op.rows, op.width)
    }

    fn gather(&self, op: &Gather) -> Result<(), DeviceError> {
        self.rows("gather's source", op.from, 1, op.width)?;
        self.numbers("gather's rows", op.indices, op.rows)?;
        self.rows("gather", op.out, op.rows, op.width)
    }

    fn widen(&self, op: &Widen) -> Result<(), DeviceError> {
        self.rows("widen's source", op.from, op.rows, op.width)?;
        let layout = Layout::Wide { rows: op.rows };
        self.activations("widen", Activations { at: op.out, layout }, op.rows, op.width)
    }

    fn count(&self, op: &Count) -> Result<(), DeviceError> {
        self.numbers("counted tokens", op.tokens, 1)?;
        self.records::<CountSpan>("counted spans", op.spans, op.span_count)?;
        self.numbers("counts", op.counts, op.vocab)
    }

    fn sample(&self, op: &Sample) -> Result<(), DeviceError> {
        self.rows("logits", op.logits, op.rows, op.stride)?;
        self.records::<SampleRow>("draws", op.draws, op.rows)?;
        self.numbers("positions", op.positions, op.rows)?;
        for (what, at) in [("biased tokens", op.bias_tokens), ("biases", op.bias_values), ("forbidden", op.forbidden)] {
            self.numbers(what, at, 1)?;
        }
        self.numbers("counts", op.counts, 1)?;
        self.numbers("drawn tokens", op.drawn, op.rows)?;
        self.records::<SampleResult>("results", op.results, op.rows)?;
        self.records::<[i32; TOP]>("alternatives", op.top_tokens, op.rows)?;
        self.records::<[f32; TOP]>("log-probabilities", op.top_logprobs, op.rows)
    }

    fn matrix(&self, what: &str, matrix: &Matrix) -> Result<(), DeviceError> {
        let (outputs, inputs) = (u64::from(matrix.outputs), u64::from(matrix.inputs));
        let (weights, scales) = matrix.form.bytes(outputs, inputs);
        self.bytes(what, matrix.weights, weights, OCT)?;
        if scales > 0 { self.bytes(what, matrix.scales, scales, OCT) } else { Ok(()) }
    }

    fn cache(&self, cache: LayerCache) -> Result<(), DeviceError> {
        let pool = cache.pool;
        if cache.layer >= pool.layers {
            return Err(DeviceError(format!("layer {} of a cache of {}", cache.layer, pool.layers)));
        }
        let bytes = pool.layer_bytes().saturating_mul(u64::from(pool.layers));
        self.bytes("cache of keys", pool.keys, bytes, OCT)?;
        self.bytes("cache of values", pool.values, bytes, OCT)
    }

    fn sum(&self, what: &str, sum: Sum, rows: u32, width: u32) -> Result<(), DeviceError> {
        match sum {
            Sum::Whole(whole) => self.activations(what, whole, rows, width),
            Sum::Parts { at, count, stride } => {
                let last = u64::from(count.saturating_sub(1)).saturating_mul(u64::from(stride));
                let numbers = last.saturating_add(u64::from(rows) * u64::from(width));
                self.counted(what, u64::from(stride))?;
                self.bytes(what, at, numbers.saturating_mul(4), OCT)
            }
        }
    }

    fn activations(&self, what: &str, activations: Activations, rows: u32, width: u32) -> Result<(), DeviceError> {
        match activations.layout {
            Layout::Rows => self.rows(what, activations.at, rows, width),
            Layout::Wide { rows: all } if rows <= all && width.is_multiple_of(64) => {
                self.rows(what, activations.at, all, width)
            }
            Layout::Wide { rows: all } => {
                Err(DeviceError(format!("{what}: {rows} rows of {width} in the wide layout of {all}")))
            }
        }
    }

    /// Of bf16.
    fn rows(&self, what: &str, at: Address, rows: u32, width: u32) -> Result<(), DeviceError> {
        self.counted(what, u64::from(width))?;
        self.bytes(what, at, u64::from(rows).saturating_mul(u64::from(width)).saturating_mul(2), OCT)
    }

    /// Of four bytes.
    fn numbers(&self, what: &str, at: Address, count: u32) -> Result<(), DeviceError> {
        self.counted(what, u64::from(count))?;
        self.bytes(what, at, u64::from(count) * 4, 4)
    }

    fn records<T>(&self, what: &str, at: Address, count: u32) -> Result<(), DeviceError> {
        self.counted(what, u64::from(count))?;
        self.bytes(what, at, u64::from(count) * size_of::<T>() as u64, align_of::<T>() as u64)
    }

    fn counted(&self, what: &str, count: u64) -> Result<(), DeviceError> {
        if count <= MOST { Ok(()) } else { Err(DeviceError(format!("{what}: {count} of them, at most {MOST}"))) }
    }

    fn bytes(&self, what: &str, at: Address, bytes: u64, alignment: u64) -> Result<(), DeviceError> {
        if !at.0.is_multiple_of(alignment) {
            return Err(DeviceError(format!("{what}: begins at {}, not at a multiple of {alignment}", at.0)));
        }
        within(what, Region { at, bytes }, self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightForm;
    use crate::attention::Path;
    use crate::op::{Heads, KvPool};
    use crate::product::Launch;

    const HEADS: Heads = Heads { queries: 4, kv: 2 };

    /// Hands out addresses one behind the other; `at` is how much of the memory is taken.
    struct Places {
        at: u64,
    }

    impl Places {
        fn take(&mut self, bytes: u64) -> Address {
            let at = Address(self.at);
            self.at += bytes.next_multiple_of(16);
            at
        }

        fn rows(&mut self, rows: u64, width: u64) -> Address {
            self.take(rows * width * 2)
        }
    }

    fn cache(places: &mut Places) -> LayerCache {
        let mut pool = KvPool { keys: Address(0), values: Address(0), layers: 2, blocks: 3, kv_heads: 2 };
        pool.keys = places.take(2 * pool.layer_bytes());
        pool.values = places.take(2 * pool.layer_bytes());
        LayerCache { pool, layer: 1 }
    }

    fn product(places: &mut Places) -> Op {
        let (weights, scales) = WeightForm::Nf4.bytes(128, 64);
        let form = WeightForm::Nf4;
        let (weights, scales) = (places.take(weights), places.take(scales));
        let matrix = Matrix { form, outputs: 128, inputs: 64, weights, scales, unit: 1.0 };
        let x = Activations { at: places.rows(16, 64), layout: Layout::Wide { rows: 16 } };
        let y = Sum::Parts { at: places.take((700 + 10 * 128) * 4), count: 2, stride: 700 };
        Op::Product(Product { matrix, kernel: Launch::Library, silu: false, x, y, rows: 10 })
    }

    fn decode(places: &mut Places) -> Op {
        let rows = 5;
        Op::DecodeAttention(DecodeAttention {
            q: places.rows(rows, 512),
            cache: cache(places),
            tables: places.take(rows * 7 * 4),
            table_stride: 7,
            lengths: places.take(rows * 4),
            starts: places.take(rows * 4 + 4),
            out: Activations { at: places.rows(rows, 512), layout: Layout::Rows },
            path: Path::Spread,
            heads: HEADS,
            rows: rows as u32,
            scale: 1.0,
        })
    }

    fn rope(places: &mut Places) -> Op {
        let rows = 5;
        Op::Rope(Rope {
            bias: Some(places.rows(1, 1024)),
            head_norms: Some([places.rows(1, 128), places.rows(1, 128)]),
            head_dim: 128,
            eps: 0.0,
            angles: places.take(512),
            angle_rows: places.take(rows * 4),
            slots: places.take(rows * 4),
            query_scale: Some(places.take(rows * 4)),
            q: places.rows(rows, 512),
            cache: cache(places),
            heads: HEADS,
            rows: rows as u32,
            qkv: Sum::Whole(Activations { at: places.rows(rows, 1024), layout: Layout::Rows }),
        })
    }

    fn norm(places: &mut Places) -> Op {
        Op::Norm(Norm {
            hidden: places.rows(3, 64),
            delta: Some(Sum::Whole(Activations { at: places.rows(3, 64), layout: Layout::Rows })),
            weight: places.rows(1, 64),
            out: Activations { at: places.rows(8, 64), layout: Layout::Wide { rows: 8 } },
            rows: 3,
            width: 64,
            eps: 0.0,
        })
    }

    fn sample(places: &mut Places) -> Op {
        Op::Sample(Sample {
            logits: places.rows(3, 16),
            stride: 16,
            vocab: 9,
            draws: places.take(3 * 64),
            positions: places.take(12),
            bias_tokens: places.take(4),
            bias_values: places.take(4),
            forbidden: places.take(4),
            counts: places.take(4),
            drawn: places.take(12),
            results: places.take(48),
            top_tokens: places.take(240),
            top_logprobs: places.take(240),
            rows: 3,
        })
    }

    /// Each lays its regions out from `places` on, and one of them is the last.
    const OPS: [fn(&mut Places) -> Op; 5] = [product, decode, rope, norm, sample];

    #[test]
    fn what_fits_fits_exactly() {
        for make in OPS {
            let mut places = Places { at: 0 };
            let op = make(&mut places);
            assert_eq!(check(&op, places.at), Ok(()));
            let refused = check(&op, places.at - 16).expect_err("the last region sticks out").to_string();
            assert!(refused.contains("bytes from"), "{refused}");
            let op = make(&mut Places { at: 2 });
            let refused = check(&op, u64::MAX).expect_err("nothing is read so").to_string();
            assert!(refused.contains("not at a multiple"), "{refused}");
        }
    }

    #[test]
    fn sizes_do_not_wrap() {
        let region = |at, bytes| Region { at: Address(at), bytes };
        assert!(within("it", region(u64::MAX, 2), 100).is_err());
        assert!(within("it", region(99, 2), 100).is_err());
        assert_eq!(within("it", region(98, 2), 100), Ok(()));
        let gather =
            |rows, width| Op::Gather(Gather { from: Address(0), indices: Address(0), out: Address(0), rows, width });
        assert!(check(&gather(u32::MAX, u32::MAX), u64::MAX).is_err());
        assert!(check(&gather(1, u32::MAX), u64::MAX).is_err());
        assert!(check(&gather(1 << 30, 1 << 30), 1 << 50).is_err());
        assert_eq!(check(&gather(2, 8), 32), Ok(()));
    }

    #[test]
    fn layers_and_layouts_have_their_ends_too() {
        let mut places = Places { at: 0 };
        let Op::DecodeAttention(mut attention) = decode(&mut places) else { panic!("it is decode attention") };
        attention.cache.layer = 2;
        let refused = check(&Op::DecodeAttention(attention), places.at).expect_err("there are two").to_string();
        assert_eq!(refused, "layer 2 of a cache of 2");
        let Op::Norm(mut norm) = norm(&mut places) else { panic!("it is a norm") };
        norm.out.layout = Layout::Wide { rows: 2 };
        let refused = check(&Op::Norm(norm), places.at).expect_err("three rows are written").to_string();
        assert_eq!(refused, "norm: 3 rows of 64 in the wide layout of 2");
    }
}
