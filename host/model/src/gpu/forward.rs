//! The operations of one step: a decoder's layers, then the draws.

use sluice_kernels::attention::Path;
use sluice_kernels::op::{
    Activations, BlockScales, DecodeAttention, Embed, Gather, LayerCache, Norm, PrefillAttention, Product, Rope,
    Sample, SiluMul, Sum, Widen,
};
use sluice_kernels::product::{self, Plan, Purpose};
use sluice_kernels::sampling::{SampleResult, SampleRow, TOP};
use sluice_kernels::{Address, Card, Layout, Matrix, Op};

use crate::gpu::memory::{Memory, Places};
use crate::gpu::shape::{Shape, words};
use crate::gpu::weights::{LayerWeights, Weighted};

/// What the operations of every step are made from.
#[derive(Clone, Copy)]
pub(crate) struct Forward<'a> {
    pub(crate) card: &'a Card,
    pub(crate) shape: &'a Shape,
    pub(crate) memory: &'a Memory,
    pub(crate) eps: f32,
    /// Queries are scaled by their position.
    pub(crate) scales_queries: bool,
}

/// The tokens of a step, padded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tokens {
    pub(crate) rows: u32,
    /// Of one token, at the beginning.
    pub(crate) decoding: u32,
    pub(crate) path: Path,
    /// Of the runs behind them.
    pub(crate) tiles: u32,
}

/// Rows that are drawn or scored together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// The first one's index among all that are.
    pub(crate) first: u32,
    /// Padded.
    pub(crate) rows: u32,
    pub(crate) draws: bool,
}

impl Forward<'_> {
    /// A step that decodes one token for each of so many rows.
    pub(crate) fn recorded(&self, rows: u32, path: Path) -> Vec<Op> {
        let places = &self.memory.inputs.recorded;
        let mut ops = Vec::new();
        self.layers(&mut ops, places, Tokens { rows, decoding: rows, path, tiles: 0 });
        self.head(&mut ops, self.memory.activations.normed, rows);
        ops.push(self.sample(places, Group { first: 0, rows, draws: true }));
        ops
    }

    /// Any other step.
    pub(crate) fn other(&self, ops: &mut Vec<Op>, tokens: Tokens, groups: &[Group]) {
        let places = &self.memory.inputs.others;
        let activations = &self.memory.activations;
        ops.clear();
        self.layers(ops, places, tokens);
        for group in groups {
            ops.push(Op::Gather(Gather {
                from: activations.normed,
                indices: places.indices.at.offset(words(u64::from(group.first))),
                out: activations.head_input,
                rows: group.rows,
                width: self.shape.hidden(),
            }));
            self.head(ops, activations.head_input, group.rows);
            ops.push(self.sample(places, *group));
        }
    }

    /// Up to the norm before the head.
    fn layers(&self, ops: &mut Vec<Op>, places: &Places, tokens: Tokens) {
        let memory = self.memory;
        let rows = tokens.rows;
        ops.push(Op::Embed(Embed {
            tokens: places.tokens.at,
            drawn: memory.activations.drawn,
            table: memory.weights.embedding,
            hidden: memory.activations.hidden,
            rows,
            width: self.shape.hidden(),
        }));
        let mut delta = None;
        for (index, layer) in (0..).zip(&memory.weights.layers) {
            let qkv = self.plan(&layer.qkv, rows, Purpose::Summed);
            let normed = self.norm(ops, delta, layer.attention_norm, rows, qkv.1.input);
            let qkv = self.product(ops, &layer.qkv, qkv, normed, rows, memory.activations.qkv);
            let attended = self.attention(ops, places, tokens, layer, index, qkv);
            delta = Some(self.feed_forward(ops, layer, rows, attended));
        }
        self.norm(ops, delta, memory.weights.norm, rows, Layout::Rows);
    }

    /// From the projections to what the heads have seen, projected.
    fn attention(
        &self,
        ops: &mut Vec<Op>,
        places: &Places,
        tokens: Tokens,
        layer: &LayerWeights,
        index: u32,
        qkv: Sum,
    ) -> Sum {
        let activations = &self.memory.activations;
        let cache = LayerCache { pool: self.memory.pool, layer: index };
        let (matrix, plan) = self.plan(&layer.attention_output, tokens.rows, Purpose::Summed);
        ops.push(self.rope(places, layer, cache, qkv, tokens.rows));
        // Prefill writes rows, whoever reads them.
        let layout = if tokens.tiles > 0 { Layout::Rows } else { plan.input };
        let mut attended = Activations { at: activations.attended, layout };
        self.decode_attention(ops, places, tokens, cache, attended);
        if tokens.tiles > 0 {
            ops.push(self.prefill_attention(places, tokens, cache));
        }
        if let (Layout::Rows, Layout::Wide { rows }) = (layout, plan.input) {
            let (from, out, width) = (activations.attended, activations.widened, self.shape.attended());
            ops.push(Op::Widen(Widen { from, out, rows, width }));
            attended = Activations { at: out, layout: plan.input };
        }
        self.product(ops, &layer.attention_output, (matrix, plan), attended, tokens.rows, activations.branch)
    }

    fn feed_forward(&self, ops: &mut Vec<Op>, layer: &LayerWeights, rows: u32, attended: Sum) -> Sum {
        let activations = &self.memory.activations;
        let (matrix, gate_up) = self.plan(&layer.gate_up, rows, Purpose::Silu);
        let down = self.plan(&layer.down, rows, Purpose::Summed);
        let normed = self.norm(ops, Some(attended), layer.mlp_norm, rows, gate_up.input);
        let gated = Activations { at: activations.gated, layout: down.1.input };
        let out =
            if gate_up.separate_silu { Activations { at: activations.gate_up, layout: Layout::Rows } } else { gated };
        let matrix = self.read(ops, &layer.gate_up, (matrix, gate_up));
        ops.push(Op::Product(Product {
            matrix,
            kernel: gate_up.launch,
            silu: !gate_up.separate_silu,
            x: normed,
            y: Sum::Whole(out),
            rows,
        }));
        if gate_up.separate_silu {
            let width = self.shape.ffn();
            ops.push(Op::SiluMul(SiluMul { gate_up: activations.gate_up, out: gated, rows, width }));
        }
        self.product(ops, &layer.down, down, gated, rows, activations.branch)
    }

    fn norm(&self, ops: &mut Vec<Op>, delta: Option<Sum>, weight: Address, rows: u32, layout: Layout) -> Activations {
        let activations = &self.memory.activations;
        let out = Activations { at: activations.normed, layout };
        let (hidden, width) = (activations.hidden, self.shape.hidden());
        ops.push(Op::Norm(Norm { hidden, delta, weight, out, rows, width, eps: self.eps }));
        out
    }

    /// What a product reads, and how it is computed. What would be dequantised is read as it is kept, if it is.
    fn plan(&self, weighted: &Weighted, rows: u32, purpose: Purpose) -> (Matrix, Plan) {
        let read = weighted.read_by(rows);
        let plan = self.plan_of(&read, rows, purpose);
        match weighted.kept() {
            Some(kept) if plan.dequantize => (kept, self.plan_of(&kept, rows, purpose)),
            _ => (read, plan),
        }
    }

    fn plan_of(&self, matrix: &Matrix, rows: u32, purpose: Purpose) -> Plan {
        product::plan(self.card, matrix.form, matrix.outputs, matrix.inputs, rows, purpose)
    }

    /// To `out`, or to be added up.
    fn product(
        &self,
        ops: &mut Vec<Op>,
        weighted: &Weighted,
        (matrix, plan): (Matrix, Plan),
        x: Activations,
        rows: u32,
        out: Address,
    ) -> Sum {
        let y = match plan.parts {
            1 => Sum::Whole(Activations { at: out, layout: Layout::Rows }),
            count => Sum::Parts { at: self.memory.activations.parts, count, stride: rows * weighted.matrix.outputs },
        };
        let matrix = self.read(ops, weighted, (matrix, plan));
        ops.push(Op::Product(Product { matrix, kernel: plan.launch, silu: false, x, y, rows }));
        y
    }

    /// The matrix of a product, dequantised before where the plan says so.
    fn read(&self, ops: &mut Vec<Op>, weighted: &Weighted, (matrix, plan): (Matrix, Plan)) -> Matrix {
        if !plan.dequantize {
            return matrix;
        }
        let out = self.memory.activations.dequantized;
        ops.push(weighted.dequantize(out));
        weighted.in_bf16(out)
    }

    fn rope(&self, places: &Places, layer: &LayerWeights, cache: LayerCache, qkv: Sum, rows: u32) -> Op {
        Op::Rope(Rope {
            qkv,
            bias: layer.qkv_bias,
            head_norms: layer.head_norms,
            head_dim: self.shape.size.head_dim as u32,
            eps: self.eps,
            angles: self.memory.weights.angles,
            angle_rows: places.angle_rows.at,
            slots: places.slots.at,
            query_scale: self.scales_queries.then_some(places.query_scale.at),
            q: self.memory.activations.q,
            cache,
            heads: self.shape.heads,
            rows,
        })
    }

    fn decode_attention(
        &self,
        ops: &mut Vec<Op>,
        places: &Places,
        tokens: Tokens,
        cache: LayerCache,
        out: Activations,
    ) {
        if tokens.decoding > 0 {
            ops.push(Op::DecodeAttention(DecodeAttention {
                q: self.memory.activations.q,
                cache,
                tables: self.memory.inputs.tables.at,
                table_stride: self.memory.rows.table_stride,
                lengths: places.lengths.at,
                starts: places.starts.at,
                out,
                path: tokens.path,
                heads: self.shape.heads,
                rows: tokens.decoding,
                scale: self.scale(),
            }));
        }
    }

    fn prefill_attention(&self, places: &Places, tokens: Tokens, cache: LayerCache) -> Op {
        let (activations, stride) = (&self.memory.activations, self.memory.rows.table_stride);
        let before = words(u64::from(tokens.decoding) * u64::from(stride));
        Op::PrefillAttention(PrefillAttention {
            q: activations.q,
            out: activations.attended,
            cache,
            tables: self.memory.inputs.tables.at.offset(before),
            table_stride: stride,
            runs: places.runs.at,
            tiles: places.tiles.at,
            tile_count: tokens.tiles,
            heads: self.shape.heads,
            scale: self.scale(),
        })
    }

    /// Heads are scored by the numbers that they have, whatever pads them.
    fn scale(&self) -> f32 {
        (self.shape.size.head_dim as f32).sqrt().recip()
    }

    fn head(&self, ops: &mut Vec<Op>, normed: Address, rows: u32) {
        let head = &self.memory.weights.head;
        let plan = self.plan_of(head, rows, Purpose::Whole);
        let x = Activations { at: normed, layout: plan.input };
        let head = Weighted { matrix: *head, scales: BlockScales::Own, dequantized: None };
        self.product(ops, &head, (head.matrix, plan), x, rows, self.memory.activations.logits);
    }

    fn sample(&self, places: &Places, group: Group) -> Op {
        let (activations, inputs, results) = (&self.memory.activations, &self.memory.inputs, &self.memory.results);
        let at = |region: Address, size: usize| region.offset(u64::from(group.first) * size as u64);
        Op::Sample(Sample {
            logits: activations.logits,
            stride: self.shape.head_rows,
            vocab: self.shape.size.vocab as u32,
            draws: at(places.draws.at, size_of::<SampleRow>()),
            positions: at(places.positions.at, 4),
            bias_tokens: inputs.bias_tokens.at,
            bias_values: inputs.bias_values.at,
            forbidden: inputs.forbidden.at,
            counts: self.memory.counts.at,
            drawn: if group.draws { at(activations.drawn, 4) } else { activations.not_drawn },
            results: at(results.outcomes.at, size_of::<SampleResult>()),
            top_tokens: at(results.top_tokens.at, 4 * TOP),
            top_logprobs: at(results.top_logprobs.at, 4 * TOP),
            rows: group.rows,
        })
    }
}
