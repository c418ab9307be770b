//! Where a model's weights stand in a GPU's memory, and in which form.

use sluice_checkpoint::{Form, LoadError, LoadOptions, Quantization, Weights};
use sluice_kernels::op::HEAD_DIM;
use sluice_kernels::{Address, Arena, Matrix, WeightForm};

use crate::blueprint::{Blueprint, LayerTensors, Norm, Projection};
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
    pub(crate) qkv: Matrix,
    pub(crate) qkv_bias: Option<Address>,
    pub(crate) head_norms: Option<[Address; 2]>,
    pub(crate) attention_output: Matrix,
    pub(crate) mlp_norm: Address,
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
}

/// The forms that a layer's projections take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerForms {
    pub(crate) qkv: WeightForm,
    pub(crate) attention_output: WeightForm,
    pub(crate) gate_up: WeightForm,
    pub(crate) down: WeightForm,
}

impl ModelWeights {
    pub(crate) fn place(arena: &mut Arena, blueprint: &Blueprint, shape: &Shape, forms: &[LayerForms]) -> Self {
        let (rows, hidden) = (shape.head_rows, shape.hidden());
        let table = |arena: &mut Arena| place_matrix(arena, WeightForm::Bf16, rows, hidden);
        let embedding = table(arena);
        let variants = u64::from(blueprint.rope.variants(blueprint.max_model_len).count());
        let pairs = variants * u64::from(blueprint.max_model_len) * u64::from(HEAD_DIM / 2);
        Self {
            embedding: embedding.weights,
            head: if blueprint.tied { embedding } else { table(arena) },
            norm: arena.take(halves(u64::from(hidden))).at,
            angles: arena.take(words(2 * pairs)).at,
            layers: forms.iter().map(|forms| LayerWeights::place(arena, blueprint, shape, forms)).collect(),
        }
    }
}

impl LayerWeights {
    fn place(arena: &mut Arena, blueprint: &Blueprint, shape: &Shape, forms: &LayerForms) -> Self {
        let (hidden, ffn, qkv) = (shape.hidden(), shape.ffn(), shape.heads.qkv_width());
        let vector = |arena: &mut Arena, width: u32| arena.take(halves(u64::from(width))).at;
        Self {
            attention_norm: vector(arena, hidden),
            qkv: place_matrix(arena, forms.qkv, qkv, hidden),
            qkv_bias: blueprint.biases.qkv.then(|| vector(arena, qkv)),
            head_norms: blueprint.names.head_norms.map(|names| names.map(|_| vector(arena, HEAD_DIM))),
            attention_output: place_matrix(arena, forms.attention_output, hidden, shape.attended()),
            mlp_norm: vector(arena, hidden),
            gate_up: place_matrix(arena, forms.gate_up, 2 * ffn, hidden),
            down: place_matrix(arena, forms.down, hidden, ffn),
        }
    }

    /// In the order in which they are multiplied.
    pub(crate) fn matrices(&self) -> [Matrix; 4] {
        [self.qkv, self.attention_output, self.gate_up, self.down]
    }
}

impl LayerForms {
    /// By headers alone.
    pub(crate) fn of(weights: &Weights, options: &LoadOptions, layer: &LayerTensors) -> Result<Self, LoadError> {
        let form = |projection: &Projection| form(weights, options, projection);
        Ok(Self {
            qkv: form(&layer.qkv)?,
            attention_output: form(&layer.attention_output)?,
            gate_up: form(&layer.gate_up)?,
            down: form(&layer.down)?,
        })
    }
}

/// One kernel multiplies all of a projection: where its matrices differ, and where there is no kernel for what they are
/// held as, they are widened to bf16.
fn form(weights: &Weights, options: &LoadOptions, projection: &Projection) -> Result<WeightForm, LoadError> {
    let mut forms = projection.parts.iter().map(|part| {
        let found = weights.form(&format!("{}.weight", part.name), &[part.outputs, projection.inputs])?;
        Ok(match (options.quantization, found) {
            (Quantization::Int8, _) | (Quantization::None, Form::Int8) => WeightForm::Int8,
            (Quantization::Nf4, _) | (Quantization::None, Form::Nf4 { .. }) => WeightForm::Nf4,
            (Quantization::None, _) => WeightForm::Bf16,
        })
    });
    let first = forms.next().unwrap_or(Ok(WeightForm::Bf16))?;
    let alike = forms.try_fold(true, |alike, form| Ok::<_, LoadError>(alike && form? == first))?;
    Ok(if alike { first } else { WeightForm::Bf16 })
}

fn place_matrix(arena: &mut Arena, form: WeightForm, outputs: u32, inputs: u32) -> Matrix {
    let (weights, scales) = form.bytes(u64::from(outputs), u64::from(inputs));
    let (weights, scales) = (arena.take(weights).at, arena.take(scales).at);
    Matrix { form, outputs, inputs, weights, scales, unit: 1.0 }
}

/// Names a norm's tensor.
pub(crate) fn norm_name(norm: &Norm) -> String {
    format!("{}.weight", norm.name)
}
