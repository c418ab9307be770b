//! Where everything stands in a GPU's memory: all of it is reserved at the start.

use sluice_core::{Batch, Draw, Row, SamplingParams};
use sluice_kernels::attention::{Run, Tile, most_tiles};
use sluice_kernels::op::{BLOCK_TOKENS, KvPool, MOST_ROWS};
use sluice_kernels::product::{self, MOST_RECORDED, Purpose, every_count, padded_rows};
use sluice_kernels::sampling::{CountSpan, SampleResult, SampleRow, TOP};
use sluice_kernels::{Address, Arena, Card, Region, WeightForm};

use crate::blueprint::Blueprint;
use crate::gpu::shape::{Shape, halves, words};
use crate::gpu::weights::{Dequantized, LayerHeld, ModelWeights, Weighted, most_quantized_rows};
use crate::step::{RowProblem, StepLimits};

/// A step that no card computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadLimits {
    #[error("blocks of {0} tokens cannot be served on a GPU, where they hold {BLOCK_TOKENS}: leave --block-size out")]
    BlockTokens(u32),
    #[error("{0} tokens in a step are more than the {MOST_TOKENS} that a GPU takes: lower --max-num-batched-tokens")]
    Tokens(u32),
}

/// With the padding of the largest steps, which comes in 256.
const MOST_TOKENS: u32 = MOST_ROWS / 256 * 256;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Memory {
    pub(crate) weights: ModelWeights,
    pub(crate) rows: Rows,
    pub(crate) activations: Activations,
    pub(crate) inputs: Inputs,
    pub(crate) results: Results,
    /// u32 `[slot][vocab]`.
    pub(crate) counts: Region,
    pub(crate) pool: KvPool,
    bytes: u64,
}

/// How many rows there may be of what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rows {
    /// The form that most products read, by which rows are padded.
    form: WeightForm,
    /// From more than so many rows on they read bf16.
    most_quantized: u32,
    /// Of sequences, as the engine's limits have it.
    pub(crate) sequences: u32,
    /// Of tokens, padding included.
    pub(crate) tokens: u32,
    /// That are drawn or scored at once, padding included.
    pub(crate) samples: u32,
    /// Of recorded steps, each number of rows.
    pub(crate) recorded: Vec<u32>,
    /// Blocks that the table of a sequence has room for.
    pub(crate) table_stride: u32,
}

/// Each name is an activation; a step uses the first rows of each. bf16 but for `parts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Activations {
    /// The residual stream.
    pub(crate) hidden: Address,
    /// What a block reads.
    pub(crate) normed: Address,
    pub(crate) qkv: Address,
    pub(crate) q: Address,
    pub(crate) attended: Address,
    /// The same as a wide product reads it.
    pub(crate) widened: Address,
    /// What a block adds to the residual stream.
    pub(crate) branch: Address,
    pub(crate) gate_up: Address,
    pub(crate) gated: Address,
    /// f32: what products leave to be added up.
    pub(crate) parts: Address,
    /// One matrix of weights, for the library.
    pub(crate) dequantized: Address,
    /// Rows that the head reads.
    pub(crate) head_input: Address,
    pub(crate) logits: Address,
    /// i32: what was drawn, where the next step finds it.
    pub(crate) drawn: Address,
    /// i32: where what is only scored goes.
    pub(crate) not_drawn: Address,
}

/// What the host tells about a step. The staging memory is an image of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inputs {
    pub(crate) start: Address,
    /// Of recorded steps: one copy brings all of it.
    pub(crate) recorded: Places,
    /// Of all other steps.
    pub(crate) others: Places,
    /// i32 `[sequences][table_stride]`.
    pub(crate) tables: Region,
    /// i32 and f32.
    pub(crate) bias_tokens: Region,
    pub(crate) bias_values: Region,
    /// i32.
    pub(crate) forbidden: Region,
    /// i32: the tokens of sequences whose tokens are counted.
    pub(crate) counted: Region,
    pub(crate) spans: Region,
    pub(crate) end: Address,
}

/// Arrays, one element a token unless it says otherwise; see the operations that read them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Places {
    pub(crate) tokens: Region,
    pub(crate) angle_rows: Region,
    pub(crate) slots: Region,
    pub(crate) query_scale: Region,
    /// A row each, of those that decode.
    pub(crate) lengths: Region,
    pub(crate) starts: Region,
    /// Of those that do not.
    pub(crate) runs: Region,
    pub(crate) tiles: Region,
    /// One for each that is drawn or scored.
    pub(crate) indices: Region,
    pub(crate) draws: Region,
    pub(crate) positions: Region,
    /// From the first to the last.
    pub(crate) all: Region,
}

/// One of each for each that is drawn or scored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Results {
    pub(crate) outcomes: Region,
    pub(crate) top_tokens: Region,
    pub(crate) top_logprobs: Region,
}

/// Tokens that are counted at once: at least the longest sequence.
const COUNTED: u32 = 1 << 16;

impl BadLimits {
    pub(crate) fn check(limits: &StepLimits) -> Result<(), Self> {
        match limits {
            StepLimits { block_tokens, .. } if *block_tokens != BLOCK_TOKENS => Err(Self::BlockTokens(*block_tokens)),
            StepLimits { max_tokens, .. } if *max_tokens > MOST_TOKENS => Err(Self::Tokens(*max_tokens)),
            _ => Ok(()),
        }
    }
}

impl Memory {
    /// With a cache of so many blocks.
    pub(crate) fn place(
        card: &Card,
        blueprint: &Blueprint,
        shape: &Shape,
        held: &[LayerHeld],
        limits: &StepLimits,
        dequantized: Dequantized,
    ) -> Self {
        let mut arena = Arena::default();
        let weights = ModelWeights::place(&mut arena, blueprint, shape, held, dequantized);
        let rows = Rows::of(card, held, limits, blueprint.max_model_len, dequantized);
        let activations = Activations::place(&mut arena, card, shape, &rows, &weights);
        let inputs = Inputs::place(&mut arena, &rows, blueprint);
        let results = Results::place(&mut arena, rows.sampled());
        let counts = arena.take(words(u64::from(rows.sequences) * shape.size.vocab as u64));
        let one = KvPool::bytes_per_block(shape.layers(), shape.heads.kv) / 2;
        let mut half = || arena.take(one.saturating_mul(u64::from(limits.blocks))).at;
        let (keys, values) = (half(), half());
        let (layers, blocks) = (shape.layers(), limits.blocks);
        let pool = KvPool { keys, values, layers, blocks, kv_heads: shape.heads.kv };
        Self { weights, rows, activations, inputs, results, counts, pool, bytes: arena.used() }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of the counts.
    pub(crate) fn slots(&self) -> u32 {
        self.rows.sequences
    }

    pub(crate) fn counted_at_once(&self) -> usize {
        self.inputs.counted.bytes as usize / 4
    }

    /// Whether a row's lists fit where there is room for each sequence's.
    pub(crate) fn check_lists(row: &Row) -> Result<(), RowProblem> {
        let Some(draw) = &row.draw else { return Ok(()) };
        let (biases, forbidden) = (draw.params.logit_bias.len(), draw.forbidden.as_ref().map_or(0, |list| list.len()));
        if biases > SamplingParams::MOST_BIASES || forbidden > Draw::MOST_FORBIDDEN {
            return Err(RowProblem::Lists { biases, forbidden });
        }
        Ok(())
    }
}

impl Rows {
    fn of(card: &Card, held: &[LayerHeld], limits: &StepLimits, longest: u32, dequantized: Dequantized) -> Self {
        let form = held.first().map_or(WeightForm::Bf16, |held| held.gate_up.form());
        let most_quantized = if dequantized == Dequantized::Kept { most_quantized_rows(form) } else { u32::MAX };
        let (sequences, table_stride) = (limits.max_rows.max(1), longest.div_ceil(BLOCK_TOKENS));
        let rows = Self { form, most_quantized, sequences, tokens: 0, samples: 0, recorded: Vec::new(), table_stride };
        let recorded = rows.counts(card, sequences.min(MOST_RECORDED));
        let most = recorded.last().copied().unwrap_or(1);
        let tokens = rows.padded(card, limits.max_tokens.max(sequences)).max(most);
        let samples = padded_rows(card, WeightForm::Bf16, sequences.min(MOST_RECORDED)).max(most);
        Self { tokens, samples, recorded, ..rows }
    }

    /// The rows that are computed for so many.
    pub(crate) fn padded(&self, card: &Card, count: u32) -> u32 {
        let form = if count > self.most_quantized { WeightForm::Bf16 } else { self.form };
        padded_rows(card, form, count)
    }

    /// Every number of rows that is computed for any up to `most`.
    pub(crate) fn counts(&self, card: &Card, most: u32) -> Vec<u32> {
        every_count(|count| self.padded(card, count), most)
    }

    /// Groups that so many draws or scores take.
    fn groups(&self, count: u32) -> u32 {
        count.div_ceil(self.samples)
    }

    /// Draws and scores of one step, padding included.
    pub(crate) fn sampled(&self) -> u32 {
        (self.groups(self.sequences) + self.groups(self.tokens)) * self.samples
    }
}

impl Activations {
    fn place(arena: &mut Arena, card: &Card, shape: &Shape, rows: &Rows, weights: &ModelWeights) -> Self {
        let (hidden, attended, ffn) = (shape.hidden(), shape.attended(), shape.ffn());
        let mut take = |bytes: u64| arena.take(bytes).at;
        let matrix = |rows: u32, width: u32| halves(u64::from(rows) * u64::from(width));
        let tokens = |width: u32| matrix(rows.tokens, width);
        let projections = weights.layers.iter().flat_map(|layer| layer.projections());
        let anew = projections.filter(|it| it.matrix.form != WeightForm::Bf16 && it.dequantized.is_none());
        let largest = anew.map(|it| u64::from(it.matrix.outputs) * u64::from(it.matrix.inputs)).max();
        Self {
            hidden: take(tokens(hidden)),
            normed: take(tokens(hidden)),
            qkv: take(tokens(shape.heads.qkv_width())),
            q: take(tokens(attended)),
            attended: take(tokens(attended)),
            widened: take(matrix(rows.tokens.min(MOST_RECORDED), attended)),
            branch: take(tokens(hidden)),
            gate_up: take(tokens(2 * ffn)),
            gated: take(tokens(ffn)),
            parts: take(parts_bytes(card, rows, weights)),
            dequantized: take(halves(largest.unwrap_or(0))),
            head_input: take(matrix(rows.samples, hidden)),
            logits: take(matrix(rows.samples, shape.head_rows)),
            drawn: take(words(u64::from(rows.sampled()))),
            not_drawn: take(words(u64::from(rows.samples))),
        }
    }
}

/// What any product may leave to be added up.
fn parts_bytes(card: &Card, rows: &Rows, weights: &ModelWeights) -> u64 {
    let summed = |weighted: &Weighted, rows: u32| {
        let matrix = weighted.read_by(rows);
        let plan = product::plan(card, matrix.form, matrix.outputs, matrix.inputs, rows, Purpose::Summed);
        let parts = if plan.parts > 1 { plan.parts } else { 0 };
        words(u64::from(parts) * u64::from(rows) * u64::from(matrix.outputs))
    };
    let counts = rows.counts(card, rows.tokens.min(MOST_RECORDED));
    let projections = || weights.layers.iter().flat_map(|layer| layer.projections());
    counts.iter().flat_map(|rows| projections().map(|weighted| summed(&weighted, *rows))).max().unwrap_or(0)
}

impl Inputs {
    fn place(arena: &mut Arena, rows: &Rows, blueprint: &Blueprint) -> Self {
        let start = arena.take(0).at;
        let most = rows.recorded.last().copied().unwrap_or(1);
        let recorded = Places::place(arena, most, most, 0, most);
        let others = Places::place(arena, rows.tokens, rows.sequences, rows.sequences, rows.sampled());
        let sequences = u64::from(rows.sequences.max(most));
        let mut take = |count: u64| arena.take(words(count));
        let tables = take(sequences * u64::from(rows.table_stride));
        let bias_tokens = take(sequences * SamplingParams::MOST_BIASES as u64);
        let bias_values = take(sequences * SamplingParams::MOST_BIASES as u64);
        let forbidden = take(sequences * Draw::MOST_FORBIDDEN as u64);
        let counted = take(u64::from(COUNTED.max(blueprint.max_model_len)));
        let spans = arena.take(sequences * size_of::<CountSpan>() as u64);
        let end = arena.take(0).at;
        Self { start, recorded, others, tables, bias_tokens, bias_values, forbidden, counted, spans, end }
    }

    /// Of the staging memory.
    pub(crate) fn bytes(&self) -> usize {
        (self.end.0 - self.start.0) as usize
    }
}

impl Places {
    fn place(arena: &mut Arena, tokens: u32, decoding: u32, runs: u32, samples: u32) -> Self {
        let start = arena.take(0).at;
        let mut take = |count: u32, size: usize| arena.take(u64::from(count) * size as u64);
        let tiles = if runs > 0 { most_tiles(runs, tokens) } else { 0 };
        let places = Self {
            tokens: take(tokens, 4),
            angle_rows: take(tokens, 4),
            slots: take(tokens, 4),
            query_scale: take(tokens, 4),
            lengths: take(decoding, 4),
            starts: take(decoding + 1, 4),
            runs: take(runs, size_of::<Run>()),
            tiles: take(tiles, size_of::<Tile>()),
            indices: take(samples, 4),
            draws: take(samples, size_of::<SampleRow>()),
            positions: take(samples, 4),
            all: Region { at: start, bytes: 0 },
        };
        let end = arena.take(0).at;
        Self { all: Region { at: start, bytes: end.0 - start.0 }, ..places }
    }
}

impl Results {
    fn place(arena: &mut Arena, samples: u32) -> Self {
        let mut take = |size: usize| arena.take(u64::from(samples) * size as u64);
        Self { outcomes: take(size_of::<SampleResult>()), top_tokens: take(4 * TOP), top_logprobs: take(4 * TOP) }
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.outcomes.bytes + self.top_tokens.bytes + self.top_logprobs.bytes) as usize
    }
}

/// Whether a step asks for nothing but the next token of each of its sequences.
pub(crate) fn only_decodes(batch: &Batch) -> bool {
    batch.rows.iter().all(|row| row.tokens == 1 && row.score.is_none())
}
