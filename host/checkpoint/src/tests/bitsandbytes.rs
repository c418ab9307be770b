//! Against what bitsandbytes itself made: `testdata/make_bitsandbytes.py` says how.

use half::{bf16, f16};

use super::folder::Folder;
use crate::nf4::{dynamic_map, nest_around};
use crate::{
    Absmax, Dtype, Form, LoadOptions, MatrixData, NestedAbsmax, Quantization, StoredMatrix, Weights, int8, nf4,
};

const MADE: &[u8] = include_bytes!("../../testdata/bitsandbytes.safetensors");
const ROWS: usize = 5;
const INPUTS: usize = 150;
const DTYPES: [&str; 3] = ["f32", "f16", "bf16"];

/// The folder goes; what was mapped stays.
fn weights(options: LoadOptions) -> Weights {
    let folder = Folder::new();
    folder.write("model.safetensors", MADE);
    folder.weights(options).unwrap()
}

fn made() -> Weights {
    weights(LoadOptions::default())
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn nf4_parts<'a>(matrix: &'a StoredMatrix<'_>) -> (&'a [u8], &'a Absmax<'a>) {
    match &matrix.data {
        MatrixData::Nf4(blocks) => (&blocks.codes, &blocks.absmax),
        other => panic!("{other:?} is not NF4"),
    }
}

fn nested<'a>(absmax: &'a Absmax<'a>) -> &'a NestedAbsmax<'a> {
    match absmax {
        Absmax::Nested(nested) => nested,
        Absmax::Plain(_) => panic!("the scales are not quantised"),
    }
}

fn int8_parts<'a>(matrix: &'a StoredMatrix<'_>) -> (&'a [i8], &'a [f32]) {
    match &matrix.data {
        MatrixData::Int8(rows) => (&rows.codes, &rows.absmax),
        other => panic!("{other:?} is not INT8"),
    }
}

#[test]
fn its_map_and_table_are_ours() {
    let made = made();
    assert_eq!(bits(&made.vector("scales.map", 256).unwrap()), bits(&*dynamic_map()));
    for dtype in DTYPES {
        assert_eq!(bits(&made.vector(&format!("{dtype}.plain.weight.quant_map"), 16).unwrap()), bits(&nf4::TABLE));
    }
}

#[test]
fn what_it_saved_dequantises_as_there() {
    let made = made();
    for dtype in DTYPES {
        for (part, form) in
            [("plain", Form::Nf4 { nested: false }), ("nested", Form::Nf4 { nested: true }), ("int8", Form::Int8)]
        {
            let stored = made.projection(&format!("{dtype}.{part}.weight"), ROWS, INPUTS).unwrap();
            let expected = made.table(&format!("{dtype}.{part}.wide"), ROWS, INPUTS).unwrap().to_f32();
            assert_eq!(stored.form(), form);
            assert_eq!(bits(&stored.to_f32()), bits(&expected), "{dtype} {part}");
        }
    }
}

/// In a narrower dtype bitsandbytes rounds what it dequantised in F32.
#[test]
fn what_it_dequantises_in_its_dtype_is_ours_rounded() {
    let made = made();
    for (dtype, round) in [
        ("f32", (|number| number) as fn(f32) -> f32),
        ("f16", |number| f16::from_f32(number).to_f32()),
        ("bf16", |number| bf16::from_f32(number).to_f32()),
    ] {
        for part in ["plain", "nested"] {
            let ours = made.projection(&format!("{dtype}.{part}.weight"), ROWS, INPUTS).unwrap().to_f32();
            let expected = made.table(&format!("{dtype}.{part}.out"), ROWS, INPUTS).unwrap().to_f32();
            assert_eq!(bits(&ours.into_iter().map(round).collect::<Vec<_>>()), bits(&expected), "{dtype} {part}");
        }
    }
}

#[test]
fn nf4_quantises_as_there() {
    let made = made();
    for dtype in DTYPES {
        let input = made.table(&format!("{dtype}.input"), ROWS, INPUTS).unwrap();
        let ours = nf4::quantize_plain(&input);
        let theirs = made.projection(&format!("{dtype}.plain.weight"), ROWS, INPUTS).unwrap();
        let (codes, absmax) = nf4_parts(&theirs);
        assert_eq!(&*ours.codes, codes, "{dtype}");
        assert_eq!(bits(&ours.absmax.to_f32()), bits(&absmax.to_f32()), "{dtype}");
    }
}

#[test]
fn int8_quantises_as_there() {
    let made = made();
    for dtype in DTYPES {
        let ours = int8::quantize(&made.table(&format!("{dtype}.input"), ROWS, INPUTS).unwrap());
        let theirs = made.projection(&format!("{dtype}.int8.weight"), ROWS, INPUTS).unwrap();
        let (codes, absmax) = int8_parts(&theirs);
        assert_eq!(&*ours.codes, codes, "{dtype}");
        assert_eq!(bits(&ours.absmax), bits(absmax), "{dtype}");
    }
}

/// Around its own mean, whose last bits depend on how a device sums.
#[test]
fn scales_quantise_as_there() {
    let made = made();
    let input = made.vector("scales.input", 300).unwrap();
    let offset = made.vector("scales.offset", 1).unwrap()[0];
    let ours = nest_around(&input, offset);
    assert!(made.form("scales.codes", &[300]).is_err(), "codes are no weights");
    assert_eq!(&*ours.codes, bytes_of("scales.codes"));
    assert_eq!(bits(&ours.absmax), bits(&made.vector("scales.absmax", 2).unwrap()));
}

/// As it lies in the file.
fn bytes_of(name: &str) -> &'static [u8] {
    safetensors::SafeTensors::deserialize(MADE).unwrap().tensor(name).unwrap().data()
}

#[test]
fn quantised_at_load_is_quantised_twice() {
    let asked = weights(LoadOptions { quantization: Quantization::Nf4, ..LoadOptions::default() });
    let made = made();
    for dtype in DTYPES {
        let ours = asked.projection(&format!("{dtype}.input"), ROWS, INPUTS).unwrap();
        let theirs = made.projection(&format!("{dtype}.nested.weight"), ROWS, INPUTS).unwrap();
        let ((codes, absmax), (their_codes, their_absmax)) = (nf4_parts(&ours), nf4_parts(&theirs));
        let (ours, theirs) = (nested(absmax), nested(their_absmax));
        assert_eq!(codes, their_codes);
        assert!(ours.offset.to_bits().abs_diff(theirs.offset.to_bits()) <= 1, "{} {}", ours.offset, theirs.offset);
        let step = |(ours, theirs): (&u8, &u8)| ours.abs_diff(*theirs);
        assert!(ours.codes.iter().zip(&*theirs.codes).map(step).max().unwrap() <= 1);
        // A table is never quantised, and what is quantised already is left.
        assert_ne!(asked.table(&format!("{dtype}.input"), ROWS, INPUTS).unwrap().form(), Form::Nf4 { nested: true });
        let plain = asked.projection(&format!("{dtype}.plain.weight"), ROWS, INPUTS).unwrap();
        assert_eq!(plain.form(), Form::Nf4 { nested: false });
    }
}

#[test]
fn the_dtype_comes_before_the_quantization() {
    let options = LoadOptions { dtype: Dtype::Bf16, quantization: Quantization::Int8, ..LoadOptions::default() };
    let ours = weights(options);
    let wide = made().table("f32.input", ROWS, INPUTS).unwrap().to_f32();
    let rounded = wide.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes()).collect();
    let rounded = StoredMatrix { outputs: ROWS, inputs: INPUTS, data: MatrixData::Bf16(rounded) };
    let (ours, expected) = (ours.projection("f32.input", ROWS, INPUTS).unwrap(), int8::quantize(&rounded));
    assert_eq!(int8_parts(&ours), (&*expected.codes, &*expected.absmax));
}

#[test]
fn parts_belong_to_their_matrix() {
    let made = made();
    made.projection("f32.nested.weight", ROWS, INPUTS).unwrap();
    made.projection("f32.int8.weight", ROWS, INPUTS).unwrap();
    let left = made.unclaimed();
    assert!(!left.iter().any(|name| name.starts_with("f32.nested.weight") || name.starts_with("f32.int8.SCB")));
    assert!(left.contains(&"f32.plain.weight.absmax".to_owned()));
}

#[test]
fn forms_know_what_they_take() {
    let made = made();
    for part in ["plain", "nested", "int8"] {
        let name = format!("f32.{part}.weight");
        let held = match made.projection(&name, ROWS, INPUTS).unwrap().data {
            MatrixData::Int8(rows) => rows.codes.len() + 4 * rows.absmax.len(),
            MatrixData::Nf4(blocks) => {
                let scales = match &blocks.absmax {
                    Absmax::Plain(absmax) => 4 * absmax.len(),
                    Absmax::Nested(nested) => nested.codes.len() + 4 * (256 + nested.absmax.len() + 1),
                };
                blocks.codes.len() + scales + 4 * blocks.table.len()
            }
            other => panic!("{other:?}"),
        };
        let form = made.form(&name, &[ROWS, INPUTS]).unwrap();
        assert_eq!(form.bytes(ROWS, INPUTS), held as u64, "{part}");
    }
}
