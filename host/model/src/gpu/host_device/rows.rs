//! Rows that are copied: of the embedding's table, of what is gathered, into the layout of the wide products.

use sluice_kernels::op::{Activations, Embed, Gather, Widen};
use sluice_kernels::{Address, Layout};

use super::fault::{Fault, expect, natural};
use super::memory::{Memory, element};
use super::numbers;

pub(super) fn embed(op: &Embed, memory: &mut Memory) -> Result<(), Fault> {
    let tokens: &[i32] = memory.read("tokens", op.tokens, op.rows as usize)?;
    let tokens = tokens.iter().map(|token| if *token < 0 { drawn(memory, op.drawn, *token) } else { Ok(*token) });
    let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
    copy_rows(memory, ("table", op.table), &tokens, ("hidden", op.hidden), op.width)
}

/// The token that was drawn in row -1 - `token`.
fn drawn(memory: &Memory, drawn: Address, token: i32) -> Result<i32, Fault> {
    Ok(memory.read("drawn", element::<i32>(drawn, !token as usize), 1)?[0])
}

pub(super) fn gather(op: &Gather, memory: &mut Memory) -> Result<(), Fault> {
    let indices: Vec<i32> = memory.read("indices", op.indices, op.rows as usize)?.to_vec();
    copy_rows(memory, ("from", op.from), &indices, ("out", op.out), op.width)
}

pub(super) fn widen(op: &Widen, memory: &mut Memory) -> Result<(), Fault> {
    let (rows, width) = (op.rows as usize, op.width as usize);
    let numbers = numbers::read_rows(memory, "from", Activations { at: op.from, layout: Layout::Rows }, rows, width)?;
    let out = Activations { at: op.out, layout: Layout::Wide { rows: op.rows } };
    numbers::write_rows(memory, "out", out, width, &numbers)
}

/// Bit by bit.
fn copy_rows(
    memory: &mut Memory,
    (from_field, from): (&'static str, Address),
    indices: &[i32],
    (to_field, to): (&'static str, Address),
    width: u32,
) -> Result<(), Fault> {
    expect(width.is_multiple_of(8), to_field, || format!("has rows of {width}, expected a multiple of 8"))?;
    let mut copied = Vec::new();
    for index in indices {
        let row = element::<u16>(from, natural(from_field, *index)?.saturating_mul(width as usize));
        copied.extend_from_slice(memory.read_many::<u16>(from_field, row, width as usize)?);
    }
    memory.write_many(to_field, to, copied.len())?.copy_from_slice(&copied);
    Ok(())
}
