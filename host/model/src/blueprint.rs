//! What a decoder is made of, as data: a model's file writes one, and whoever loads, lists or measures a model reads it.

use std::iter;

use sluice_checkpoint::{ConfigFile, LoadError};

use crate::model::Dimensions;
use crate::rope::Rope;

/// Far more than any model has: it bounds what a damaged configuration makes anyone do.
const MOST_LAYERS: usize = 1024;

/// A decoder whose layers are attention and a gated feed-forward block, each behind a root-mean-square norm.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// As `config.json` names it.
    pub architecture: &'static str,
    pub dimensions: Dimensions,
    /// Positions that the model was made for.
    pub max_model_len: u32,
    /// Of every norm.
    pub eps: f64,
    pub rope: Rope,
    /// Queries at positions beyond it, counted from 1, are multiplied by the logarithm of their position to this base.
    pub logn: Option<u32>,
    /// The head is the embedding's table.
    pub tied: bool,
    pub biases: Biases,
    pub names: Names,
}

/// Which of attention's projections have a bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Biases {
    pub qkv: bool,
    pub output: bool,
}

/// How a checkpoint calls its tensors, without `.weight` and `.bias`. Those of a layer follow `{layers}.{index}.`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names {
    pub embedding: &'static str,
    pub layers: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    pub attention_norm: &'static str,
    pub qkv: Qkv,
    /// Where each head of the queries and of the keys is normalised.
    pub head_norms: Option<[&'static str; 2]>,
    pub attention_output: &'static str,
    pub mlp_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qkv {
    Separate([&'static str; 3]),
    /// One matrix: queries, keys and values below each other.
    Fused(&'static str),
}

/// Matrices that share their input, computed as one product: y = x · Wᵀ + b.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Projection {
    pub parts: Vec<Matrix>,
    pub inputs: usize,
    pub bias: bool,
}

/// `{name}.weight` has the shape `[outputs, inputs]`, `{name}.bias` has `[outputs]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Matrix {
    pub name: String,
    pub outputs: usize,
}

/// `{name}.weight` has the shape `[width]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Norm {
    pub name: String,
    pub width: usize,
}

/// What one layer reads of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerTensors {
    pub attention_norm: Norm,
    pub qkv: Projection,
    /// Of the queries and of the keys.
    pub head_norms: Option<[Norm; 2]>,
    pub attention_output: Projection,
    pub mlp_norm: Norm,
    /// The gate's matrix, then the other.
    pub gate_up: Projection,
    pub down: Projection,
}

/// One tensor of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorSpec {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub role: Role,
}

/// What a tensor is for: whether quantisation takes it depends on that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Also the head's, where the two are tied.
    Embedding,
    Projection,
    Norm,
    Bias,
    Head,
}

impl Blueprint {
    /// Refuses sizes that contradict each other. `heads_key` and `dim_key` are what the file calls the heads of keys
    /// and values, and the width of a head.
    pub(crate) fn check(self, config: &ConfigFile, heads_key: &str, dim_key: &str) -> Result<Self, LoadError> {
        let Dimensions { layers, heads, kv_heads, head_dim, .. } = self.dimensions;
        if layers > MOST_LAYERS {
            return Err(
                config.wrong("num_hidden_layers", &format!("is {layers}, and at most {MOST_LAYERS} are served"))
            );
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.wrong(heads_key, &format!("is {kv_heads}, which does not divide {heads} heads")));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(config.wrong(dim_key, &format!("is {head_dim}, expected an even number")));
        }
        Ok(self)
    }

    /// The vectors of tokens, one row each.
    pub fn embedding(&self) -> Projection {
        self.table(self.names.embedding)
    }

    /// From a vector to a score for each token. `None`: it is the embedding's table.
    pub fn head(&self) -> Option<Projection> {
        (!self.tied).then(|| self.table(self.names.head))
    }

    /// Before the head.
    pub fn norm(&self) -> Norm {
        Norm { name: self.names.norm.to_owned(), width: self.dimensions.hidden }
    }

    pub fn layer(&self, index: usize) -> LayerTensors {
        let (names, size) = (self.names, &self.dimensions);
        let name = |part: &str| format!("{}.{index}.{part}", names.layers);
        let norm = |part: &str, width| Norm { name: name(part), width };
        let matrix = |part: &str, outputs| Matrix { name: name(part), outputs };
        let (query, key) = (size.heads * size.head_dim, size.kv_heads * size.head_dim);
        let qkv = match names.qkv {
            Qkv::Separate([q, k, v]) => vec![matrix(q, query), matrix(k, key), matrix(v, key)],
            Qkv::Fused(all) => vec![matrix(all, size.qkv_width())],
        };
        let project = |parts, inputs, bias| Projection { parts, inputs, bias };
        LayerTensors {
            attention_norm: norm(names.attention_norm, size.hidden),
            qkv: project(qkv, size.hidden, self.biases.qkv),
            head_norms: names.head_norms.map(|parts| parts.map(|part| norm(part, size.head_dim))),
            attention_output: project(vec![matrix(names.attention_output, size.hidden)], query, self.biases.output),
            mlp_norm: norm(names.mlp_norm, size.hidden),
            gate_up: project(vec![matrix(names.gate, size.ffn), matrix(names.up, size.ffn)], size.hidden, false),
            down: project(vec![matrix(names.down, size.hidden)], size.ffn, false),
        }
    }

    /// Every tensor that the model is loaded from, in the order in which it is.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let head = self.head().into_iter().flat_map(|head| head.tensors(Role::Head));
        let layers = (0..self.dimensions.layers).flat_map(|index| self.layer(index).tensors());
        self.embedding().tensors(Role::Embedding).chain(head).chain(layers).chain([self.norm().tensor()])
    }

    fn table(&self, name: &str) -> Projection {
        let rows = Matrix { name: name.to_owned(), outputs: self.dimensions.vocab };
        Projection { parts: vec![rows], inputs: self.dimensions.hidden, bias: false }
    }
}

impl LayerTensors {
    fn tensors(self) -> impl Iterator<Item = TensorSpec> {
        let norms = [self.attention_norm, self.mlp_norm].into_iter().chain(self.head_norms.into_iter().flatten());
        let projections = [self.qkv, self.attention_output, self.gate_up, self.down];
        let projections = projections.into_iter().flat_map(|projection| projection.tensors(Role::Projection));
        norms.map(|norm| norm.tensor()).chain(projections)
    }
}

impl Projection {
    pub fn outputs(&self) -> usize {
        self.parts.iter().map(|part| part.outputs).sum()
    }

    fn tensors(self, role: Role) -> impl Iterator<Item = TensorSpec> {
        let Self { parts, inputs, bias: biased } = self;
        parts.into_iter().flat_map(move |Matrix { name, outputs }| {
            let bias = || TensorSpec { name: format!("{name}.bias"), shape: vec![outputs], role: Role::Bias };
            let bias = biased.then(bias);
            iter::once(weight(name, vec![outputs, inputs], role)).chain(bias)
        })
    }
}

impl Norm {
    fn tensor(&self) -> TensorSpec {
        weight(self.name.clone(), vec![self.width], Role::Norm)
    }
}

impl TensorSpec {
    /// How many numbers it holds; saturating, as a damaged configuration may name sizes that no memory has.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().fold(1, |count: u64, size| count.saturating_mul(*size as u64))
    }
}

fn weight(name: String, shape: Vec<usize>, role: Role) -> TensorSpec {
    TensorSpec { name: format!("{name}.weight"), shape, role }
}
