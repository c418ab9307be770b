//! What a model's weights take, as they are stored and as they would be quantised: by headers alone.

use std::collections::BTreeMap;

use anyhow::Result;
use sluice_checkpoint::{ConfigFile, Form, LoadOptions, ModelFiles, Quantization, Silent, Weights};
use sluice_model::Blueprint;
use sluice_model::blueprint::{Role, TensorSpec};

/// Every tensor that a model is loaded from, or what is wrong with it.
pub(crate) struct WeightSizes {
    pub(crate) blueprint: Blueprint,
    found: Vec<(TensorSpec, Form)>,
    /// What would keep the model from loading.
    pub(crate) wrong: Vec<String>,
    /// Tensors in the files that the model does not have.
    pub(crate) unused: Vec<String>,
}

impl WeightSizes {
    pub(crate) fn read(files: &ModelFiles) -> Result<Self> {
        let blueprint = sluice_model::blueprint(&ConfigFile::read(files)?)?;
        let mut sizes = Self { blueprint, found: Vec::new(), wrong: Vec::new(), unused: Vec::new() };
        match Weights::open(files, LoadOptions::default(), Box::new(Silent)) {
            Ok(weights) => sizes.survey(&weights),
            Err(error) => sizes.wrong.push(error.to_string()),
        }
        Ok(sizes)
    }

    fn survey(&mut self, weights: &Weights) {
        for tensor in self.blueprint.tensors() {
            match weights.form(&tensor.name, &tensor.shape) {
                Ok(form) => self.found.push((tensor, form)),
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
        self.unused = weights.unclaimed();
    }

    /// How many bytes are stored in each form.
    pub(crate) fn stored(&self) -> BTreeMap<String, u64> {
        let mut forms = BTreeMap::new();
        for (tensor, form) in &self.found {
            *forms.entry(form.to_string()).or_default() += bytes(tensor, *form);
        }
        forms
    }

    /// In bytes, once every linear layer is quantised; the rest as it is stored.
    pub(crate) fn quantised(&self, quantization: Quantization) -> u64 {
        let quantised = match quantization {
            Quantization::None => None,
            Quantization::Int8 => Some(Form::Int8),
            Quantization::Nf4 => Some(Form::Nf4 { nested: true }),
        };
        let form = |tensor: &TensorSpec, stored| match tensor.role {
            Role::Projection => quantised.unwrap_or(stored),
            _ => stored,
        };
        self.found.iter().map(|(tensor, stored)| bytes(tensor, form(tensor, *stored))).sum()
    }

    /// Whether its linear layers could be converted and quantised: those that are quantised stay as they are.
    pub(crate) fn is_plain(&self) -> bool {
        self.found.iter().all(|(_, form)| matches!(form, Form::F32 | Form::F16 | Form::Bf16))
    }

    /// In bytes, with every matrix in one form.
    pub(crate) fn converted(&self, form: Form) -> u64 {
        self.found.iter().map(|(tensor, _)| bytes(tensor, form)).sum()
    }
}

fn bytes(tensor: &TensorSpec, form: Form) -> u64 {
    let (inputs, rows) = tensor.shape.split_last().map_or((0, 0), |(inputs, rows)| (*inputs, rows.iter().product()));
    form.bytes(rows, inputs)
}
