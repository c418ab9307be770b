//! Attention over blocks: an online softmax (Milakov and Gimelshein, 2018) that walks a sequence's block table.
//!
//! A query sums over its keys in the order of their positions, sixteen at a time from each block's start, so neither
//! chunks nor the places of the blocks change a bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::PARALLEL_WORK;
use super::math::exp;
use crate::kv::{KvHead, KvLayer};
use crate::model::Dimensions;
use crate::step::Step;

/// Keys whose scores are computed side by side.
const LANES: usize = 16;

/// `qkv` is `[tokens, heads + 2 · kv_heads, head_dim]`, `out` is `[tokens, heads, head_dim]`. Each token attends to
/// every position up to its own, which must be in the cache.
pub(crate) fn attend(size: &Dimensions, step: &Step, qkv: &[f32], cache: &KvLayer, out: &mut [f32]) {
    let (dim, group) = (size.head_dim, size.heads / size.kv_heads);
    let width = group * dim;
    let row = size.qkv_width();
    let compute = |(index, out): (usize, &mut [f32])| {
        let (token, head) = (index / size.kv_heads, index % size.kv_heads);
        let queries = &qkv[token * row + head * width..][..width];
        let length = step.positions[token] as usize + 1;
        Arch::new().dispatch(Group { queries, dim, length, table: step.table_of(token), cache, head, out });
    };
    let keys: usize = step.positions.iter().map(|position| *position as usize + 1).sum();
    let work = keys * size.heads * dim;
    if work < PARALLEL_WORK {
        out.chunks_exact_mut(width).enumerate().for_each(compute);
    } else {
        out.par_chunks_exact_mut(width).enumerate().for_each(compute);
    }
}

/// One token's queries that share a head of keys and values.
struct Group<'a> {
    queries: &'a [f32],
    dim: usize,
    /// Positions to attend to.
    length: usize,
    table: &'a [u32],
    cache: &'a KvLayer,
    head: usize,
    out: &'a mut [f32],
}

impl WithSimd for Group<'_> {
    type Output = ();

    /// Queries that share keys are computed side by side; how many changes no bit.
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let count = self.queries.len() / self.dim;
        let tiles = count.div_ceil(4);
        for tile in 0..tiles {
            let (start, end) = (count * tile / tiles, count * (tile + 1) / tiles);
            match end - start {
                1 => self.tile::<S, 1>(simd, start),
                2 => self.tile::<S, 2>(simd, start),
                3 => self.tile::<S, 3>(simd, start),
                _ => self.tile::<S, 4>(simd, start),
            }
        }
    }
}

impl Group<'_> {
    #[inline(always)]
    fn tile<S: Simd, const QUERIES: usize>(&mut self, simd: S, first: usize) {
        let scale = 1.0 / (self.dim as f32).sqrt();
        let mut queries: [&[f32]; QUERIES] = [&[]; QUERIES];
        for (index, query) in queries.iter_mut().enumerate() {
            *query = &self.queries[(first + index) * self.dim..][..self.dim];
        }
        let out = &mut self.out[first * self.dim..][..QUERIES * self.dim];
        out.fill(0.0);
        let mut sums = [Softmax { max: f32::NEG_INFINITY, weight: 0.0 }; QUERIES];
        let mut left = self.length;
        for block in &self.table[..self.length.div_ceil(self.cache.block_tokens())] {
            let block = self.cache.head(*block, self.head);
            let here = left.min(block.tokens);
            for start in (0..here).step_by(LANES) {
                let count = LANES.min(here - start);
                let scores = if start + LANES <= block.tokens {
                    dots(simd, &queries, &block, start)
                } else {
                    dots_before_the_end(&queries, &block, start)
                };
                let values = &block.values[start * self.dim..];
                for ((sum, scores), out) in sums.iter_mut().zip(&scores).zip(out.chunks_exact_mut(self.dim)) {
                    sum.add(scores, scale, count, values, out);
                }
            }
            left -= here;
        }
        for (sum, out) in sums.iter().zip(out.chunks_exact_mut(self.dim)) {
            sum.finish(out);
        }
    }
}

/// Of a weighted sum of values: what it is scaled to, the largest score so far, and what the weights add up to.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    weight: f32,
}

impl Softmax {
    /// Adds to `out`; `values` holds one row per score, of which the first `count` are meant.
    #[inline(always)]
    fn add(&mut self, dots: &[f32; LANES], scale: f32, count: usize, values: &[f32], out: &mut [f32]) {
        let mut scores = *dots;
        for score in &mut scores {
            *score *= scale;
        }
        let mut max = self.max;
        for score in &scores[..count] {
            max = max.max(*score);
        }
        if max > self.max {
            let shrink = exp(self.max - max);
            for out in out.iter_mut() {
                *out *= shrink;
            }
            self.weight *= shrink;
            self.max = max;
        }
        let mut weights = [0.0; LANES];
        for (weight, score) in weights.iter_mut().zip(&scores) {
            *weight = exp(*score - max);
        }
        for weight in &weights[..count] {
            self.weight += weight;
        }
        add_values(&weights[..count], values, out);
    }

    #[inline(always)]
    fn finish(&self, out: &mut [f32]) {
        let scale = 1.0 / self.weight;
        for out in out {
            *out *= scale;
        }
    }
}

/// Some of a row at a time, so that it stays in a register while the values pass.
#[inline(always)]
fn add_values(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let dim = out.len();
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let done = chunks.len() * LANES;
    for (index, out) in chunks.iter_mut().enumerate() {
        let mut sum = *out;
        for (weight, values) in weights.iter().zip(values.chunks_exact(dim)) {
            for (sum, value) in sum.iter_mut().zip(&values[index * LANES..][..LANES]) {
                *sum = weight.mul_add(*value, *sum);
            }
        }
        *out = sum;
    }
    for (weight, values) in weights.iter().zip(values.chunks_exact(dim)) {
        for (out, value) in rest.iter_mut().zip(&values[done..]) {
            *out = weight.mul_add(*value, *out);
        }
    }
}

/// The products of queries with the keys from `start` on. Each is one sum in the order of the dimensions.
#[inline(always)]
fn dots<S: Simd, const QUERIES: usize>(
    simd: S,
    queries: &[&[f32]; QUERIES],
    block: &KvHead<'_>,
    start: usize,
) -> [[f32; LANES]; QUERIES] {
    let mut dots = [[0.0; LANES]; QUERIES];
    for lane in (0..LANES).step_by(S::F32_LANES) {
        let mut sums = [simd.splat_f32s(0.0); QUERIES];
        for (dim, keys) in block.keys.chunks_exact(block.tokens).enumerate() {
            let keys = S::as_simd_f32s(&keys[start + lane..][..S::F32_LANES]).0[0];
            for (sum, query) in sums.iter_mut().zip(queries) {
                *sum = simd.mul_add_f32s(simd.splat_f32s(query[dim]), keys, *sum);
            }
        }
        for (dots, sum) in dots.iter_mut().zip(sums) {
            S::as_mut_simd_f32s(&mut dots[lane..lane + S::F32_LANES]).0[0] = sum;
        }
    }
    dots
}

/// The same with the last keys of a block that has no whole number of lanes; what is beyond them means nothing.
#[inline(always)]
fn dots_before_the_end<const QUERIES: usize>(
    queries: &[&[f32]; QUERIES],
    block: &KvHead<'_>,
    start: usize,
) -> [[f32; LANES]; QUERIES] {
    let mut dots = [[0.0; LANES]; QUERIES];
    for (dim, keys) in block.keys.chunks_exact(block.tokens).enumerate() {
        for (dots, query) in dots.iter_mut().zip(queries) {
            for (dot, key) in dots.iter_mut().zip(&keys[start..]) {
                *dot = query[dim].mul_add(*key, *dot);
            }
        }
    }
    dots
}
