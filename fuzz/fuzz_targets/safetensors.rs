//! A `model.safetensors`, quantised or not: every tensor is read or refused, and none reaches beyond the file.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use sluice_checkpoint::{LoadOptions, ModelFiles, Quantization, Silent, Weights};
use sluice_fuzz::Scratch;

/// Of the seeds' matrices: `[outputs, inputs]`.
const SHAPE: (usize, usize) = (5, 150);
/// Tensors that are read of one file.
const TENSORS: usize = 32;

thread_local! {
    static SCRATCH: LazyCell<Scratch> = LazyCell::new(|| Scratch::new("model.safetensors"));
}

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        scratch.write(bytes);
        for quantization in [Quantization::None, Quantization::Int8, Quantization::Nf4] {
            read(&ModelFiles::folder(scratch.folder()), LoadOptions { quantization, ..LoadOptions::default() });
        }
    });
});

fn read(files: &ModelFiles, options: LoadOptions) {
    let Ok(weights) = Weights::open(files, options, Box::new(Silent)) else { return };
    let (outputs, inputs) = SHAPE;
    for name in weights.unclaimed().iter().take(TENSORS) {
        let _form = weights.form(name, &[outputs, inputs]);
        let _numbers = weights.vector(name, 2 * inputs);
        if let Ok(matrix) = weights.projection(name, outputs, inputs) {
            assert_eq!(matrix.to_f32().len(), outputs * inputs, "{name}");
        }
    }
}
