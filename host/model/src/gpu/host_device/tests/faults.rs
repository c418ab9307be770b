//! Plans that a card would not survive: each is refused, with the operation's name and the field's.

use sluice_kernels::attention::{Path, Run, Tile};
use sluice_kernels::op::{
    Activations, BlockScales, Count, DecodeAttention, Dequantize, Embed, Gather, Heads, KvPool, LayerCache, Norm, Op,
    PrefillAttention, Product, Rope, Sample, SiluMul, Sum, Widen,
};
use sluice_kernels::product::Launch;
use sluice_kernels::sampling::{CountSpan, SampleResult, SampleRow, TOP};
use sluice_kernels::{Address, Card, Layout, Matrix, WeightForm};

use super::{DIM, Rig, noise};

/// What a test expects to be told, and what it does to an operation before.
type Spoiled<'a, T> = (&'a str, fn(&mut T, &mut Rig));

/// An operation as it should be is computed; spoiled in one way each, it is refused.
fn check<T>(wrap: fn(T) -> Op, make: fn(&mut Rig) -> T, faults: &[Spoiled<'_, T>]) {
    let mut rig = Rig::new(Card::h200());
    let op = make(&mut rig);
    rig.run(wrap(op)).unwrap();
    for (expected, spoil) in faults {
        let mut rig = Rig::new(Card::h200());
        let mut op = make(&mut rig);
        spoil(&mut op, &mut rig);
        match rig.run(wrap(op)) {
            Err(refused) => assert!(refused.0.contains(expected), "expected {expected}: {refused}"),
            Ok(()) => panic!("expected {expected}"),
        }
    }
}

const OUTSIDE: Address = Address(1 << 24);

fn embed(rig: &mut Rig) -> Embed {
    let table = rig.put_bf16(&noise(1, 4 * 64));
    Embed {
        tokens: rig.put(&[3i32, -2]),
        drawn: rig.put(&[9i32, 1]),
        table,
        hidden: rig.room::<u16>(128),
        rows: 2,
        width: 64,
    }
}

#[test]
fn embed_stays_inside() {
    check(
        Op::Embed,
        embed,
        &[
            ("embed: `tokens`", |op, _| op.tokens = OUTSIDE),
            ("`tokens` is at", |op, _| op.tokens.0 += 2),
            ("`drawn`", |op, _| op.drawn = OUTSIDE),
            ("`table`", |op, rig| op.tokens = rig.put(&[i32::MAX, 0])),
            ("`table` holds -5", |op, rig| op.drawn = rig.put(&[0i32, -5])),
            ("`table` is at 8, which is no multiple of 16", |op, rig| {
                (op.table, op.tokens) = (Address(8), rig.put(&[0i32, 0]))
            }),
            ("`hidden`", |op, _| op.hidden = OUTSIDE),
            ("`hidden` lies over `table`", |op, _| op.hidden = op.table),
            ("`hidden` has rows of 60", |op, _| op.width = 60),
            ("`hidden`", |op, _| op.hidden = Address(u64::MAX - 15)),
        ],
    );
}

fn gather(rig: &mut Rig) -> Gather {
    let from = rig.put_bf16(&noise(1, 4 * 64));
    Gather { from, indices: rig.put(&[3i32, 0]), out: rig.room::<u16>(128), rows: 2, width: 64 }
}

fn widen(rig: &mut Rig) -> Widen {
    Widen { from: rig.put_bf16(&noise(1, 128)), out: rig.room::<u16>(128), rows: 2, width: 64 }
}

fn silu(rig: &mut Rig) -> SiluMul {
    SiluMul { gate_up: rig.put_bf16(&noise(1, 256)), out: rig.room_for_rows(128), rows: 2, width: 64 }
}

#[test]
fn rows_move_inside() {
    check(
        Op::Gather,
        gather,
        &[
            ("gather: `from` holds -1", |op, rig| op.indices = rig.put(&[0i32, -1])),
            ("`from`", |op, rig| op.indices = rig.put(&[0i32, 1 << 20])),
            ("`out` lies over `indices`", |op, _| op.out = op.indices),
        ],
    );
    check(
        Op::Widen,
        widen,
        &[
            ("widen: `out` has rows of 72, expected a multiple of 64", |op, _| op.width = 72),
            ("`out` lies over `from`", |op, _| op.out = op.from),
        ],
    );
    check(
        Op::SiluMul,
        silu,
        &[
            ("silu: `out` has rows of 60", |op, _| op.width = 60),
            ("`out` has room for 1 rows", |op, _| op.out.layout = Layout::Wide { rows: 1 }),
            ("`out` lies over `gate_up`", |op, _| op.out.at = op.gate_up),
        ],
    );
}

fn norm(rig: &mut Rig) -> Norm {
    let delta = Some(Sum::Parts { at: rig.put(&noise(1, 256)), count: 2, stride: 128 });
    let (hidden, weight) = (rig.put_bf16(&noise(2, 128)), rig.put_bf16(&noise(3, 64)));
    Norm { hidden, delta, weight, out: rig.room_for_rows(128), rows: 2, width: 64, eps: 1e-6 }
}

#[test]
fn norms_stay_inside() {
    check(
        Op::Norm,
        norm,
        &[
            ("norm: `hidden`", |op, _| op.hidden = OUTSIDE),
            ("`hidden` has rows of 8200, expected at most 8192", |op, _| op.width = 8200),
            ("`hidden` has rows of 60", |op, _| op.width = 60),
            ("`weight`", |op, _| op.weight = OUTSIDE),
            ("`delta` is in 1 parts", |op, _| op.delta = Some(Sum::Parts { at: Address(0), count: 1, stride: 128 })),
            ("`delta` has parts 100 numbers apart", |op, _| {
                op.delta = Some(Sum::Parts { at: Address(0), count: 2, stride: 100 })
            }),
            ("`delta`", |op, _| op.delta = Some(Sum::Parts { at: Address(0), count: u32::MAX, stride: u32::MAX })),
            ("`delta` is laid out as Wide", |op, _| {
                op.delta = Some(Sum::Whole(Activations { at: Address(0), layout: Layout::Wide { rows: 2 } }));
            }),
            ("`out` lies over `hidden`", |op, _| op.out.at = op.hidden),
        ],
    );
}

fn product(rig: &mut Rig) -> Product {
    let weights = rig.put(&[0x77u8; 16 * 64 / 2]);
    let scales = rig.put(&[0x3c00u16; 16]);
    let matrix = Matrix { form: WeightForm::Nf4, outputs: 16, inputs: 64, weights, scales, unit: 1.0 };
    let (x, y) = (rig.put_rows(&noise(1, 128)), Sum::Whole(rig.room_for_rows(32)));
    Product { matrix, kernel: Launch::Kernel { name: "nf4_m8_k5w8a1", blocks: 264 }, silu: false, x, y, rows: 2 }
}

#[test]
fn products_are_as_planned() {
    check(
        Op::Product,
        product,
        &[
            ("product: `matrix` is 24 by 64", |op, _| op.matrix.outputs = 24),
            ("`matrix` is 16 by 96", |op, _| op.matrix.inputs = 96),
            ("`matrix.weights`", |op, _| op.matrix.weights = OUTSIDE),
            ("`matrix.scales`", |op, _| op.matrix.scales = OUTSIDE),
            ("`matrix.unit` is 0.5", |op, _| {
                (op.matrix.form, op.matrix.unit) = (WeightForm::Bf16, 0.5);
                op.kernel = Launch::Kernel { name: "bf16_m8_k5w16a1", blocks: 132 };
            }),
            ("`x`", |op, _| op.x.at = OUTSIDE),
            ("`x` is laid out as Wide", |op, _| op.x.layout = Layout::Wide { rows: 2 }),
            ("`kernel` is Library", |op, _| op.kernel = Launch::Library),
            ("`kernel` is nf4_m8_k5w8a1, which is not for 16 rows", |op, _| op.rows = 16),
            ("`kernel` is nf4_m8_k5w8a1, which is not for 2 rows of Nf4, silu true", |op, _| op.silu = true),
            ("`y` has 3 parts", |op, _| op.y = Sum::Parts { at: Address(4096), count: 3, stride: 64 }),
            ("`y` lies over `x`", |op, _| op.y = Sum::Whole(op.x)),
        ],
    );
}

fn dequantize(rig: &mut Rig) -> Dequantize {
    Dequantize { matrix: product(rig).matrix, scales: BlockScales::Own, out: rig.room::<u16>(16 * 64) }
}

#[test]
fn weights_are_made_bf16_once_and_inside() {
    check(
        Op::Dequantize,
        dequantize,
        &[
            ("dequantize: `matrix` is in bf16 as it is", |op, _| op.matrix.form = WeightForm::Bf16),
            ("`matrix` is 24 by 64", |op, _| op.matrix.outputs = 24),
            ("`matrix.weights`", |op, _| op.matrix.weights = OUTSIDE),
            ("`out` lies over `matrix.scales`", |op, _| op.out = op.matrix.scales),
        ],
    );
}

const HEADS: Heads = Heads { queries: 2, kv: 1 };

fn cache(rig: &mut Rig) -> LayerCache {
    let (keys, values) = (rig.put_bf16(&noise(4, 2 * 16 * DIM)), rig.put_bf16(&noise(5, 2 * 16 * DIM)));
    LayerCache { pool: KvPool { keys, values, layers: 1, blocks: 2, kv_heads: 1 }, layer: 0 }
}

fn rope(rig: &mut Rig) -> Rope {
    Rope {
        qkv: Sum::Whole(rig.put_rows(&noise(1, 2 * 4 * DIM))),
        bias: None,
        head_norms: None,
        head_dim: 128,
        eps: 1e-6,
        angles: rig.put(&noise(2, 2 * DIM)),
        angle_rows: rig.put(&[1i32, 0]),
        slots: rig.put(&[31i32, -1]),
        query_scale: None,
        q: rig.room::<u16>(2 * 2 * DIM),
        cache: cache(rig),
        heads: HEADS,
        rows: 2,
    }
}

#[test]
fn rope_stays_inside() {
    check(
        Op::Rope,
        rope,
        &[
            ("rope: `qkv`", |op, _| op.qkv = Sum::Parts { at: OUTSIDE, count: 2, stride: 2048 }),
            ("`slots` holds 32, expected 0 or more and less than 32", |op, rig| op.slots = rig.put(&[0i32, 32])),
            ("`angle_rows` holds -1", |op, rig| op.angle_rows = rig.put(&[0i32, -1])),
            ("`angles`", |op, rig| op.angle_rows = rig.put(&[0i32, 1 << 20])),
            ("`head_dim` is 0", |op, _| op.head_dim = 0),
            ("`head_dim` is 129", |op, _| op.head_dim = 129),
            ("`cache` has 1 layers and no layer 1", |op, _| op.cache.layer = 1),
            ("`cache` has 2 heads of keys, expected 1", |op, _| op.cache.pool.kv_heads = 2),
            ("`heads` are 9 for 1", |op, _| op.heads.queries = 9),
            ("`heads` are 2 for 0", |op, _| (op.heads.kv, op.cache.pool.kv_heads) = (0, 0)),
            ("`bias`", |op, _| op.bias = Some(OUTSIDE)),
            ("`head_norms`", |op, _| op.head_norms = Some([Address(0), OUTSIDE])),
            ("`query_scale`", |op, _| op.query_scale = Some(OUTSIDE)),
            ("`cache.values`", |op, _| op.cache.pool.values = OUTSIDE),
            ("`q` lies over `qkv`", |op, _| op.q = Address(0)),
        ],
    );
}

fn decode(rig: &mut Rig) -> DecodeAttention {
    DecodeAttention {
        q: rig.put_bf16(&noise(1, 2 * 2 * DIM)),
        cache: cache(rig),
        tables: rig.put(&[1i32, 0, i32::MAX, -1]),
        table_stride: 2,
        lengths: rig.put(&[17i32, 0]),
        starts: rig.put(&[0i32, 2, 2]),
        out: rig.room_for_rows(2 * 2 * DIM),
        path: Path::Spread,
        heads: HEADS,
        rows: 2,
        scale: 0.1,
    }
}

#[test]
fn decode_attention_stays_inside() {
    check(
        Op::DecodeAttention,
        decode,
        &[
            ("decode attention: `tables` holds 2, expected 0 or more and less than 2", |op, rig| {
                op.tables = rig.put(&[0i32, 2, 0, 0])
            }),
            ("`tables` holds -1", |op, rig| op.tables = rig.put(&[-1i32, 0, 0, 0])),
            ("`tables` cover 32 tokens", |op, rig| {
                (op.lengths, op.starts) = (rig.put(&[33i32, 0]), rig.put(&[0i32, 3, 3]))
            }),
            ("`lengths` holds -1", |op, rig| op.lengths = rig.put(&[-1i32, 0])),
            ("`starts` are [0, 2, 4]", |op, rig| op.starts = rig.put(&[0i32, 2, 4])),
            ("`path` has 17 splits", |op, _| op.path = Path::Split { warps: 6, splits: 17 }),
            ("`path` has 1 splits of 5 warps", |op, _| op.path = Path::Split { warps: 5, splits: 1 }),
            ("`cache.keys`", |op, _| op.cache.pool.keys = OUTSIDE),
            ("`q`", |op, _| op.q = OUTSIDE),
            ("`out` lies over `q`", |op, _| op.out.at = op.q),
            ("`out` lies over `cache.values`", |op, _| op.out.at = op.cache.values()),
        ],
    );
}

fn prefill(rig: &mut Rig) -> PrefillAttention {
    PrefillAttention {
        q: rig.put_bf16(&noise(1, 4 * 2 * DIM)),
        out: rig.room::<u16>(4 * 2 * DIM),
        cache: cache(rig),
        tables: rig.put(&[1i32, 0]),
        table_stride: 2,
        runs: rig.put(&[Run { first_row: 1, start: 15, count: 3, unused: 0 }]),
        tiles: rig.put(&[Tile { run: 0, first: 0 }]),
        tile_count: 1,
        heads: HEADS,
        scale: 0.1,
    }
}

#[test]
fn prefill_attention_stays_inside() {
    check(
        Op::PrefillAttention,
        prefill,
        &[
            ("prefill attention: `tiles` holds -1", |op, rig| op.tiles = rig.put(&[Tile { run: -1, first: 0 }])),
            ("`tiles` holds 3, expected 0 or more and less than 3", |op, rig| {
                op.tiles = rig.put(&[Tile { run: 0, first: 3 }])
            }),
            ("`tiles` begin at 1", |op, rig| op.tiles = rig.put(&[Tile { run: 0, first: 1 }])),
            ("`runs`", |op, _| op.runs = OUTSIDE),
            ("`runs` holds -1", |op, rig| op.runs = rig.put(&[Run { first_row: 0, start: -1, count: 3, unused: 0 }])),
            ("`tables` cover 32 tokens", |op, rig| {
                op.runs = rig.put(&[Run { first_row: 0, start: 30, count: 3, unused: 0 }])
            }),
            ("`tables` holds 7", |op, rig| op.tables = rig.put(&[0i32, 7])),
            ("`q`", |op, _| op.q = Address(OUTSIDE.0 - 1024)),
            ("`out` lies over `q`", |op, _| op.out = op.q),
        ],
    );
}

fn count(rig: &mut Rig) -> Count {
    let spans = rig.put(&[CountSpan { first: 0, prompt: 1, answer: 1, slot: 1 }]);
    Count { tokens: rig.put(&[1i32, 99]), spans, span_count: 1, counts: rig.room::<u32>(16), vocab: 8 }
}

fn sample(rig: &mut Rig) -> Sample {
    Sample {
        logits: rig.put_bf16(&noise(1, 16)),
        stride: 16,
        vocab: 10,
        draws: rig.put(&[SampleRow::greedy()]),
        positions: rig.put(&[4i32]),
        bias_tokens: Address(0),
        bias_values: Address(0),
        forbidden: Address(0),
        counts: rig.room::<u32>(10),
        drawn: rig.room::<i32>(1),
        results: rig.room::<SampleResult>(1),
        top_tokens: rig.room::<i32>(TOP),
        top_logprobs: rig.room::<f32>(TOP),
        rows: 1,
    }
}

#[test]
fn counts_and_draws_stay_inside() {
    check(
        Op::Count,
        count,
        &[
            ("count: `spans`", |op, _| op.spans = OUTSIDE),
            ("`slot` holds -1", |op, rig| {
                op.spans = rig.put(&[CountSpan { first: 0, prompt: 1, answer: 1, slot: -1 }])
            }),
            ("`counts`", |op, rig| op.spans = rig.put(&[CountSpan { first: 0, prompt: 1, answer: 1, slot: 1 << 20 }])),
            ("`tokens` holds -4", |op, rig| {
                op.spans = rig.put(&[CountSpan { first: -4, prompt: 1, answer: 1, slot: 0 }])
            }),
            ("`spans` holds -9", |op, rig| {
                op.spans = rig.put(&[CountSpan { first: 0, prompt: -9, answer: 1, slot: 0 }])
            }),
            ("`counts` lies over `tokens`", |op, _| op.counts = Address(op.tokens.0 - 32)),
        ],
    );
    check(
        Op::Sample,
        sample,
        &[
            ("sample: `stride` is 12", |op, _| op.stride = 12),
            ("`stride` is 8", |op, _| op.stride = 8),
            ("`logits`", |op, _| op.logits = OUTSIDE),
            ("`draws`", |op, _| op.draws = OUTSIDE),
            ("`draws` holds 10, expected 0 or more and less than 10", |op, rig| {
                op.draws = rig.put(&[SampleRow { given: 10, ..SampleRow::greedy() }]);
            }),
            ("`draws` holds -2", |op, rig| op.draws = rig.put(&[SampleRow { bias_count: -2, ..SampleRow::greedy() }])),
            ("`forbidden`", |op, rig| {
                op.draws =
                    rig.put(&[SampleRow { forbidden_first: i32::MAX, forbidden_count: 1, ..SampleRow::greedy() }]);
            }),
            ("`counts` hold 21474", |op, rig| op.draws = rig.put(&[SampleRow { slot: 0, ..SampleRow::greedy() }])),
            ("`counts`", |op, rig| op.draws = rig.put(&[SampleRow { slot: 1 << 20, ..SampleRow::greedy() }])),
            ("`results`", |op, _| op.results = OUTSIDE),
            ("`drawn` lies over `results`", |op, _| op.drawn = op.results),
        ],
    );
}
