//! Safetensors and checkpoints of bitsandbytes with one thing wrong: an error that names it, and what to do.

use std::fs;

use safetensors::Dtype;
use safetensors::tensor::SafeTensors;
use serde_json::{Value, json};

use super::ALLOCATION;
use super::allocations::largest;
use super::folder::{Folder, Tensors, f32s, serialize};
use crate::{LoadError, LoadOptions, Quantization};

const MADE: &[u8] = include_bytes!("../../testdata/bitsandbytes.safetensors");
const INDEX: &str = "model.safetensors.index.json";
const FILE: &str = "model.safetensors";
const PLAIN: &str = "f32.plain.weight";
const NESTED: &str = "f32.nested.weight";
const STATE: &str = "f32.nested.weight.quant_state.bitsandbytes__nf4";
const INT8: &str = "f32.int8.weight";

/// All that bitsandbytes made.
pub(super) fn made() -> Tensors {
    let file = SafeTensors::deserialize(MADE).unwrap();
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.iter().map(tensor).collect()
}

/// Every form that is read, one matrix of each.
pub(super) fn read_all(folder: &Folder, options: LoadOptions) -> Result<(), LoadError> {
    let weights = folder.weights(options)?;
    for name in ["f32.input", "f16.input", "bf16.input", PLAIN, NESTED, INT8] {
        weights.form(name, &[5, 150])?;
        weights.projection(name, 5, 150)?.to_f32();
    }
    weights.vector("scales.input", 300)?;
    Ok(())
}

fn check_folder(folder: &Folder, options: LoadOptions, expected: &[&str]) {
    let (read, largest) = largest(|| read_all(folder, options));
    assert!(largest <= ALLOCATION, "{largest} bytes were allocated at once");
    let error = read.expect_err("the files are damaged").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

fn check_file(bytes: impl AsRef<[u8]>, expected: &[&str]) {
    let folder = Folder::new();
    folder.write(FILE, bytes);
    check_folder(&folder, LoadOptions::default(), expected);
}

fn check_with(damage: impl FnOnce(&mut Tensors), options: LoadOptions, expected: &[&str]) {
    let mut tensors = made();
    damage(&mut tensors);
    check_folder(&Folder::of(&tensors), options, expected);
}

fn check(damage: impl FnOnce(&mut Tensors), expected: &[&str]) {
    check_with(damage, LoadOptions::default(), expected);
}

/// Numbers of one tensor, over those that are there.
fn write(name: &str, at: usize, bytes: &[u8]) -> impl FnOnce(&mut Tensors) {
    move |tensors| tensors.get_mut(name).unwrap().2[at..at + bytes.len()].copy_from_slice(bytes)
}

fn replace(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> impl FnOnce(&mut Tensors) {
    move |tensors| drop(tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes)))
}

fn change_state(change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Tensors) {
    |tensors| {
        let (dtype, _, bytes) = &tensors[STATE];
        let mut state = serde_json::from_slice(bytes).unwrap();
        change(&mut state);
        let bytes = state.to_string().into_bytes();
        tensors.insert(STATE.to_owned(), (*dtype, vec![bytes.len()], bytes));
    }
}

#[test]
fn what_is_whole_is_read() {
    read_all(&Folder::of(&made()), LoadOptions::default()).unwrap();
}

#[test]
fn headers() {
    let whole = serialize(&made());
    let damaged = [FILE, "truncated or damaged", "download it again"];
    for end in [0, 7, 8, 100, 2000, whole.len() - 1] {
        check_file(&whole[..end], &damaged);
    }
    check_file([&whole[..], &[0]].concat(), &damaged);
    for length in [u64::MAX, 1 << 40, 99_999_999, 3] {
        check_file([&length.to_le_bytes()[..], &whole[8..]].concat(), &damaged);
    }
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0; 8]].concat();
    let a = r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#;
    check_file(header(&format!("{{{a}, {a}}}")), &[FILE, "tensor `a` twice", "download it again"]);
    for tensor in [
        r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}"#,
        r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}"#,
        r#""a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}"#,
        r#""a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}"#,
        r#""a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}"#,
        r#""a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}"#,
        r#""a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#,
    ] {
        check_file(header(&format!("{{{tensor}}}")), &damaged);
    }
}

#[test]
fn shards() {
    let shard = |map: Value, expected: &[&str]| {
        let folder = Folder::new();
        folder.write("one.safetensors", MADE);
        folder.write(INDEX, json!({ "weight_map": map }).to_string());
        check_folder(&folder, LoadOptions::default(), expected);
    };
    shard(json!({"f32.input": "two.safetensors"}), &["two.safetensors", "no file"]);
    shard(json!({"f32.input": "../one.safetensors"}), &[INDEX, "../one.safetensors", "not a plain file name"]);
    shard(json!({"f32.input": "one.safetensors"}), &["f16.input", "missing", INDEX]);
    shard(json!({"lm_head.weight": "one.safetensors"}), &["lm_head.weight", "missing", "one.safetensors", INDEX]);
    shard(json!({"f32.input": 3}), &[INDEX, "f32.input", "shard's file name"]);
    shard(json!({}), &[INDEX, "weight_map"]);
    shard(json!(null), &[INDEX, "weight_map"]);
}

#[test]
fn plain_tensors() {
    check(|tensors| drop(tensors.remove("f32.input")), &["`f32.input`", "missing", FILE]);
    check(replace("f32.input", Dtype::F32, &[150, 5], vec![0; 3000]), &["`f32.input`", "[150, 5]", "[5, 150]"]);
    check(replace("f32.input", Dtype::F64, &[5, 150], vec![0; 6000]), &["`f32.input`", "F64", "F32, F16, BF16"]);
    let nan = f32::NAN.to_le_bytes();
    check(write("f32.input", 4 * 17, &nan), &["`f32.input`", "NaN at index 17", "download it again"]);
    check(write("f32.input", 4 * 749, &f32::NEG_INFINITY.to_le_bytes()), &["`f32.input`", "-inf at index 749"]);
    check(write("f16.input", 2 * 300, &[0x00, 0x7c]), &["`f16.input`", "inf at index 300"]);
    check(write("bf16.input", 2 * 300, &[0x81, 0x7f]), &["`bf16.input`", "NaN at index 300"]);
    check(write("scales.input", 4 * 3, &nan), &["`scales.input`", "NaN at index 3"]);
}

#[test]
fn numbers_that_do_not_fit() {
    let options = |dtype: &str| LoadOptions { dtype: dtype.parse().unwrap(), ..LoadOptions::default() };
    let large = f32s(&[70_000.0]);
    check_with(
        write("f32.input", 4 * 70, &large),
        options("float16"),
        &["`f32.input`", "70000 at index 70", "float16", "float32"],
    );
    let larger = f32s(&[f32::MAX]);
    check_with(
        write("f32.input", 4 * 70, &larger),
        options("bfloat16"),
        &["`f32.input`", "at index 70", "bfloat16 cannot hold"],
    );
}

#[test]
fn other_quantizations() {
    let options = |quantization| LoadOptions { quantization, ..LoadOptions::default() };
    check_with(|_| (), options(Quantization::Int8), &[PLAIN, "nf4", "int8", "leave the quantization out"]);
    check_with(|_| (), options(Quantization::Nf4), &[INT8, "int8", "nf4", "leave the quantization out"]);
    let fp4 = |tensors: &mut Tensors| {
        let state = tensors.remove(STATE).unwrap();
        tensors.insert(STATE.replace("nf4", "fp4"), state);
    };
    check(fp4, &[NESTED, "FP4", "NF4 and INT8"]);
}

#[test]
fn quantisation_states() {
    check(|tensors| drop(tensors.remove(STATE)), &[NESTED, "U8", "F32, F16, BF16"]);
    check(write(STATE, 0, b"["), &[STATE, "not valid JSON", "quantise the checkpoint again"]);
    check(replace(STATE, Dtype::F32, &[1], vec![0; 4]), &[STATE, "no quantisation state"]);
    check(replace(STATE, Dtype::U8, &[1 << 17], vec![b' '; 1 << 17]), &[STATE, "no quantisation state"]);
    for (key, value, says) in [
        ("quant_type", json!("fp4"), "quant_type \"fp4\", expected \"nf4\""),
        ("blocksize", json!(128), "blocksize 128, expected 64"),
        ("shape", json!([150, 5]), "shape [150,5], expected [5,150]"),
        ("nested_blocksize", json!(512), "nested_blocksize 512, expected 256"),
        ("nested_dtype", json!("float16"), "nested_dtype \"float16\""),
        ("nested_offset", json!("one"), "no nested_offset"),
        ("nested_offset", json!(1e300), "no nested_offset"),
    ] {
        check(change_state(|state| state[key] = value), &[STATE, says]);
    }
    check(change_state(|state| drop(state.as_object_mut().unwrap().remove("shape"))), &[STATE, "has no shape"]);
    check(change_state(|state| *state = json!([])), &[STATE, "has no quant_type"]);
}

#[test]
fn quantised_parts() {
    let part = |matrix: &str, part: &str| format!("{matrix}.{part}");
    for (name, shape) in [
        (part(PLAIN, "quant_map"), "[16]"),
        (part(NESTED, "nested_quant_map"), "[256]"),
        (part(PLAIN, "absmax"), "[12]"),
        (part(NESTED, "nested_absmax"), "[1]"),
        ("f32.int8.SCB".to_owned(), "[5]"),
    ] {
        check(|tensors| drop(tensors.remove(&name)), &[&name, "missing", FILE]);
        check(replace(&name, Dtype::F32, &[7], vec![0; 28]), &[&name, "[7]", shape]);
        check(replace(&name, Dtype::I32, &[7], vec![0; 28]), &[&name, "I32", "F32"]);
        check(write(&name, 0, &f32::NAN.to_le_bytes()), &[&format!("`{name}`"), "NaN at index 0"]);
    }
    let absmax = part(NESTED, "absmax");
    check(replace(&absmax, Dtype::U8, &[11], vec![0; 11]), &[&absmax, "[11]", "[12]"]);
    check(replace(NESTED, Dtype::U8, &[375], vec![0; 375]), &[NESTED, "[375]", "[375, 1]"]);
    check(replace(NESTED, Dtype::U8, &[374, 1], vec![0; 374]), &[NESTED, "[374, 1]", "[375, 1]"]);
    check(replace(INT8, Dtype::I8, &[5, 149], vec![0; 745]), &[INT8, "[5, 149]", "[5, 150]"]);
    check(replace("f32.int8.weight_format", Dtype::U8, &[], vec![2]), &["f32.int8.weight_format", "row by row"]);
    check(write(&part(PLAIN, "quant_map"), 4, &f32s(&[1.5])), &["`f32.plain.weight.quant_map`", "1.5 at index 1"]);
    check(write("f32.int8.SCB", 4, &f32s(&[f32::MAX])), &["`f32.int8.SCB`", "at index 1"]);
}

#[test]
fn a_folder_without_weights() {
    let folder = Folder::of(&made());
    fs::remove_file(match folder.files() {
        crate::ModelFiles::Folder(path) => path.join(FILE),
        other => panic!("{other:?}"),
    })
    .unwrap();
    check_folder(&folder, LoadOptions::default(), &[FILE, "no file", "download"]);
}
