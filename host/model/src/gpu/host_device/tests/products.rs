//! Products of every form, size and kernel, and weights packed and read back.

use proptest::prelude::*;
use sluice_checkpoint::nf4::TABLE;
use sluice_kernels::op::{Activations, BlockScales, Dequantize, Op, Product, Sum, Widen};
use sluice_kernels::product::{Launch, Plan, Purpose, padded_rows, plan};
use sluice_kernels::{Address, Card, Layout, Matrix, WeightForm, pack};

use super::{Rig, assert_close, noise, rounded};

/// A matrix in the device's memory, and what its weights are.
struct Stored {
    matrix: Matrix,
    weights: Vec<f32>,
}

fn store(rig: &mut Rig, form: WeightForm, outputs: usize, inputs: usize, seed: u64) -> Stored {
    let count = outputs * inputs;
    let codes: Vec<u8> = noise(seed, count).iter().map(|number| (number * 300.0) as i32 as u8).collect();
    let scales: Vec<f32> = noise(seed + 1, count / 64).iter().map(|number| 0.1 + number.abs()).collect();
    let (weights, at, scales, unit) = match form {
        WeightForm::Bf16 => {
            let weights = noise(seed, count);
            let at = rig.put_bf16(&weights);
            (weights, at, Address(0), 1.0)
        }
        WeightForm::Int8 => {
            let weight = |index: usize| f32::from(codes[index] as i8) * scales[index / inputs] * (1.0 / 127.0);
            let weights = (0..count).map(weight).collect();
            let at = rig.put(&pack::int8(&codes, inputs));
            (weights, at, rig.put(&scales[..outputs]), 1.0 / 127.0)
        }
        WeightForm::Nf4 => {
            let code = |index: usize| usize::from(codes[index / 2] >> (4 - 4 * (index % 2)) & 15);
            let (packed_scales, unit) = pack::nf4_scales(&scales, inputs);
            // What f16 leaves of a scale that has been brought close to its end.
            let scale = |index: usize| half::f16::from_f32(scales[index / 64] / unit).to_f32() * unit;
            let weights = (0..count).map(|index| TABLE[code(index)] * scale(index)).collect();
            let at = rig.put(&pack::nf4(&codes[..count / 2], inputs));
            (weights, at, rig.put(&packed_scales), unit)
        }
    };
    let matrix = Matrix { form, outputs: outputs as u32, inputs: inputs as u32, weights: at, scales, unit };
    Stored { matrix, weights }
}

/// `[row][output]`
fn reference(weights: &[f32], x: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
    x.chunks(inputs).flat_map(|x| weights.chunks(inputs).map(move |weights| dot(x, weights))).collect()
}

fn silu_reference(sums: &[f64]) -> Vec<f64> {
    let silu = |gate: f64| gate / (1.0 + (-gate).exp());
    let pair = |pair: &[f64]| (0..8).map(|i| silu(pair[i]) * pair[i + 8]).collect::<Vec<_>>();
    sums.chunks(16).flat_map(pair).collect()
}

/// Puts `x` where the plan wants it, the way that a step does: in rows, and widened where it has to be.
fn place_input(rig: &mut Rig, plan: &Plan, x: &[f32], rows: u32, inputs: usize) -> Activations {
    let in_rows = rig.put_rows(x);
    if plan.input == Layout::Rows {
        return in_rows;
    }
    let wide = rig.room_for_wide(rows, inputs);
    let widen = Widen { from: in_rows.at, out: wide.at, rows, width: inputs as u32 };
    rig.run(Op::Widen(widen)).unwrap();
    wide
}

fn check(card: Card, form: WeightForm, (rows, outputs, inputs): (u32, usize, usize), purpose: Purpose, seed: u64) {
    let rows = padded_rows(&card, form, rows);
    let what = format!("{form:?}, {rows} rows, {outputs} by {inputs}, {purpose:?}, {}", card.name);
    let mut rig = Rig::new(card.clone());
    let stored = store(&mut rig, form, outputs, inputs, seed);
    let x = noise(seed + 2, rows as usize * inputs);
    let mut expected = reference(&stored.weights, &x, inputs);
    let plan = plan(&card, form, outputs as u32, inputs as u32, rows, purpose);
    let x = place_input(&mut rig, &plan, &x, rows, inputs);
    let mut matrix = stored.matrix;
    if plan.dequantize {
        let out = rig.room::<u16>(outputs * inputs);
        rig.run(Op::Dequantize(Dequantize { matrix, scales: BlockScales::Own, out })).unwrap();
        matrix = Matrix { form: WeightForm::Bf16, weights: out, unit: 1.0, ..matrix };
        let weights: Vec<f32> = stored.weights.iter().map(|weight| rounded(*weight)).collect();
        expected = reference(&weights, &rig.get_rows(x, rows as usize, inputs), inputs);
    }
    let silu = purpose == Purpose::Silu && !plan.separate_silu;
    let width = if silu { outputs / 2 } else { outputs };
    let count = rows as usize * width;
    let y = if plan.parts > 1 {
        let stride = count as u32 + 64;
        Sum::Parts { at: rig.room::<f32>(stride as usize * plan.parts as usize), count: plan.parts, stride }
    } else {
        Sum::Whole(rig.room_for_rows(count))
    };
    rig.run(Op::Product(Product { matrix, kernel: plan.launch, silu, x, y, rows })).unwrap();
    let found = match y {
        Sum::Whole(y) => rig.get_rows(y, rows as usize, width),
        Sum::Parts { at, count: parts, stride } => {
            let parts: Vec<Vec<f32>> =
                (0..parts).map(|part| rig.get(at.offset(u64::from(part * stride) * 4), count)).collect();
            // Every part has to have something to add, or adding them is not tested.
            assert!(parts.iter().all(|part| part.iter().any(|number| *number != 0.0)), "{what}");
            (0..count).map(|index| parts.iter().map(|part| part[index]).sum()).collect()
        }
    };
    let expected = if silu { silu_reference(&expected) } else { expected };
    assert_close(&found, &expected, &what);
}

const FORMS: [WeightForm; 3] = [WeightForm::Bf16, WeightForm::Int8, WeightForm::Nf4];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_those_of_f64(
        is_hopper: bool,
        form in prop::sample::select(&FORMS[..]),
        rows in prop_oneof![1u32..9, 9u32..70, Just(128), Just(256), Just(300)],
        tiles in (1usize..7, 1usize..20),
        purpose in prop::sample::select(&[Purpose::Whole, Purpose::Summed, Purpose::Silu][..]),
        seed in 0u64..1000,
    ) {
        let card = if is_hopper { Card::h200() } else { Card::rtx_4090() };
        check(card, form, (rows, 16 * tiles.0, 64 * tiles.1), purpose, seed);
    }

    #[test]
    fn packed_weights_are_read_back_as_they_were(
        form in prop::sample::select(&[WeightForm::Int8, WeightForm::Nf4][..]),
        tiles in (1usize..6, 1usize..6),
        seed in 0u64..1000,
    ) {
        let (outputs, inputs) = (16 * tiles.0, 64 * tiles.1);
        let mut rig = Rig::new(Card::h200());
        let Stored { matrix, weights } = store(&mut rig, form, outputs, inputs, seed);
        let out = rig.room::<u16>(weights.len());
        rig.run(Op::Dequantize(Dequantize { matrix, scales: BlockScales::Own, out })).unwrap();
        let expected: Vec<f32> = weights.into_iter().map(rounded).collect();
        prop_assert_eq!(rig.get_bf16(out, expected.len()), expected);
    }
}

#[test]
fn rows_and_the_wide_layout_give_the_same_bits() {
    let (card, rows, inputs) = (Card::h200(), 32, 256);
    let mut rig = Rig::new(card.clone());
    let stored = store(&mut rig, WeightForm::Nf4, 64, inputs, 5);
    let plan = plan(&card, WeightForm::Nf4, 64, inputs as u32, rows, Purpose::Whole);
    let x = place_input(&mut rig, &plan, &noise(6, 32 * inputs), rows, inputs);
    assert_eq!(x.layout, Layout::Wide { rows });
    let [in_rows, wide] = [rig.room_for_rows(32 * 64), rig.room_for_wide(rows, 64)];
    for y in [in_rows, wide] {
        let product = Product { matrix: stored.matrix, kernel: plan.launch, silu: false, x, y: Sum::Whole(y), rows };
        rig.run(Op::Product(product)).unwrap();
    }
    assert_eq!(rig.get_rows(in_rows, 32, 64), rig.get_rows(wide, 32, 64));
}

#[test]
fn a_row_that_is_no_number_spoils_no_other() {
    let mut rig = Rig::new(Card::h200());
    let stored = store(&mut rig, WeightForm::Bf16, 32, 128, 8);
    let mut x = noise(9, 3 * 128);
    x[128..256].fill(f32::NAN);
    let kernel = plan(&Card::h200(), WeightForm::Bf16, 32, 128, 3, Purpose::Whole).launch;
    let (x_at, y) = (rig.put_rows(&x), rig.room_for_rows(3 * 32));
    let product = Product { matrix: stored.matrix, kernel, silu: false, x: x_at, y: Sum::Whole(y), rows: 3 };
    rig.run(Op::Product(product)).unwrap();
    let found = rig.get_rows(y, 3, 32);
    let expected = reference(&stored.weights, &x, 128);
    assert_close(&found[..32], &expected[..32], "the row before");
    assert_close(&found[64..], &expected[64..], "the row behind");
    assert!(found[32..64].iter().all(|number| number.is_nan()));
}

/// There are fewer inputs than multiprocessors could add up.
#[test]
fn small_products_are_in_as_many_parts_as_they_have_inputs_for() {
    for (card, form) in [Card::h200(), Card::rtx_4090()].iter().flat_map(|card| FORMS.map(|form| (card, form))) {
        for rows in [1, 16, 32, 64] {
            for (outputs, inputs) in [(16, 64), (16, 128), (48, 256), (256, 640)] {
                check(card.clone(), form, (rows, outputs, inputs), Purpose::Summed, 3);
            }
        }
    }
}

/// A kernel does not write it, and whoever adds parts up would read what was there before.
#[test]
fn a_part_without_inputs_is_refused() {
    let (card, rows) = (Card::h200(), 16);
    let mut rig = Rig::new(card.clone());
    let stored = store(&mut rig, WeightForm::Nf4, 16, 256, 11);
    let plan = plan(&card, WeightForm::Nf4, 16, 256, rows, Purpose::Summed);
    let x = place_input(&mut rig, &plan, &noise(12, 16 * 256), rows, 256);
    let Launch::Kernel { name, .. } = plan.launch else { panic!("{plan:?}") };
    for (count, expected) in [(2, None), (3, Some("`y` has 3 parts")), (132, Some("`y` has 132 parts"))] {
        let y = Sum::Parts { at: rig.room::<f32>(count as usize * 256), count, stride: 256 };
        let kernel = Launch::Kernel { name, blocks: count };
        let ran = rig.run(Op::Product(Product { matrix: stored.matrix, kernel, silu: false, x, y, rows }));
        let refused = ran.err().map(|error| error.to_string());
        let said = refused.as_ref().zip(expected).is_some_and(|(error, expected)| error.contains(expected));
        assert!(said || refused.is_none() && expected.is_none(), "{count} parts: {refused:?}");
    }
}
