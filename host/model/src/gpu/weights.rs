//! Where a model's weights stand in a GPU's memory, and in which form.

use sluice_checkpoint::{Form, LoadError, LoadOptions, Quantization, Weights, nf4};
use sluice_kernels::op::{BlockScales, Dequantize, HEAD_DIM, NestedScales};
use sluice_kernels::{Address, Arena, Matrix, Op, WeightForm};

use crate::blueprint::{self, Blueprint, LayerTensors, Norm, Projection};
use crate::gpu::shape::{Shape, halves, words};

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ModelWeights {
    /// bf16 `[head_rows][hidden]`.
    pub(crate) embedding: Address,
    /// Of the embedding's table, where the two are tied.
    pub(crate) head: Matrix,
    pub(crate) norm: Address,
    /// Of each variant and position: see [`sluice_kernels::op::Rope`].
    pub(crate) angles: Address,
    pub(crate) layers: Vec<LayerWeights>,
}

/// Norms and biases are bf16.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Address,
    pub(crate) qkv: Weighted,
    pub(crate) qkv_bias: Option<Address>,
    pub(crate) head_norms: Option<[Address; 2]>,
    pub(crate) attention_output: Weighted,
    pub(crate) mlp_norm: Address,
    pub(crate) gate_up: Weighted,
    pub(crate) down: Weighted,
}

/// A projection's matrix, and what it is dequantised with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Weighted {
    pub(crate) matrix: Matrix,
    pub(crate) scales: BlockScales,
    /// bf16, row-major, where it is kept.
    pub(crate) dequantized: Option<Address>,
}

/// What products of many rows read of quantised weights: they take bf16 alone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Dequantized {
    /// One matrix at a time, again in every step that needs it.
    #[default]
    Anew,
    /// All of them, beside the quantised ones: this takes no time, and as much memory as weights that are not quantised.
    Kept,
}

/// How a projection is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    Bf16,
    Int8,
    /// With exact scales of f32.
    Nf4,
    /// With exact scales that are quantised themselves, of so many groups.
    NestedNf4 {
        groups: u32,
    },
}

/// How a layer's projections are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerHeld {
    pub(crate) qkv: Held,
    pub(crate) attention_output: Held,
    pub(crate) gate_up: Held,
    pub(crate) down: Held,
}

/// Rows that quantised weights are read for although they are kept in bf16 too. Steps of a 14B on an H200, in ms with nf4,
/// int8 and bf16: 13.3, 14.6 and 13.3 of 128 rows, 24.1, 24.5 and 20.9 of 256; of 64, by the kernels' own benches, 8.0, 9.5
/// and 10.9.
pub(crate) fn most_quantized_rows(form: WeightForm) -> u32 {
    if form == WeightForm::Int8 { 64 } else { 128 }
}

impl ModelWeights {
    pub(crate) fn place(
        arena: &mut Arena,
        blueprint: &Blueprint,
        shape: &Shape,
        held: &[LayerHeld],
        dequantized: Dequantized,
    ) -> Self {
        let (rows, hidden) = (shape.head_rows, shape.hidden());
        let table = |arena: &mut Arena| Weighted::place(arena, Held::Bf16, (rows, hidden), dequantized).matrix;
        let embedding = table(arena);
        let variants = u64::from(blueprint.rope.variants(blueprint.max_model_len).count());
        let pairs = variants * u64::from(blueprint.max_model_len) * u64::from(HEAD_DIM / 2);
        Self {
            embedding: embedding.weights,
            head: if blueprint.tied { embedding } else { table(arena) },
            norm: arena.take(halves(u64::from(hidden))).at,
            angles: arena.take(words(2 * pairs)).at,
            layers: held.iter().map(|held| LayerWeights::place(arena, blueprint, shape, held, dequantized)).collect(),
        }
    }
}

impl LayerWeights {
    fn place(
        arena: &mut Arena,
        blueprint: &Blueprint,
        shape: &Shape,
        held: &LayerHeld,
        dequantized: Dequantized,
    ) -> Self {
        let (hidden, ffn, qkv) = (shape.hidden(), shape.ffn(), shape.heads.qkv_width());
        let vector = |arena: &mut Arena, width: u32| arena.take(halves(u64::from(width))).at;
        let matrix =
            |arena: &mut Arena, held, outputs, inputs| Weighted::place(arena, held, (outputs, inputs), dequantized);
        Self {
            attention_norm: vector(arena, hidden),
            qkv: matrix(arena, held.qkv, qkv, hidden),
            qkv_bias: blueprint.biases.qkv.then(|| vector(arena, qkv)),
            head_norms: blueprint.names.head_norms.map(|names| names.map(|_| vector(arena, HEAD_DIM))),
            attention_output: matrix(arena, held.attention_output, hidden, shape.attended()),
            mlp_norm: vector(arena, hidden),
            gate_up: matrix(arena, held.gate_up, 2 * ffn, hidden),
            down: matrix(arena, held.down, hidden, ffn),
        }
    }

    /// In the order in which they are multiplied.
    pub(crate) fn projections(&self) -> [Weighted; 4] {
        [self.qkv, self.attention_output, self.gate_up, self.down]
    }
}

impl Weighted {
    fn place(arena: &mut Arena, held: Held, (outputs, inputs): (u32, u32), dequantized: Dequantized) -> Self {
        let form = held.form();
        let (weights, scales) = form.bytes(u64::from(outputs), u64::from(inputs));
        let (weights, scales) = (arena.take(weights).at, arena.take(scales).at);
        let matrix = Matrix { form, outputs, inputs, weights, scales, unit: 1.0 };
        let blocks = u64::from(outputs) * u64::from(inputs) / nf4::BLOCK as u64;
        let scales = match held {
            Held::Bf16 | Held::Int8 => BlockScales::Own,
            Held::Nf4 => BlockScales::F32(arena.take(words(blocks)).at),
            Held::NestedNf4 { groups } => BlockScales::Nested(NestedScales {
                codes: arena.take(blocks).at,
                map: arena.take(words(256)).at,
                groups: arena.take(words(2 * u64::from(groups))).at,
                first_blocks: arena.take(words(u64::from(outputs))).at,
            }),
        };
        let copied = form != WeightForm::Bf16 && dequantized == Dequantized::Kept;
        let dequantized =
            copied.then(|| arena.take(WeightForm::Bf16.bytes(u64::from(outputs), u64::from(inputs)).0).at);
        Self { matrix, scales, dequantized }
    }

    /// What a product of so many rows had best read.
    pub(crate) fn read_by(&self, rows: u32) -> Matrix {
        self.kept().filter(|_| rows > most_quantized_rows(self.matrix.form)).unwrap_or(self.matrix)
    }

    /// In bf16.
    pub(crate) fn kept(&self) -> Option<Matrix> {
        self.dequantized.map(|at| self.in_bf16(at))
    }

    /// Dequantised to `weights`.
    pub(crate) fn in_bf16(&self, weights: Address) -> Matrix {
        Matrix { form: WeightForm::Bf16, weights, unit: 1.0, ..self.matrix }
    }

    pub(crate) fn dequantize(&self, out: Address) -> Op {
        Op::Dequantize(Dequantize { matrix: self.matrix, scales: self.scales, out })
    }
}

impl LayerHeld {
    /// By headers alone.
    pub(crate) fn of(
        weights: &Weights,
        options: &LoadOptions,
        shape: &Shape,
        layer: &LayerTensors,
    ) -> Result<Self, LoadError> {
        let held = |projection, whole| Held::of(weights, options, projection, whole);
        Ok(Self {
            qkv: held(&layer.qkv, true)?,
            attention_output: held(&layer.attention_output, !shape.pads_heads())?,
            gate_up: held(&layer.gate_up, true)?,
            down: held(&layer.down, true)?,
        })
    }
}

impl Held {
    /// One kernel multiplies all of a projection: where its matrices differ, and where there is no kernel for what they
    /// are held as, they are widened to bf16. `whole`: its blocks of inputs are those of the checkpoint.
    fn of(weights: &Weights, options: &LoadOptions, projection: &Projection, whole: bool) -> Result<Self, LoadError> {
        let mut forms = projection.parts.iter().map(|part| {
            let found = weights.form(&format!("{}.weight", part.name), &[part.outputs, projection.inputs])?;
            Ok::<_, LoadError>(match (options.quantization, found) {
                (Quantization::Nf4, Form::F32 | Form::F16 | Form::Bf16) => Form::Nf4 { nested: true },
                (Quantization::Int8, Form::F32 | Form::F16 | Form::Bf16) => Form::Int8,
                (_, found) => found,
            })
        });
        let first = forms.next().unwrap_or(Ok(Form::Bf16))?;
        let alike = forms.try_fold(true, |alike, form| Ok::<_, LoadError>(alike && form? == first))?;
        let groups = |part: &blueprint::Matrix| {
            (part.outputs * projection.inputs).div_ceil(nf4::BLOCK).div_ceil(nf4::NESTED_BLOCK) as u32
        };
        Ok(match first {
            Form::Int8 if alike => Self::Int8,
            Form::Nf4 { nested: true } if alike && whole => {
                Self::NestedNf4 { groups: projection.parts.iter().map(groups).sum() }
            }
            Form::Nf4 { .. } if alike => Self::Nf4,
            _ => Self::Bf16,
        })
    }

    pub(crate) fn form(self) -> WeightForm {
        match self {
            Self::Bf16 => WeightForm::Bf16,
            Self::Int8 => WeightForm::Int8,
            Self::Nf4 | Self::NestedNf4 { .. } => WeightForm::Nf4,
        }
    }
}

/// Names a norm's tensor.
pub(crate) fn norm_name(norm: &Norm) -> String {
    format!("{}.weight", norm.name)
}
