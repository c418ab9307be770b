//! What stands between products and attention: norms, rotation, gates, rows that move.

use proptest::prelude::*;
use sluice_kernels::Card;
use sluice_kernels::Layout;
use sluice_kernels::op::{Embed, Gather, Heads, KvPool, LayerCache, Norm, Op, Rope, SiluMul, Sum, Widen};

use super::{DIM, Rig, assert_close, noise, rounded};

/// x / sqrt(mean(x²) + eps) · weight
fn normalized(x: &[f64], weight: &[f32], width: usize) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
    x.iter().zip(weight).map(|(x, weight)| x / (mean + 1e-6).sqrt() * f64::from(*weight)).collect()
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// How what is added is given.
#[derive(Clone, Copy, Debug)]
enum Delta {
    Nothing,
    Whole,
    Parts(u32),
}

fn check_norm(rows: usize, width: usize, given: Delta, to_wide: bool, seed: u64) {
    let mut rig = Rig::new(Card::h200());
    let (mut hidden, weight) = (noise(seed, rows * width), noise(seed + 1, width));
    let (hidden_at, weight_at) = (rig.put_bf16(&hidden), rig.put_bf16(&weight));
    let mut add = |delta: &[f32]| hidden.iter_mut().zip(delta).for_each(|(h, d)| *h = rounded(*h + d));
    let delta = match given {
        Delta::Nothing => None,
        Delta::Whole => {
            let delta = noise(seed + 2, rows * width);
            add(&delta);
            Some(Sum::Whole(rig.put_rows(&delta)))
        }
        Delta::Parts(count) => {
            let stride = rows * width + 8;
            let parts = noise(seed + 3, stride * count as usize);
            let sum = |index| rounded((0..count as usize).map(|part| parts[part * stride + index]).sum());
            add(&(0..rows * width).map(sum).collect::<Vec<_>>());
            Some(Sum::Parts { at: rig.put(&parts), count, stride: stride as u32 })
        }
    };
    let out = if to_wide { rig.room_for_wide(64, width) } else { rig.room_for_rows(rows * width) };
    let sizes = (rows as u32, width as u32);
    let norm = Norm { hidden: hidden_at, delta, weight: weight_at, out, rows: sizes.0, width: sizes.1, eps: 1e-6 };
    rig.run(Op::Norm(norm)).unwrap();
    let expected: Vec<f64> = hidden.chunks(width).flat_map(|row| normalized(&wide(row), &weight, width)).collect();
    assert_eq!(rig.get_bf16(hidden_at, rows * width), hidden, "{rows} by {width}, {given:?}");
    assert_close(&rig.get_rows(out, rows, width), &expected, "the norm");
}

/// A rope's inputs beside `qkv`, as a test makes them.
#[derive(Clone, Copy, Debug)]
struct Features {
    parts: bool,
    bias: bool,
    norms: bool,
    scaled: bool,
    /// Numbers of a head that are not padding.
    head_dim: usize,
}

const HEADS: Heads = Heads { queries: 6, kv: 2 };
const BLOCKS: u32 = 5;

/// Half of a head's numbers at the beginning of each half of the 128; the rest is padding.
fn is_real(index: usize, head_dim: usize) -> bool {
    index % DIM % (DIM / 2) < head_dim / 2
}

fn padded(seed: u64, count: usize, head_dim: usize) -> Vec<f32> {
    let mut numbers = noise(seed, count);
    numbers.iter_mut().enumerate().filter(|(i, _)| !is_real(*i, head_dim)).for_each(|(_, number)| *number = 0.0);
    numbers
}

fn check_rope(slots: &[i32], features: Features, seed: u64) {
    let (rows, width, dim) = (slots.len(), HEADS.qkv_width() as usize, features.head_dim);
    let mut rig = Rig::new(Card::h200());
    let halves = [padded(seed, rows * width, dim), padded(seed + 1, rows * width, dim)];
    let mut qkv: Vec<f64> = wide(&halves[0]);
    let given = if features.parts {
        qkv.iter_mut().zip(&halves[1]).for_each(|(sum, number)| *sum += f64::from(*number));
        let at = rig.put(&halves.concat());
        Sum::Parts { at, count: 2, stride: (rows * width) as u32 }
    } else {
        Sum::Whole(rig.put_rows(&halves[0]))
    };
    let (bias, norms) = (padded(seed + 2, width, dim), [padded(seed + 3, DIM, dim), padded(seed + 4, DIM, dim)]);
    let angles: Vec<f32> = (0..9 * DIM / 2).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
    let angle_rows: Vec<i32> = (0..rows as i32).map(|row| (row * 5 + 3) % 9).collect();
    let scale: Vec<f32> = (0..rows).map(|row| 1.0 + row as f32 / 7.0).collect();
    let pool = pool(&mut rig, 2);
    let cache = LayerCache { pool, layer: 1 };
    let q = rig.room::<u16>(rows * HEADS.queries as usize * DIM);
    let rope = Rope {
        qkv: given,
        bias: features.bias.then(|| rig.put_bf16(&bias)),
        head_norms: features.norms.then(|| [rig.put_bf16(&norms[0]), rig.put_bf16(&norms[1])]),
        head_dim: dim as u32,
        eps: 1e-6,
        angles: rig.put(&angles),
        angle_rows: rig.put(&angle_rows),
        slots: rig.put(slots),
        query_scale: features.scaled.then(|| rig.put(&scale)),
        q,
        cache,
        heads: HEADS,
        rows: rows as u32,
    };
    rig.run(Op::Rope(rope)).unwrap();
    let mut queries = Vec::new();
    for (row, qkv) in qkv.chunks_mut(width).enumerate() {
        if features.bias {
            qkv.iter_mut().zip(&bias).for_each(|(number, bias)| *number += f64::from(*bias));
        }
        let mut heads: Vec<Vec<f64>> = qkv.chunks(DIM).map(<[f64]>::to_vec).collect();
        for (index, head) in heads.iter_mut().enumerate().take(8) {
            if features.norms {
                *head = normalized(head, &norms[usize::from(index >= 6)], dim);
            }
            turn(head, &angles[angle_rows[row] as usize * DIM..][..DIM]);
            if features.scaled && index < 6 {
                head.iter_mut().for_each(|number| *number *= f64::from(scale[row]));
            }
        }
        queries.extend(heads[..6].concat());
        if slots[row] >= 0 {
            check_cached(&mut rig, &cache, slots[row] as usize, &heads[6..]);
        }
    }
    assert_close(&rig.get_bf16(q, queries.len()), &queries, "the queries");
    let untouched = rig.get::<u16>(cache.keys(), BLOCKS as usize * 2 * 16 * DIM);
    let written = slots.iter().filter(|slot| **slot >= 0).count();
    assert_eq!(untouched.iter().filter(|bits| **bits != 0x7fff).count(), written * 2 * DIM, "other slots");
}

fn turn(head: &mut [f64], angles: &[f32]) {
    for pair in 0..DIM / 2 {
        let (a, b) = (head[pair], head[pair + DIM / 2]);
        let (cos, sin) = (f64::from(angles[2 * pair]), f64::from(angles[2 * pair + 1]));
        (head[pair], head[pair + DIM / 2]) = (a * cos - b * sin, a * sin + b * cos);
    }
}

/// Two heads of keys and two of values.
fn check_cached(rig: &mut Rig, cache: &LayerCache, slot: usize, heads: &[Vec<f64>]) {
    for (index, expected) in heads.iter().enumerate() {
        let of = if index < 2 { cache.keys() } else { cache.values() };
        let place = ((slot / 16 * 2 + index % 2) * 16 + slot % 16) * DIM;
        assert_close(&rig.get_bf16(of.offset(place as u64 * 2), DIM), expected, "the cache");
    }
}

fn pool(rig: &mut Rig, layers: u32) -> KvPool {
    let numbers = layers as usize * BLOCKS as usize * 2 * 16 * DIM;
    let (keys, values) = (rig.room::<u16>(numbers), rig.room::<u16>(numbers));
    KvPool { keys, values, layers, blocks: BLOCKS, kv_heads: 2 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn norms_are_those_of_f64(
        rows in 1usize..20,
        octs in 1usize..40,
        delta in prop_oneof![Just(Delta::Nothing), Just(Delta::Whole), (2u32..5).prop_map(Delta::Parts)],
        seed in 0u64..1000,
    ) {
        check_norm(rows, 8 * octs, delta, false, seed);
        check_norm(rows, 64 * octs.div_ceil(8), delta, true, seed);
    }

    #[test]
    fn heads_are_turned_as_in_f64(
        slots in prop::sample::subsequence((0..80).collect::<Vec<i32>>(), 1..9),
        padding in 0usize..9,
        (parts, bias, norms, scaled) in any::<(bool, bool, bool, bool)>(),
        head_dim in prop::sample::select(&[64, 96, 128][..]),
        seed in 0u64..1000,
    ) {
        let mut slots = slots;
        slots.resize(slots.len() + padding, -1);
        check_rope(&slots, Features { parts, bias, norms, scaled, head_dim }, seed);
    }

    #[test]
    fn gates_are_those_of_f64(rows in 1usize..9, octs in 1usize..30, to_wide: bool, seed in 0u64..1000) {
        let width = if to_wide { 64 * octs.div_ceil(8) } else { 8 * octs };
        let mut rig = Rig::new(Card::h200());
        let numbers: Vec<f32> = noise(seed, rows * 2 * width).iter().map(|number| rounded(number * 8.0)).collect();
        let gate_up = rig.put_bf16(&numbers);
        let out = if to_wide { rig.room_for_wide(16, width) } else { rig.room_for_rows(rows * width) };
        rig.run(Op::SiluMul(SiluMul { gate_up, out, rows: rows as u32, width: width as u32 })).unwrap();
        let expected = wide(&numbers).chunks(16).flat_map(|pair| {
            (0..8).map(|i| pair[i] / (1.0 + (-pair[i]).exp()) * pair[i + 8]).collect::<Vec<_>>()
        }).collect::<Vec<_>>();
        assert_close(&rig.get_rows(out, rows, width), &expected, "the gate");
    }
}

#[test]
fn rows_are_copied_bit_by_bit() {
    let mut rig = Rig::new(Card::h200());
    let table: Vec<u16> = (0..7 * 64).map(|bits| bits * 131).collect();
    let rows_of = |rows: &[usize]| rows.iter().flat_map(|row| table[row * 64..][..64].to_vec()).collect::<Vec<_>>();
    let at = rig.put(&table);
    let (tokens, drawn) = (rig.put(&[3i32, -1, 0, -3]), rig.put(&[6i32, i32::MAX, 2]));
    let hidden = rig.room::<u16>(4 * 64);
    rig.run(Op::Embed(Embed { tokens, drawn, table: at, hidden, rows: 4, width: 64 })).unwrap();
    assert_eq!(rig.get::<u16>(hidden, 4 * 64), rows_of(&[3, 6, 0, 2]));
    let (indices, gathered) = (rig.put(&[5i32, 5, 1]), rig.room::<u16>(3 * 64));
    rig.run(Op::Gather(Gather { from: at, indices, out: gathered, rows: 3, width: 64 })).unwrap();
    assert_eq!(rig.get::<u16>(gathered, 3 * 64), rows_of(&[5, 5, 1]));
    let out = rig.room::<u16>(7 * 64);
    rig.run(Op::Widen(Widen { from: at, out, rows: 7, width: 64 })).unwrap();
    let found = rig.get::<u16>(out, 7 * 64);
    let place = |index| Layout::Wide { rows: 7 }.index(index / 64, index % 64, 64);
    assert!((0..7 * 64).all(|index| found[place(index)] == table[index]));
}
