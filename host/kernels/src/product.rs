//! Which kernel computes a product of so many rows, and what that means for those before and after it.

use crate::matrix::TILE;
use crate::{Card, Layout, WeightForm};

/// A kernel and its grid.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Launch {
    Kernel {
        name: &'static str,
        blocks: u32,
    },
    /// cuBLASLt's, of bf16 weights.
    Library,
}

/// What happens to the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It is wanted as it is.
    Whole,
    /// Whoever reads it adds parts up.
    Summed,
    /// silu(gate) · up.
    Silu,
}

/// How one product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub launch: Launch,
    /// Of the activations that it reads.
    pub input: Layout,
    /// Parts that it writes; 1: bf16, summed up.
    pub parts: u32,
    /// The weights have to be made bf16 before.
    pub dequantize: bool,
    /// silu(gate) · up is an operation of its own.
    pub separate_silu: bool,
}

/// Rows up to here are computed by the kernels that read weights and do little else.
const FEW: u32 = 8;

/// What the wide products have kernels for.
const WIDE: [u32; 5] = [16, 32, 64, 128, 256];

/// What the products by mma.sync have kernels for; beyond, weights are dequantised.
const MMA: [u32; 3] = [16, 32, 64];

/// Rows up to here are recorded.
pub const MOST_RECORDED: u32 = 256;

/// A kernel of few rows: blocks per multiprocessor, and 64ths of the inputs that its warps hold at once.
struct FewRows {
    name: &'static str,
    per_sm: u32,
    pass: u32,
}

const fn few(name: &'static str, per_sm: u32, pass: u32) -> FewRows {
    FewRows { name, per_sm, pass }
}

/// A block adds up so many row tiles at most, where it goes over the inputs more than once.
const TILES_PER_BLOCK: u32 = 16;

/// The rows that are computed for this many, with weights of this form: what is beyond is padding.
pub fn padded_rows(card: &Card, form: WeightForm, rows: u32) -> u32 {
    let kernels: &[u32] = match form {
        WeightForm::Bf16 => &[],
        _ if card.has_wgmma() => &WIDE,
        _ => &MMA,
    };
    if rows <= FEW {
        return rows.max(1);
    }
    if let Some(rows) = kernels.iter().copied().find(|most| rows <= *most) {
        return rows;
    }
    // A plan of the library's for every number of rows would be too many of them.
    let step = match rows {
        0..=64 => 8,
        65..=256 => 32,
        257..=1024 => 64,
        _ => 256,
    };
    rows.next_multiple_of(step)
}

/// Every number of rows that [`padded_rows`] gives, up to that for `most`.
pub fn row_counts(card: &Card, form: WeightForm, most: u32) -> Vec<u32> {
    let mut counts = vec![padded_rows(card, form, 1)];
    while let Some(&last) = counts.last()
        && last < most
    {
        counts.push(padded_rows(card, form, last + 1));
    }
    counts
}

/// For `rows` as [`padded_rows`] gives them.
pub fn plan(card: &Card, form: WeightForm, outputs: u32, inputs: u32, rows: u32, purpose: Purpose) -> Plan {
    if rows <= FEW {
        return few_rows(card, form, outputs, inputs, purpose);
    }
    let quantized = form != WeightForm::Bf16;
    if quantized && card.has_wgmma() && WIDE.contains(&rows) && inputs.is_multiple_of(2 * TILE.1) {
        return wide(card, form, (outputs, inputs), rows, purpose);
    }
    if quantized && !card.has_wgmma() && MMA.contains(&rows) {
        return mma(card, form, rows, purpose);
    }
    let separate_silu = purpose == Purpose::Silu;
    Plan { launch: Launch::Library, input: Layout::Rows, parts: 1, dequantize: quantized, separate_silu }
}

fn few_rows(card: &Card, form: WeightForm, outputs: u32, inputs: u32, purpose: Purpose) -> Plan {
    let (tiles, k_blocks) = (outputs / TILE.0, inputs / TILE.1);
    let (kernel, parts) = few_rows_kernel(card, form, k_blocks, purpose);
    let blocks = card.multiprocessors * kernel.per_sm;
    let one_pass = k_blocks.div_ceil(parts) <= kernel.pass;
    let blocks = if one_pass { blocks } else { blocks.max(tiles.div_ceil(TILES_PER_BLOCK) * parts) };
    Plan {
        launch: Launch::Kernel { name: kernel.name, blocks: blocks.next_multiple_of(parts) },
        input: Layout::Rows,
        parts,
        dequantize: false,
        separate_silu: false,
    }
}

/// The fastest on a Hopper are those whose warps hold a part's inputs exactly: then no branch stands between their loads.
fn few_rows_kernel(card: &Card, form: WeightForm, k_blocks: u32, purpose: Purpose) -> (FewRows, u32) {
    let silu = purpose == Purpose::Silu;
    if !card.has_wgmma() {
        let kernel = match (form, silu) {
            (WeightForm::Nf4, false) => few("nf4_m8_small", 1, 24),
            (WeightForm::Nf4, true) => few("nf4_m8_small_silu", 1, 24),
            (WeightForm::Int8, false) => few("int8_m8_small", 1, 48),
            (WeightForm::Int8, true) => few("int8_m8_small_silu", 1, 48),
            (WeightForm::Bf16, false) => few("bf16_m8_small", 1, 32),
            (WeightForm::Bf16, true) => few("bf16_m8_small_silu", 1, 32),
        };
        return (kernel, 1);
    }
    let candidates = match (form, silu) {
        (WeightForm::Bf16, false) => return (few("bf16_m8_k5w16a1", 1, 80), 1),
        (WeightForm::Bf16, true) => return (few("bf16_m8_silu", 1, 80), 1),
        (WeightForm::Nf4, true) => return (few("nf4_m8_silu_k5w8a1", 2, 40), 1),
        (WeightForm::Int8, true) => return (few("int8_m8_silu", 1, 80), 1),
        (WeightForm::Nf4, false) => {
            [few("nf4_m8_k5w8a1", 2, 40), few("nf4_m8_k9w12a2", 1, 108), few("nf4_m8_k5w16a2", 1, 80)]
        }
        (WeightForm::Int8, false) => {
            [few("int8_m8_k5w8a1", 2, 40), few("int8_m8_k9w12a1", 1, 108), few("int8_m8_k5w16a1", 1, 80)]
        }
    };
    let parts = if purpose == Purpose::Summed && k_blocks >= 2 { 2 } else { 1 };
    let exact = |kernel: &FewRows| k_blocks.is_multiple_of(parts * kernel.pass);
    let chosen = candidates.iter().position(exact).unwrap_or(0);
    let [first, second, third] = candidates;
    (
        if chosen == 0 {
            first
        } else if chosen == 1 {
            second
        } else {
            third
        },
        parts,
    )
}

fn wide(card: &Card, form: WeightForm, (outputs, inputs): (u32, u32), rows: u32, purpose: Purpose) -> Plan {
    let silu = purpose == Purpose::Silu;
    // Fewer warpgroups where fewer outputs are to be shared out.
    let two = rows == 128 && !silu && outputs < 6144;
    let name = match (form, rows, silu) {
        (WeightForm::Nf4, 16, false) => "nf4_wide16",
        (WeightForm::Nf4, 16, true) => "nf4_wide16_silu",
        (WeightForm::Nf4, 32, false) => "nf4_wide32",
        (WeightForm::Nf4, 32, true) => "nf4_wide32_silu",
        (WeightForm::Nf4, 64, false) => "nf4_wide64",
        (WeightForm::Nf4, 64, true) => "nf4_wide64_silu",
        (WeightForm::Nf4, 128, false) if two => "nf4_wide128_2",
        (WeightForm::Nf4, 128, false) => "nf4_wide128",
        (WeightForm::Nf4, 128, true) => "nf4_wide128_silu",
        (WeightForm::Nf4, _, false) => "nf4_wide256",
        (WeightForm::Nf4, _, true) => "nf4_wide256_silu",
        (_, 16, false) => "int8_wide16",
        (_, 16, true) => "int8_wide16_silu",
        (_, 32, false) => "int8_wide32",
        (_, 32, true) => "int8_wide32_silu",
        (_, 64, false) => "int8_wide64",
        (_, 64, true) => "int8_wide64_silu",
        (_, 128, false) if two => "int8_wide128_2",
        (_, 128, false) => "int8_wide128",
        (_, 128, true) => "int8_wide128_silu",
        (_, _, false) => "int8_wide256",
        (_, _, true) => "int8_wide256_silu",
    };
    let warpgroups = match (form, rows) {
        (_, 256) => 2,
        (_, 128) if two => 2,
        (_, 128) | (WeightForm::Int8, 64) => 3,
        _ => 4,
    };
    let groups = (outputs / TILE.0).div_ceil(4 * warpgroups);
    // As many parts as there are multiprocessors for. From 128 rows on, writing them costs what they save.
    let summed = purpose == Purpose::Summed && rows <= 64;
    // A part of no inputs would not be written, and whoever adds it up would read what was there before.
    let parts = if summed { (card.multiprocessors / groups).min(inputs / (2 * TILE.1)).max(1) } else { 1 };
    let blocks = if parts > 1 { groups * parts } else { card.multiprocessors };
    let launch = Launch::Kernel { name, blocks };
    Plan { launch, input: Layout::Wide { rows }, parts, dequantize: false, separate_silu: false }
}

fn mma(card: &Card, form: WeightForm, rows: u32, purpose: Purpose) -> Plan {
    let name = match (form, rows, purpose == Purpose::Silu) {
        (WeightForm::Nf4, 16, false) => "nf4_mma16",
        (WeightForm::Nf4, 16, true) => "nf4_mma16_silu",
        (WeightForm::Nf4, 32, false) => "nf4_mma32",
        (WeightForm::Nf4, 32, true) => "nf4_mma32_silu",
        (WeightForm::Nf4, _, false) => "nf4_mma64",
        (WeightForm::Nf4, _, true) => "nf4_mma64_silu",
        (_, 16, false) => "int8_mma16",
        (_, 16, true) => "int8_mma16_silu",
        (_, 32, false) => "int8_mma32",
        (_, 32, true) => "int8_mma32_silu",
        (_, _, false) => "int8_mma64",
        (_, _, true) => "int8_mma64_silu",
    };
    let launch = Launch::Kernel { name, blocks: card.multiprocessors };
    Plan { launch, input: Layout::Rows, parts: 1, dequantize: false, separate_silu: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_inputs() {
        for (form, rows) in
            [WeightForm::Nf4, WeightForm::Int8].into_iter().flat_map(|form| WIDE.map(|rows| (form, rows)))
        {
            for (outputs, inputs) in [(1024, 128), (1024, 256), (256, 768), (7168, 5120), (5120, 13_824)] {
                let plan = plan(&Card::h200(), form, outputs, inputs, rows, Purpose::Summed);
                assert!((1..=inputs / (2 * TILE.1)).contains(&plan.parts), "{outputs} by {inputs}: {plan:?}");
            }
        }
    }
}
