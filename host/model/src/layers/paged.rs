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

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let scale = 1.0 / (self.dim as f32).sqrt();
        for (query, out) in self.queries.chunks_exact(self.dim).zip(self.out.chunks_exact_mut(self.dim)) {
            out.fill(0.0);
            let mut sum = Attended { max: f32::NEG_INFINITY, weight: 0.0, out };
            let mut left = self.length;
            for block in &self.table[..self.length.div_ceil(self.cache.block_tokens())] {
                let block = self.cache.head(*block, self.head);
                let here = left.min(block.tokens);
                for start in (0..here).step_by(LANES) {
                    let count = LANES.min(here - start);
                    let mut scores = dots(query, &block, start, count);
                    for score in &mut scores {
                        *score *= scale;
                    }
                    sum.add(&scores, count, &block.values[start * self.dim..]);
                }
                left -= here;
            }
            sum.finish();
        }
    }
}

/// A weighted sum of values, scaled to the largest score so far.
struct Attended<'a> {
    max: f32,
    weight: f32,
    out: &'a mut [f32],
}

impl Attended<'_> {
    /// `values` holds one row per score, of which the first `count` are meant.
    #[inline(always)]
    fn add(&mut self, scores: &[f32; LANES], count: usize, values: &[f32]) {
        let mut max = self.max;
        for score in &scores[..count] {
            max = max.max(*score);
        }
        if max > self.max {
            let shrink = exp(self.max - max);
            for out in self.out.iter_mut() {
                *out *= shrink;
            }
            self.weight *= shrink;
            self.max = max;
        }
        let mut weights = [0.0; LANES];
        for (weight, score) in weights.iter_mut().zip(scores) {
            *weight = exp(*score - max);
        }
        for (weight, values) in weights[..count].iter().zip(values.chunks_exact(self.out.len())) {
            self.weight += weight;
            for (out, value) in self.out.iter_mut().zip(values) {
                *out = weight.mul_add(*value, *out);
            }
        }
    }

    #[inline(always)]
    fn finish(self) {
        let scale = 1.0 / self.weight;
        for out in self.out {
            *out *= scale;
        }
    }
}

/// The products of a query with the keys from `start` on; those from `count` on mean nothing. Each is one sum in the
/// order of the dimensions.
#[inline(always)]
fn dots(query: &[f32], block: &KvHead<'_>, start: usize, count: usize) -> [f32; LANES] {
    let mut sums = [0.0f32; LANES];
    let rows = query.iter().zip(block.keys.chunks_exact(block.tokens));
    if start + LANES <= block.tokens {
        for (query, keys) in rows {
            for (sum, key) in sums.iter_mut().zip(&keys[start..start + LANES]) {
                *sum = query.mul_add(*key, *sum);
            }
        }
    } else {
        for (query, keys) in rows {
            for (sum, key) in sums.iter_mut().zip(&keys[start..start + count]) {
                *sum = query.mul_add(*key, *sum);
            }
        }
    }
    sums
}
