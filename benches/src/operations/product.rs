//! Cases of products: every kernel that is chosen for any number of rows, of the forms of weights and of the shapes of
//! models, tiny and ragged ones among them.

use std::collections::BTreeSet;

use sluice_kernels::op::{Activations, BlockScales, Dequantize, Product, Sum};
use sluice_kernels::product::{Launch, Plan, Purpose, padded_rows, plan};
use sluice_kernels::{Card, Layout, Matrix, Op, TILE, WeightForm};

use super::Subject;
use super::case::{Case, Check, Compared};
use super::limits::{GATED, GATED_ROUNDED, Limits, ROUNDED, SCALED};
use super::view::View;
use super::weights::{FORMS, matrix};

/// Outputs and inputs: queries, keys and values; what attention and the feed-forward add; gate and up.
const LARGE: [(u32, u32); 4] = [(7168, 5120), (5120, 5120), (27_648, 5120), (5120, 13_824)];

/// Of small models, and ragged ones: a single tile, an odd number of them, inputs that no pass goes over evenly.
const SMALL: [(u32, u32); 8] =
    [(1024, 256), (256, 512), (1536, 256), (256, 768), (1152, 896), (16, 64), (272, 1088), (80, 192)];

/// What the heads of models have been given in bf16, always.
const HEADS: [(u32, u32); 2] = [(152_064, 5120), (1008, 896)];

const ROWS: [u32; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 12, 24, 48, 96, 128, 200, 256, 500, 1024];
const FEW_ROWS: [u32; 6] = [1, 3, 8, 12, 30, 64];
const HEAD_ROWS: [u32; 4] = [1, 8, 24, 256];

/// Multiplications that the reference makes for one product: beyond them it computes some of the outputs.
const AFFORDABLE: u64 = 500_000_000;

/// Stretches of outputs that it computes then.
const STRETCHES: u32 = 4;

pub(super) fn subjects(card: &Card, full: bool) -> Vec<Subject> {
    let small: &[(u32, u32)] = if full { &SMALL } else { &SMALL[5..] };
    let large: &[(u32, u32)] = if full { &LARGE } else { &[] };
    let rows: &[u32] = if full { &ROWS } else { &FEW_ROWS };
    let mut subjects = Vec::new();
    for (name, form) in FORMS {
        let counts = padded(card, form, rows);
        for shape in large.iter().chain(small) {
            let name = format!("product {name} {}x{}", shape.0, shape.1);
            subjects.push(subject(
                name,
                form,
                *shape,
                counts.clone(),
                &[Purpose::Whole, Purpose::Summed, Purpose::Silu],
            ));
        }
    }
    let heads: &[(u32, u32)] = if full { &HEADS } else { &HEADS[1..] };
    for shape in heads {
        let counts = padded(card, WeightForm::Bf16, &HEAD_ROWS);
        let name = format!("product head {}x{}", shape.0, shape.1);
        subjects.push(subject(name, WeightForm::Bf16, *shape, counts, &[Purpose::Whole]));
    }
    subjects
}

/// As they are computed, each once.
fn padded(card: &Card, form: WeightForm, rows: &[u32]) -> Vec<u32> {
    rows.iter().map(|rows| padded_rows(card, form, *rows)).collect::<BTreeSet<_>>().into_iter().collect()
}

fn subject(
    name: String,
    form: WeightForm,
    (outputs, inputs): (u32, u32),
    rows: Vec<u32>,
    purposes: &'static [Purpose],
) -> Subject {
    Subject::new(name.clone(), [()], move |case, ()| {
        let stored = matrix(case, form, outputs, inputs);
        let mut weights = Weights { name: &name, stored, dequantized: None };
        for rows in &rows {
            weights.products(case, *rows, purposes);
        }
    })
}

/// A matrix, and the same in bf16 once it was dequantised.
struct Weights<'a> {
    name: &'a str,
    stored: Matrix,
    dequantized: Option<Matrix>,
}

impl Weights<'_> {
    fn products(&mut self, case: &mut Case, rows: u32, purposes: &[Purpose]) {
        let Matrix { form, outputs, inputs, .. } = self.stored;
        let (mut x, mut known): (Option<Activations>, Vec<Plan>) = (None, Vec::new());
        for purpose in purposes {
            let plan = plan(&case.card, form, outputs, inputs, rows, *purpose);
            // What is summed or gated elsewhere is the same product as it is.
            if known.contains(&Plan { separate_silu: false, ..plan }) {
                continue;
            }
            known.push(plan);
            let matrix = if plan.dequantize { self.dequantized(case) } else { self.stored };
            let x = *x.get_or_insert_with(|| case.activations(rows, inputs, plan.input));
            let silu = *purpose == Purpose::Silu && !plan.separate_silu;
            let product = Planned { plan, matrix, x, rows, silu };
            let check = product.check(case_name(self.name, rows, plan, silu), case);
            case.checks.push(check);
        }
    }

    fn dequantized(&mut self, case: &mut Case) -> Matrix {
        let stored = self.stored;
        *self.dequantized.get_or_insert_with(|| {
            let out = case.room::<u16>(stored.outputs * stored.inputs);
            let op = Op::Dequantize(Dequantize { matrix: stored, scales: BlockScales::Own, out: out.at });
            case.check(format!("{}, dequantised", self.name), op, vec![Compared::Same(vec![out])]);
            Matrix { form: WeightForm::Bf16, weights: out.at, unit: 1.0, ..stored }
        })
    }
}

fn case_name(name: &str, rows: u32, plan: Plan, silu: bool) -> String {
    let kernel = match plan.launch {
        Launch::Kernel { name, .. } => name,
        Launch::Library => "library",
    };
    let how = match plan.parts {
        1 if silu => ", gated".to_owned(),
        1 => String::new(),
        parts => format!(", {parts} parts"),
    };
    format!("{name}, {rows} rows, {kernel}{how}")
}

struct Planned {
    plan: Plan,
    matrix: Matrix,
    x: Activations,
    rows: u32,
    silu: bool,
}

impl Planned {
    fn check(&self, name: String, case: &mut Case) -> Check {
        let y = match self.plan.parts {
            1 => Sum::Whole(self.room(case, self.matrix.outputs, self.layout())),
            count => {
                let stride = self.rows * self.matrix.outputs + 8;
                Sum::Parts { at: case.room::<f32>(count * stride).at, count, stride }
            }
        };
        let whole = View::all(y, self.rows, self.made(self.matrix.outputs));
        let (mut reference, mut pairs) = (Vec::new(), Vec::new());
        for (first, outputs) in self.stretches(case) {
            let stretch = self.stretch(first, outputs, case);
            let Sum::Whole(at) = stretch.y else { continue };
            let columns = self.made(first)..self.made(first + outputs);
            pairs.push((View { columns, ..whole.clone() }, View::of(at, self.rows, self.made(outputs))));
            reference.push(Op::Product(stretch));
        }
        let compared = vec![Compared::Close("a sum", pairs, self.limits()), Compared::Written(whole.clone())];
        let op = self.op(self.matrix, self.plan.launch, y);
        Check { name, ops: vec![Op::Product(op)], reference: Some(reference), writes: whole.regions(), compared }
    }

    /// The same of some outputs, as a matrix of its own.
    fn stretch(&self, first: u32, outputs: u32, case: &mut Case) -> Product {
        let Matrix { form, inputs, weights, scales, .. } = self.matrix;
        let (weights_before, scales_before) = form.bytes(u64::from(first), u64::from(inputs));
        let matrix = Matrix {
            outputs,
            weights: weights.offset(weights_before),
            scales: scales.offset(scales_before),
            ..self.matrix
        };
        let purpose = if self.silu { Purpose::Silu } else { Purpose::Whole };
        let plan = plan(&case.card, form, outputs, inputs, self.rows, purpose);
        let y = self.room(case, outputs, Layout::Rows);
        self.op(matrix, plan.launch, Sum::Whole(y))
    }

    /// First outputs and how many, in whole tiles: the first and the last are always among them.
    fn stretches(&self, case: &mut Case) -> Vec<(u32, u32)> {
        let Matrix { outputs, inputs, .. } = self.matrix;
        let (tiles, each) = (outputs / TILE.0, u64::from(TILE.0 * inputs) * u64::from(self.rows));
        let affordable = (AFFORDABLE / each).max(u64::from(STRETCHES)) as u32;
        if tiles <= affordable {
            return vec![(0, outputs)];
        }
        let (length, apart) = (affordable / STRETCHES, tiles / STRETCHES);
        let mut start = |stretch: u32| match stretch {
            0 => 0,
            last if last + 1 == STRETCHES => tiles - length,
            _ => stretch * apart + case.random.below(apart - length + 1),
        };
        (0..STRETCHES).map(&mut start).map(|tile| (tile * TILE.0, length * TILE.0)).collect()
    }

    fn op(&self, matrix: Matrix, kernel: Launch, y: Sum) -> Product {
        Product { matrix, kernel, silu: self.silu, x: self.x, y, rows: self.rows }
    }

    fn room(&self, case: &mut Case, outputs: u32, layout: Layout) -> Activations {
        case.room_for_activations(self.rows, self.made(outputs), layout)
    }

    /// Numbers that come of so many outputs.
    fn made(&self, outputs: u32) -> u32 {
        if self.silu { outputs / 2 } else { outputs }
    }

    /// What is gated is read by a product of as many rows.
    fn layout(&self) -> Layout {
        let fits = self.made(self.matrix.outputs).is_multiple_of(TILE.1);
        if self.silu && fits { self.plan.input } else { Layout::Rows }
    }

    fn limits(&self) -> Limits {
        match (self.matrix.form, self.silu) {
            (WeightForm::Bf16, false) => ROUNDED,
            (WeightForm::Bf16, true) => GATED_ROUNDED,
            (_, false) => SCALED,
            (_, true) => GATED,
        }
    }
}
