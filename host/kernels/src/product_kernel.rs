//! The kernels that compute products, and what each was compiled for: the lists in `cuda/*_variants.h`, as Rust sees them.

use std::ops::Range;

use crate::matrix::TILE;
use crate::op::{Product, Sum};
use crate::{Card, Layout, Matrix, WeightForm};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProductKernel {
    pub name: &'static str,
    pub form: WeightForm,
    /// It computes silu(gate) · up.
    pub silu: bool,
    /// Of a block.
    pub warps: u32,
    pub kind: ProductKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProductKind {
    /// Up to eight rows, by reading weights and doing little else.
    Few {
        /// Blocks to each multiprocessor.
        per_sm: u32,
        /// 64ths of the inputs that each warp holds at once.
        held: u32,
        /// For cards of little shared memory.
        small: bool,
    },
    /// Exactly so many rows, in the wide layout, by wgmma.
    Wide { rows: u32 },
    /// Up to so many rows, by mma.sync.
    Mma { rows: u32 },
}

/// What is wrong with an operation: which of its fields, and how.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Misfit {
    pub field: &'static str,
    pub problem: String,
}

/// Rows that the kernels of few rows take.
pub(crate) const FEW_ROWS: u32 = 8;

/// A block of few rows adds up so many row tiles at most, where it goes over the inputs more than once.
pub(crate) const TILES_PER_BLOCK: u32 = 16;

/// A wide kernel reads its inputs two tiles at a time.
const WIDE_INPUTS: u32 = 2 * TILE.1;

/// Where there are several for the same, those come first that are to be tried first.
pub(crate) const KERNELS: [ProductKernel; 48] = {
    use WeightForm::{Bf16, Int8, Nf4};
    [
        few("nf4_m8_k5w8a1", Nf4, false, 8, 2, 5),
        few("nf4_m8_k9w12a2", Nf4, false, 12, 1, 9),
        few("nf4_m8_k5w16a2", Nf4, false, 16, 1, 5),
        few("nf4_m8_silu_k5w8a1", Nf4, true, 8, 2, 5),
        few("int8_m8_k5w8a1", Int8, false, 8, 2, 5),
        few("int8_m8_k9w12a1", Int8, false, 12, 1, 9),
        few("int8_m8_k5w16a1", Int8, false, 16, 1, 5),
        few("int8_m8_silu", Int8, true, 16, 1, 5),
        few("bf16_m8_k5w16a1", Bf16, false, 16, 1, 5),
        few("bf16_m8_silu", Bf16, true, 16, 1, 5),
        small("nf4_m8_small", Nf4, false, 8, 3),
        small("nf4_m8_small_silu", Nf4, true, 8, 3),
        small("int8_m8_small", Int8, false, 16, 3),
        small("int8_m8_small_silu", Int8, true, 16, 3),
        small("bf16_m8_small", Bf16, false, 16, 2),
        small("bf16_m8_small_silu", Bf16, true, 16, 2),
        wide("nf4_wide16", Nf4, false, 16, 4),
        wide("nf4_wide32", Nf4, false, 32, 4),
        wide("nf4_wide64", Nf4, false, 64, 4),
        wide("nf4_wide128", Nf4, false, 128, 2),
        wide("nf4_wide256", Nf4, false, 256, 2),
        wide("nf4_wide16_silu", Nf4, true, 16, 4),
        wide("nf4_wide32_silu", Nf4, true, 32, 4),
        wide("nf4_wide64_silu", Nf4, true, 64, 4),
        wide("nf4_wide128_silu", Nf4, true, 128, 3),
        wide("nf4_wide256_silu", Nf4, true, 256, 2),
        wide("int8_wide16", Int8, false, 16, 4),
        wide("int8_wide32", Int8, false, 32, 4),
        wide("int8_wide64", Int8, false, 64, 3),
        wide("int8_wide128", Int8, false, 128, 2),
        wide("int8_wide256", Int8, false, 256, 2),
        wide("int8_wide16_silu", Int8, true, 16, 4),
        wide("int8_wide32_silu", Int8, true, 32, 4),
        wide("int8_wide64_silu", Int8, true, 64, 3),
        wide("int8_wide128_silu", Int8, true, 128, 3),
        wide("int8_wide256_silu", Int8, true, 256, 2),
        mma("nf4_mma16", Nf4, false, 16),
        mma("nf4_mma32", Nf4, false, 32),
        mma("nf4_mma64", Nf4, false, 64),
        mma("nf4_mma16_silu", Nf4, true, 16),
        mma("nf4_mma32_silu", Nf4, true, 32),
        mma("nf4_mma64_silu", Nf4, true, 64),
        mma("int8_mma16", Int8, false, 16),
        mma("int8_mma32", Int8, false, 32),
        mma("int8_mma64", Int8, false, 64),
        mma("int8_mma16_silu", Int8, true, 16),
        mma("int8_mma32_silu", Int8, true, 32),
        mma("int8_mma64_silu", Int8, true, 64),
    ]
};

const fn few(name: &'static str, form: WeightForm, silu: bool, warps: u32, per_sm: u32, held: u32) -> ProductKernel {
    ProductKernel { name, form, silu, warps, kind: ProductKind::Few { per_sm, held, small: false } }
}

const fn small(name: &'static str, form: WeightForm, silu: bool, warps: u32, held: u32) -> ProductKernel {
    ProductKernel { name, form, silu, warps, kind: ProductKind::Few { per_sm: 1, held, small: true } }
}

const fn wide(name: &'static str, form: WeightForm, silu: bool, rows: u32, warpgroups: u32) -> ProductKernel {
    ProductKernel { name, form, silu, warps: 4 * warpgroups, kind: ProductKind::Wide { rows } }
}

const fn mma(name: &'static str, form: WeightForm, silu: bool, rows: u32) -> ProductKernel {
    ProductKernel { name, form, silu, warps: 8, kind: ProductKind::Mma { rows } }
}

fn expect(holds: bool, field: &'static str, problem: impl FnOnce() -> String) -> Result<(), Misfit> {
    if holds { Ok(()) } else { Err(Misfit { field, problem: problem() }) }
}

impl ProductKernel {
    pub fn named(name: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }

    /// Those that a card is to compute products of such weights with.
    pub(crate) fn of(card: &Card, form: WeightForm) -> impl Iterator<Item = &'static Self> + Clone {
        KERNELS.iter().filter(move |kernel| kernel.form == form && kernel.is_for(card))
    }

    pub fn is_for(&self, card: &Card) -> bool {
        match self.kind {
            ProductKind::Few { small, .. } => small != card.has_wgmma(),
            ProductKind::Wide { .. } => card.has_wgmma(),
            ProductKind::Mma { .. } => !card.has_wgmma(),
        }
    }

    pub fn most_rows(&self) -> u32 {
        match self.kind {
            ProductKind::Few { .. } => FEW_ROWS,
            ProductKind::Wide { rows } | ProductKind::Mma { rows } => rows,
        }
    }

    /// Of the inputs, as many as are never shared out between parts.
    pub fn unit(&self) -> u32 {
        if matches!(self.kind, ProductKind::Wide { .. }) { WIDE_INPUTS } else { TILE.1 }
    }

    /// Parts that have something of so many inputs: one that has nothing is never written.
    pub fn most_parts(&self, inputs: u32) -> u32 {
        (inputs / self.unit()).max(1)
    }

    /// What the blocks of a wide product share out: tiles of outputs, one for each warp.
    pub fn row_groups(&self, outputs: u32) -> u32 {
        (outputs / TILE.0).div_ceil(self.warps)
    }

    /// The inputs that are added up to one of so many parts.
    pub fn part(&self, inputs: u32, part: u32, parts: u32) -> Range<u32> {
        let units = u64::from(inputs / self.unit());
        let begin = |part: u32| (units * u64::from(part) / u64::from(parts.max(1))) as u32 * self.unit();
        begin(part)..begin(part + 1)
    }

    /// Whether it computes `op` by so many blocks, which it does not see to itself: it would read and write elsewhere, or
    /// leave numbers as they were. What it needs of a card's memory for itself is not looked at.
    pub fn check(&self, op: &Product, blocks: u32, card: &Card) -> Result<(), Misfit> {
        let Matrix { form, outputs, inputs, .. } = op.matrix;
        let rows = if let ProductKind::Wide { rows } = self.kind { rows..=rows } else { 1..=self.most_rows() };
        let its = (self.form, self.silu) == (form, op.silu) && rows.contains(&op.rows) && self.is_for(card);
        expect(its, "kernel", || {
            let (rows, silu) = (op.rows, op.silu);
            format!("is {}, which is not for {rows} rows of {form:?}, silu {silu}, on {}", self.name, card.name)
        })?;
        expect(inputs.is_multiple_of(self.unit()), "matrix", || {
            format!("is {outputs} by {inputs}, and {} reads {} inputs at a time", self.name, self.unit())
        })?;
        let layout = if let ProductKind::Wide { rows } = self.kind { Layout::Wide { rows } } else { Layout::Rows };
        expect(op.x.layout == layout, "x", || {
            format!("is laid out as {:?}, and {} reads {layout:?}", op.x.layout, self.name)
        })?;
        let parts = if let Sum::Parts { count, .. } = op.y { count } else { 1 };
        let makes = !matches!(op.y, Sum::Parts { .. }) || parts > 1 && self.makes_parts();
        expect(makes && parts <= self.most_parts(inputs), "y", || {
            format!("has {parts} parts, and {} writes no part without some of the {inputs} inputs", self.name)
        })?;
        expect(self.shares_out(outputs, inputs, parts, blocks), "kernel", || {
            format!(
                "is {} by {blocks} blocks, which do not share out {outputs} by {inputs} in {parts} parts",
                self.name
            )
        })
    }

    fn makes_parts(&self) -> bool {
        !self.silu && !matches!(self.kind, ProductKind::Mma { .. })
    }

    fn shares_out(&self, outputs: u32, inputs: u32, parts: u32, blocks: u32) -> bool {
        match self.kind {
            ProductKind::Few { held, .. } => {
                let one_pass = (inputs / TILE.1).div_ceil(parts) <= self.warps * held;
                let room = u64::from(blocks / parts) * u64::from(TILES_PER_BLOCK) >= u64::from(outputs / TILE.0);
                blocks > 0 && blocks.is_multiple_of(parts) && (one_pass || room)
            }
            ProductKind::Wide { .. } if parts > 1 => self.row_groups(outputs).checked_mul(parts) == Some(blocks),
            ProductKind::Wide { .. } | ProductKind::Mma { .. } => blocks > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The constants between the brackets of each line that begins so, in CUDA's sources.
    fn listed<'a>(list: &'a str, macro_name: &str) -> Vec<Vec<&'a str>> {
        let entry = |line: &'a str| line.strip_prefix(macro_name)?.strip_prefix('(')?.strip_suffix(')');
        // What only the benches launch stands at the end.
        list.lines()
            .take_while(|line| !line.starts_with("#ifndef PROGRAM"))
            .filter_map(entry)
            .map(|entry| entry.split(", ").collect())
            .collect()
    }

    fn number(text: &str) -> u32 {
        text.parse().expect("it is a number")
    }

    fn form(text: &str) -> WeightForm {
        [WeightForm::Nf4, WeightForm::Int8, WeightForm::Bf16]
            .into_iter()
            .find(|form| format!("{form:?}") == text)
            .expect("it is a form")
    }

    /// What the kernels are compiled for, and this file's list.
    #[test]
    fn kernels_are_those_that_are_compiled() {
        let rows = include_str!("../cuda/product_rows_variants.h");
        let wides = include_str!("../cuda/product_wide_variants.h");
        let mmas = include_str!("../cuda/product_mma_variants.h");
        let compiled = |name: &str, of: &str, silu: &str, warps: u32, kind: ProductKind| {
            let kernel = ProductKernel::named(name).copied();
            let kernel = kernel.unwrap_or_else(|| panic!("{name} is compiled, and not listed"));
            let expected = ProductKernel { form: form(of), silu: silu == "kSilu", warps, kind, ..kernel };
            assert_eq!(kernel, expected);
        };
        let mut count = 0;
        for entry in listed(rows, "PRODUCT") {
            let [name, of, "1", held, warps, _, silu, per_sm] = entry[..] else { panic!("{entry:?}") };
            let small = name.contains("_small");
            let kind = ProductKind::Few { per_sm: number(per_sm), held: number(held), small };
            compiled(name, of, silu, number(warps), kind);
            count += 1;
        }
        for entry in listed(wides, "WIDE") {
            let [name, of, columns, warpgroups, _, _, silu] = entry[..] else { panic!("{entry:?}") };
            compiled(name, of, silu, 4 * number(warpgroups), ProductKind::Wide { rows: 8 * number(columns) });
            count += 1;
        }
        for entry in listed(mmas, "MMA") {
            let [name, of, columns, _, row_warps, k_warps, _, silu, _] = entry[..] else { panic!("{entry:?}") };
            let kind = ProductKind::Mma { rows: 8 * number(columns) };
            compiled(name, of, silu, number(row_warps) * number(k_warps), kind);
            count += 1;
        }
        assert_eq!(count, KERNELS.len());
    }

    #[test]
    fn parts_follow_each_other_and_have_something() {
        for kernel in &KERNELS {
            for inputs in (kernel.unit()..3000).step_by(kernel.unit() as usize) {
                for parts in [1, 2, 5, kernel.most_parts(inputs)] {
                    let cuts: Vec<_> = (0..parts).map(|part| kernel.part(inputs, part, parts)).collect();
                    assert_eq!((cuts[0].start, cuts[cuts.len() - 1].end), (0, inputs));
                    assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
                    let all = cuts.iter().all(|cut| !cut.is_empty());
                    assert_eq!(all, parts <= kernel.most_parts(inputs), "{parts} of {inputs}");
                }
            }
        }
    }
}
