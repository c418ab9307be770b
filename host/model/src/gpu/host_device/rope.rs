//! What each head of a token becomes before attention, and its keys and values in the cache.

use sluice_kernels::op::{HEAD_DIM, Rope};

use super::cache::Cache;
use super::fault::{Fault, expect, index, natural};
use super::memory::{Memory, element};
use super::norm::normalized;
use super::numbers;

const DIM: usize = HEAD_DIM as usize;

/// Numbers of a head that turn with as many others.
const PAIRS: usize = DIM / 2;

pub(super) fn rope(op: &Rope, memory: &mut Memory) -> Result<(), Fault> {
    expect((1..=HEAD_DIM).contains(&op.head_dim), "head_dim", || format!("is {}, expected 1 to {DIM}", op.head_dim))?;
    let cache = Cache::check(&op.cache, op.heads)?;
    let (rows, width) = (op.rows as usize, op.heads.qkv_width() as usize);
    let mut qkv = numbers::read_sum(memory, "qkv", op.qkv, rows, width)?;
    let slots: Vec<i32> = memory.read("slots", op.slots, rows)?.to_vec();
    Tokens::read(op, memory)?.turn(&mut qkv, op);
    let (queries, kv) = (op.heads.queries as usize * DIM, op.heads.kv as usize * DIM);
    let rotated: Vec<f32> = qkv.chunks_exact(width).flat_map(|row| &row[..queries]).copied().collect();
    numbers::write(memory, "q", op.q, &rotated)?;
    for (row, slot) in qkv.chunks_exact(width).zip(slots) {
        if slot >= 0 {
            let slot = index("slots", slot, cache.slots())?;
            let (keys, values) = row[queries..].split_at(kv);
            cache.write(memory, slot, keys, values)?;
        }
    }
    Ok(())
}

/// What the tokens of all rows are turned by, and scaled by, one behind the other.
struct Tokens {
    bias: Option<Vec<f32>>,
    norms: Option<[Vec<f32>; 2]>,
    angles: Vec<[f32; 2]>,
    query_scale: Option<Vec<f32>>,
}

impl Tokens {
    fn read(op: &Rope, memory: &Memory) -> Result<Self, Fault> {
        let (rows, width) = (op.rows as usize, op.heads.qkv_width() as usize);
        let mut angles = Vec::new();
        for row in memory.read::<i32>("angle_rows", op.angle_rows, rows)? {
            // How many rows of angles there are is nobody's field: they end where the memory does.
            let row = natural("angle_rows", *row)?;
            let at = element::<[f32; 2]>(op.angles, row * PAIRS);
            angles.extend_from_slice(memory.read_many::<[f32; 2]>("angles", at, PAIRS)?);
        }
        let norms = match op.head_norms {
            Some([queries, keys]) => {
                let of_queries = numbers::read(memory, "head_norms", queries, DIM)?;
                Some([of_queries, numbers::read(memory, "head_norms", keys, DIM)?])
            }
            None => None,
        };
        Ok(Self {
            bias: op.bias.map(|bias| numbers::read(memory, "bias", bias, width)).transpose()?,
            norms,
            angles,
            query_scale: match op.query_scale {
                Some(scale) => Some(memory.read("query_scale", scale, rows)?.to_vec()),
                None => None,
            },
        })
    }

    fn turn(&self, qkv: &mut [f32], op: &Rope) {
        let width = op.heads.qkv_width() as usize;
        for (token, row) in qkv.chunks_exact_mut(width).enumerate() {
            if let Some(bias) = &self.bias {
                row.iter_mut().zip(bias).for_each(|(number, bias)| *number += bias);
            }
            let (queries, rest) = row.split_at_mut(op.heads.queries as usize * DIM);
            let (keys, _) = rest.split_at_mut(op.heads.kv as usize * DIM);
            let angles = &self.angles[token * PAIRS..][..PAIRS];
            for (heads, which) in [(&mut *queries, 0), (keys, 1)] {
                for head in heads.chunks_exact_mut(DIM) {
                    if let Some(norms) = &self.norms {
                        let normed: Vec<f32> = normalized(head, op.head_dim as usize, op.eps, &norms[which]).collect();
                        head.copy_from_slice(&normed);
                    }
                    turn_head(head, angles);
                }
            }
            if let Some(scale) = &self.query_scale {
                queries.iter_mut().for_each(|query| *query *= scale[token]);
            }
        }
    }
}

fn turn_head(head: &mut [f32], angles: &[[f32; 2]]) {
    let (first, second) = head.split_at_mut(PAIRS);
    for ((first, second), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
        (*first, *second) = (*first * cos - *second * sin, *second * cos + *first * sin);
    }
}
