//! Which kernel computes a product of so many rows, and what that means for those before and after it.

use crate::matrix::TILE;
use crate::product_kernel::{FEW_ROWS, TILES_PER_BLOCK};
use crate::{Card, Layout, ProductKernel, ProductKind, WeightForm};

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

/// Rows up to here are recorded.
pub const MOST_RECORDED: u32 = 256;

/// A kernel of few rows: blocks per multiprocessor, and 64ths of the inputs that its warps hold at once.
#[derive(Clone, Copy)]
struct FewRows {
    name: &'static str,
    per_sm: u32,
    pass: u32,
}

/// Parts that the kernels of few rows are fastest with, where their sum is taken by whoever reads it.
const FEW_PARTS: u32 = 2;

/// Up to here, writing parts costs less than what it saves a wide product.
const MOST_PARTED_ROWS: u32 = 64;

/// The rows that are computed for this many, with weights of this form: what is beyond is padding.
pub fn padded_rows(card: &Card, form: WeightForm, rows: u32) -> u32 {
    if rows <= FEW_ROWS {
        return rows.max(1);
    }
    if let Some(rows) = ProductKernel::of(card, form).map(ProductKernel::most_rows).filter(|most| rows <= *most).min() {
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
    every_count(|rows| padded_rows(card, form, rows), most)
}

/// Every number that any number from 1 to `most` is padded to.
pub fn every_count(padded: impl Fn(u32) -> u32, most: u32) -> Vec<u32> {
    let mut counts = vec![padded(1)];
    while let Some(&last) = counts.last()
        && last < most
    {
        counts.push(padded(last + 1));
    }
    counts
}

/// For `rows` as [`padded_rows`] gives them.
pub fn plan(card: &Card, form: WeightForm, outputs: u32, inputs: u32, rows: u32, purpose: Purpose) -> Plan {
    let silu = purpose == Purpose::Silu;
    let kernels = ProductKernel::of(card, form).filter(|kernel| kernel.silu == silu);
    let mut kernels = kernels.filter(|kernel| inputs.is_multiple_of(kernel.unit()));
    if rows <= FEW_ROWS {
        return few_rows(card, kernels.filter_map(FewRows::of), (form, outputs, inputs), purpose);
    }
    match kernels.find(|kernel| kernel.most_rows() == rows) {
        Some(kernel) => many_rows(card, kernel, outputs, inputs, purpose),
        None => library(form, purpose),
    }
}

fn library(form: WeightForm, purpose: Purpose) -> Plan {
    let (dequantize, separate_silu) = (form != WeightForm::Bf16, purpose == Purpose::Silu);
    Plan { launch: Launch::Library, input: Layout::Rows, parts: 1, dequantize, separate_silu }
}

impl FewRows {
    fn of(kernel: &ProductKernel) -> Option<Self> {
        match kernel.kind {
            ProductKind::Few { per_sm, held, .. } => {
                Some(Self { name: kernel.name, per_sm, pass: kernel.warps * held })
            }
            _ => None,
        }
    }
}

/// The fastest on a Hopper are those whose warps hold a part's inputs exactly: then no branch stands between their loads.
fn few_rows(
    card: &Card,
    mut kernels: impl Iterator<Item = FewRows> + Clone,
    (form, outputs, inputs): (WeightForm, u32, u32),
    purpose: Purpose,
) -> Plan {
    let (tiles, k_blocks) = (outputs / TILE.0, inputs / TILE.1);
    let parted = purpose == Purpose::Summed && form != WeightForm::Bf16 && card.has_wgmma() && k_blocks >= FEW_PARTS;
    let parts = if parted { FEW_PARTS } else { 1 };
    let exact = |kernel: &FewRows| k_blocks.is_multiple_of(parts * kernel.pass);
    let chosen = kernels.clone().find(exact).or_else(|| kernels.next());
    let Some(kernel) = chosen else { return library(form, purpose) };
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

fn many_rows(card: &Card, kernel: &ProductKernel, outputs: u32, inputs: u32, purpose: Purpose) -> Plan {
    let (input, most_parts) = match kernel.kind {
        // A part of no inputs would not be written, and whoever adds it up would read what was there before.
        ProductKind::Wide { rows } if purpose == Purpose::Summed && rows <= MOST_PARTED_ROWS => {
            (Layout::Wide { rows }, kernel.most_parts(inputs))
        }
        ProductKind::Wide { rows } => (Layout::Wide { rows }, 1),
        ProductKind::Few { .. } | ProductKind::Mma { .. } => (Layout::Rows, 1),
    };
    // As many parts as there are multiprocessors for.
    let groups = kernel.row_groups(outputs).max(1);
    let parts = (card.multiprocessors / groups).clamp(1, most_parts);
    let blocks = if parts > 1 { groups * parts } else { card.multiprocessors };
    let launch = Launch::Kernel { name: kernel.name, blocks };
    Plan { launch, input, parts, dequantize: false, separate_silu: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_inputs() {
        for (card, form) in [Card::h200(), Card::rtx_4090()].iter().flat_map(|card| FORMS.map(|form| (card, form))) {
            for rows in row_counts(card, form, MOST_RECORDED) {
                for (outputs, inputs) in
                    [(16, 64), (1024, 64), (1024, 128), (1024, 256), (256, 768), (7168, 5120), (5120, 13_824)]
                {
                    let plan = plan(card, form, outputs, inputs, rows, Purpose::Summed);
                    let Launch::Kernel { name, .. } = plan.launch else { continue };
                    let most = ProductKernel::named(name).expect("it is listed").most_parts(inputs);
                    assert!((1..=most).contains(&plan.parts), "{outputs} by {inputs}: {plan:?}");
                }
            }
        }
    }

    const FORMS: [WeightForm; 3] = [WeightForm::Nf4, WeightForm::Int8, WeightForm::Bf16];

    /// As they were measured.
    #[test]
    fn the_products_of_a_14b_are_computed_by_the_kernels_that_were_fastest() {
        let check = |form, (outputs, inputs), rows, purpose, expected: (&str, u32, u32)| {
            let plan = plan(&Card::h200(), form, outputs, inputs, rows, purpose);
            let Launch::Kernel { name, blocks } = plan.launch else { panic!("{plan:?}") };
            assert_eq!((name, blocks, plan.parts), expected);
        };
        let (qkv, o, gate_up, down) = ((7168, 5120), (5120, 5120), (27_648, 5120), (5120, 13_824));
        use Purpose::{Silu, Summed};
        use WeightForm::{Bf16, Int8, Nf4};
        check(Nf4, qkv, 1, Summed, ("nf4_m8_k5w8a1", 264, 2));
        check(Nf4, gate_up, 8, Silu, ("nf4_m8_silu_k5w8a1", 264, 1));
        check(Nf4, down, 8, Summed, ("nf4_m8_k9w12a2", 132, 2));
        check(Int8, down, 1, Summed, ("int8_m8_k9w12a1", 132, 2));
        check(Bf16, o, 1, Summed, ("bf16_m8_k5w16a1", 132, 1));
        check(Nf4, o, 16, Summed, ("nf4_wide16", 120, 6));
        check(Int8, o, 64, Summed, ("int8_wide64", 108, 4));
        check(Nf4, o, 128, Summed, ("nf4_wide128", 132, 1));
        check(Nf4, qkv, 256, Summed, ("nf4_wide256", 132, 1));
        check(Int8, qkv, 128, Summed, ("int8_wide128", 132, 1));
        check(Int8, gate_up, 256, Silu, ("int8_wide256_silu", 132, 1));
    }
}
