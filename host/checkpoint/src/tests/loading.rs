//! Good files: in the dtype and the form that are asked for, from one file or shards, with all that was read counted.

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype as FileDtype;
use serde_json::json;

use super::ALLOCATION;
use super::allocations::{largest, limited};
use super::folder::{Folder, Tensors, f32s, serialize};
use crate::{
    Dtype, EmbeddedFiles, Form, LoadFormat, LoadOptions, MatrixData, ModelFiles, Progress, Quantization, Silent,
    StoredMatrix, Weights, dummy, int8, nf4,
};

/// Of as many rows and inputs as no block is wide.
const SHAPE: [usize; 2] = [7, 37];

fn numbers() -> Vec<f32> {
    dummy::tensor(5, "numbers", &SHAPE)
}

fn tensors(names: &[&str]) -> Tensors {
    names.iter().map(|name| ((*name).to_owned(), (FileDtype::F32, SHAPE.to_vec(), f32s(&numbers())))).collect()
}

fn matrix(outputs: usize, inputs: usize, seed: u64) -> StoredMatrix<'static> {
    let data = MatrixData::F32(f32s(&dummy::tensor(seed, "matrix", &[outputs, inputs])).into());
    StoredMatrix { outputs, inputs, data }
}

#[test]
fn matrices_come_in_the_dtype_that_is_asked_for() {
    let folder = Folder::of(&tensors(&["m"]));
    let check = |dtype, form, round: fn(f32) -> f32| {
        let weights = folder.weights(LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        let expected: Vec<f32> = numbers().into_iter().map(round).collect();
        for matrix in [weights.table("m", 7, 37).unwrap(), weights.projection("m", 7, 37).unwrap()] {
            assert_eq!((matrix.form(), matrix.to_f32()), (form, expected.clone()));
        }
    };
    check(Dtype::Auto, Form::F32, |number| number);
    check(Dtype::F32, Form::F32, |number| number);
    check(Dtype::F16, Form::F16, |number| f16::from_f32(number).to_f32());
    check(Dtype::Bf16, Form::Bf16, |number| bf16::from_f32(number).to_f32());
}

#[test]
fn shards_are_one_model() {
    let folder = Folder::new();
    folder.write("one.safetensors", serialize(&tensors(&["a", "left"])));
    folder.write("two.safetensors", serialize(&tensors(&["b"])));
    let map = json!({"a": "one.safetensors", "left": "one.safetensors", "b": "two.safetensors"});
    folder.write("model.safetensors.index.json", json!({ "weight_map": map }).to_string());
    let weights = folder.weights(LoadOptions::default()).unwrap();
    assert_eq!(weights.table("a", 7, 37).unwrap().to_f32(), numbers());
    assert_eq!(weights.table("b", 7, 37).unwrap().to_f32(), numbers());
    assert_eq!((weights.unclaimed(), weights.parameters()), (vec!["left".to_owned()], 2 * 7 * 37));
}

/// Numbers that would stop a load do not hide the form.
#[test]
fn a_form_is_read_without_numbers() {
    let mut damaged = tensors(&["m", "n"]);
    damaged.get_mut("m").unwrap().2.fill(0xff);
    let weights = Folder::of(&damaged).weights(LoadOptions::default()).unwrap();
    assert_eq!(weights.form("m", &SHAPE).unwrap(), Form::F32);
    assert_eq!((weights.unclaimed(), weights.parameters()), (vec!["n".to_owned()], 0));
    assert!(weights.table("m", 7, 37).is_err());
    assert!(weights.form("n", &[7, 38]).is_err());
    assert_eq!(weights.unclaimed(), [""; 0], "a tensor of the wrong shape is one that was asked for");
}

struct Last(Arc<Mutex<(u64, u64)>>);

impl Progress for Last {
    fn advanced(&self, bytes: u64, total: u64) {
        *self.0.lock().unwrap() = (bytes, total);
    }
}

#[test]
fn progress_ends_where_all_is_read() {
    let folder = Folder::of(&tensors(&["a", "b", "c"]));
    let last = Arc::new(Mutex::new((0, 0)));
    let progress = Box::new(Last(Arc::clone(&last)));
    let weights = Weights::open(&folder.files(), LoadOptions::default(), progress).unwrap();
    for (count, name) in ["a", "b", "c"].into_iter().enumerate() {
        weights.table(name, 7, 37).unwrap();
        assert_eq!(*last.lock().unwrap(), ((count as u64 + 1) * 4 * 7 * 37, 3 * 4 * 7 * 37));
    }
}

#[test]
fn random_weights_are_in_the_numbers_that_the_configuration_names() {
    let check = |config: &'static [(&str, &[u8])], dtype, form| {
        let files = ModelFiles::Embedded(EmbeddedFiles { name: "random", files: config });
        let options = LoadOptions { format: LoadFormat::Dummy { seed: 5 }, dtype, ..LoadOptions::default() };
        let weights = Weights::open(&files, options, Box::new(Silent)).unwrap();
        let matrix = weights.projection("numbers", 7, 37).unwrap();
        assert_eq!(matrix.form(), form);
        for (random, number) in matrix.to_f32().iter().zip(numbers()) {
            assert!((random - number).abs() <= number.abs() / 256.0);
        }
    };
    check(&[], Dtype::Auto, Form::F32);
    check(&[("config.json", b"{}")], Dtype::Auto, Form::F32);
    check(&[("config.json", br#"{"torch_dtype": "float32"}"#)], Dtype::Auto, Form::F32);
    check(&[("config.json", br#"{"torch_dtype": "float16"}"#)], Dtype::Auto, Form::F16);
    check(&[("config.json", br#"{"dtype": "bfloat16"}"#)], Dtype::Auto, Form::Bf16);
    check(&[("config.json", br#"{"dtype": "bfloat16"}"#)], Dtype::F16, Form::F16);
}

#[test]
fn random_weights_have_an_end() {
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 5 }, ..LoadOptions::default() };
    let weights = Weights::open(&ModelFiles::folder("nowhere"), options, Box::new(Silent)).unwrap();
    assert_eq!(weights.form("m", &[1 << 24, 1 << 24]).unwrap(), Form::F32);
    for shape in [[1 << 24, 1 << 24], [1 << 40, 1 << 40]] {
        let (error, largest) = largest(|| weights.table("m", shape[0], shape[1]).unwrap_err().to_string());
        assert!(error.contains("`m`") && error.contains("configuration is damaged"), "{error}");
        assert!(largest <= ALLOCATION);
    }
}

#[test]
fn random_weights_that_no_memory_holds_are_refused() {
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 5 }, dtype: Dtype::F16, ..LoadOptions::default() };
    let weights = Weights::open(&ModelFiles::folder("nowhere"), options, Box::new(Silent)).unwrap();
    let error = limited(1 << 20, || weights.table("m", 1 << 10, 1 << 10).unwrap_err().to_string());
    assert!(error.contains("`m`") && error.contains("2097152 bytes") && error.contains("dtype"), "{error}");
    limited(3 << 20, || weights.table("m", 1 << 10, 1 << 10).unwrap());
}

#[test]
fn random_weights_are_quantised_too() {
    for (quantization, form) in [(Quantization::Int8, Form::Int8), (Quantization::Nf4, Form::Nf4 { nested: true })] {
        let options = LoadOptions { format: LoadFormat::Dummy { seed: 5 }, quantization, ..LoadOptions::default() };
        let weights = Weights::open(&ModelFiles::folder("nowhere"), options, Box::new(Silent)).unwrap();
        assert_eq!(weights.projection("numbers", 7, 37).unwrap().form(), form);
        assert_eq!(weights.table("numbers", 7, 37).unwrap().form(), Form::F32);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Blocks that straddle rows, an odd number of codes, a last block that is short.
    #[test]
    fn what_is_quantised_is_near_and_read_by_rows_too(outputs in 1usize..40, inputs in 1usize..200, seed: u64) {
        let plain = matrix(outputs, inputs, seed);
        let exact = plain.to_f32();
        let most = exact.iter().fold(0.0f32, |most, number| most.max(number.abs()));
        let forms = [
            (MatrixData::Int8(int8::quantize(&plain)), 0.5 / 127.0),
            // Half the widest gap of the table, and what is lost of the scales.
            (MatrixData::Nf4(nf4::quantize(&plain)), 0.16),
        ];
        for (data, error) in forms {
            let quantised = StoredMatrix { outputs, inputs, data };
            let numbers = quantised.to_f32();
            for (number, exact) in numbers.iter().zip(&exact) {
                prop_assert!((number - exact).abs() <= error * most * 1.01, "{} is {}", number, exact);
            }
            let mut row = vec![0.0; inputs];
            for (index, expected) in numbers.chunks(inputs).enumerate() {
                quantised.rows_to_f32(index, &mut row);
                prop_assert_eq!(&row, expected);
            }
        }
    }
}
