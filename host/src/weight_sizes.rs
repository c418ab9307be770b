//! What a model's weights take, as they are stored and as they would be held: by headers alone.

use std::collections::BTreeMap;

use anyhow::Result;
use sluice_checkpoint::{ConfigFile, Dtype, Form, LoadOptions, ModelFiles, Quantization, Silent, Weights};
use sluice_model::Blueprint;
use sluice_model::blueprint::{Role, TensorSpec};

/// Every tensor that a model is loaded from, or what is wrong with it.
pub(crate) struct WeightSizes {
    pub(crate) blueprint: Blueprint,
    /// With the form that it is stored in, if it is there.
    tensors: Vec<(TensorSpec, Option<Form>)>,
    /// What would keep the model from loading.
    pub(crate) wrong: Vec<String>,
    /// Tensors in the files that the model does not have.
    pub(crate) unused: Vec<String>,
}

/// Of a tensor that is missing: most checkpoints are in 16 bits.
const ASSUMED: Form = Form::Bf16;

impl WeightSizes {
    pub(crate) fn read(files: &ModelFiles) -> Result<Self> {
        let blueprint = sluice_model::blueprint(&ConfigFile::read(files)?)?;
        let tensors = blueprint.tensors().map(|tensor| (tensor, None)).collect();
        let mut sizes = Self { blueprint, tensors, wrong: Vec::new(), unused: Vec::new() };
        match Weights::open(files, LoadOptions::default(), Box::new(Silent)) {
            Ok(weights) => sizes.survey(&weights),
            Err(error) => sizes.wrong.push(error.to_string()),
        }
        Ok(sizes)
    }

    fn survey(&mut self, weights: &Weights) {
        for (tensor, form) in &mut self.tensors {
            match weights.form(&tensor.name, &tensor.shape) {
                Ok(found) => *form = Some(found),
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
        self.unused = weights.unclaimed();
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.iter().fold(0, |sum: u64, (tensor, _)| sum.saturating_add(tensor.parameters()))
    }

    /// How many bytes are stored in each form.
    pub(crate) fn stored(&self) -> BTreeMap<String, u64> {
        let mut forms: BTreeMap<String, u64> = BTreeMap::new();
        for (tensor, form) in self.tensors.iter().filter_map(|(tensor, form)| Some((tensor, (*form)?))) {
            let sum = forms.entry(form.to_string()).or_default();
            *sum = sum.saturating_add(bytes(tensor, form));
        }
        forms
    }

    /// In bytes, once it is loaded so; what is stored quantised stays as it is.
    pub(crate) fn held(&self, dtype: Dtype, quantization: Quantization) -> u64 {
        let dtype = match dtype {
            Dtype::Auto => None,
            Dtype::F32 => Some(Form::F32),
            Dtype::F16 => Some(Form::F16),
            Dtype::Bf16 => Some(Form::Bf16),
        };
        let quantised = match quantization {
            Quantization::None => None,
            Quantization::Int8 => Some(Form::Int8),
            Quantization::Nf4 => Some(Form::Nf4 { nested: true }),
        };
        let form = |role, stored| match role {
            _ if !plain(stored) => stored,
            Role::Projection => quantised.or(dtype).unwrap_or(stored),
            _ => dtype.unwrap_or(stored),
        };
        let sizes =
            self.tensors.iter().map(|(tensor, stored)| bytes(tensor, form(tensor.role, stored.unwrap_or(ASSUMED))));
        sizes.fold(0, u64::saturating_add)
    }

    /// Whether its linear layers could be converted and quantised: those that are quantised stay as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.tensors.iter().filter_map(|(_, form)| *form).all(plain)
    }
}

fn plain(form: Form) -> bool {
    matches!(form, Form::F32 | Form::F16 | Form::Bf16)
}

fn bytes(tensor: &TensorSpec, form: Form) -> u64 {
    let (inputs, rows) = tensor.shape.split_last().map_or((0, 0), |(inputs, rows)| (*inputs, rows.iter().product()));
    // Five bytes a number are more than any form takes.
    let countable = (rows as u64).checked_mul(inputs as u64).and_then(|numbers| numbers.checked_mul(5)).is_some();
    if countable { form.bytes(rows, inputs) } else { u64::MAX }
}
