//! Products, and what makes their weights bf16.

use super::{Call, Gemm, Launch, Shape, Site, is_wide, refuse, require};
use crate::cuda::args::{DequantArgs, DequantNestedArgs, ProductArgs};
use crate::cuda::workspace::COUNTERS;
use crate::op::{BlockScales, Dequantize, NestedScales, Product, Sum};
use crate::{DeviceError, Layout, Matrix, ProductKernel, ProductKind, TILE, WeightForm, product};

/// What the kernels' table of NF4 values is multiplied by, so that bf16 takes least from them: NF4_TABLE_FACTOR.
const NF4_TABLE_FACTOR: f32 = 1.4367;

/// Row tiles that the blocks of a wide product may count together, beyond those that are there.
const GROUP_TILES: u32 = 32;

const DEQUANTIZE_THREADS: u32 = 256;

/// Blocks to each multiprocessor.
const DEQUANTIZE_BLOCKS: u32 = 8;

pub(super) fn product(op: &Product, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    let tiles = op.matrix.outputs.is_multiple_of(TILE.0) && op.matrix.inputs.is_multiple_of(TILE.1);
    require(tiles, || format!("product of {}: not whole tiles", sizes(&op.matrix)))?;
    if op.rows > 0 {
        calls.push(match op.kernel {
            product::Launch::Library => Call::Library(library(op, site)?),
            product::Launch::Kernel { name, blocks } => Call::Kernel(kernel(op, name, blocks, site)?),
        });
    }
    Ok(())
}

fn library(op: &Product, site: Site<'_>) -> Result<Gemm, DeviceError> {
    let matrix = op.matrix;
    let Sum::Whole(y) = op.y else { return Err(refuse("cuBLASLt leaves no parts of a product")) };
    let plain = matrix.form == WeightForm::Bf16 && !op.silu && op.x.layout == Layout::Rows && y.layout == Layout::Rows;
    require(plain, || format!("cuBLASLt computes bf16 in rows, and no silu, not {op:?}"))?;
    let shape = Shape { m: op.rows, n: matrix.outputs, k: matrix.inputs };
    Ok(Gemm { shape, x: site.at(op.x.at), weights: site.at(matrix.weights), y: site.at(y.at) })
}

fn kernel(op: &Product, name: &'static str, blocks: u32, site: Site<'_>) -> Result<Launch, DeviceError> {
    fits(op, name, blocks, site)?;
    let (x_row, x_oct) = op.x.layout.strides(op.matrix.inputs);
    let outputs = if op.silu { op.matrix.outputs / 2 } else { op.matrix.outputs };
    let y = site.sum(Some(op.y));
    let (y_row, y_oct, y_wide) = match op.y {
        Sum::Whole(y) => (y.layout.strides(outputs).0, y.layout.strides(outputs).1, is_wide(y)),
        Sum::Parts { .. } => (outputs, Layout::Rows.strides(outputs).1, 0),
    };
    let arguments = ProductArgs {
        weights: site.at(op.matrix.weights),
        scales: site.at(op.matrix.scales),
        x: site.at(op.x.at),
        y: y.whole,
        partial: site.workspace.partial(),
        arrivals: site.workspace.arrivals(),
        m: op.rows,
        n: op.matrix.outputs,
        k: op.matrix.inputs,
        x_row,
        x_oct,
        y_row,
        y_oct,
        alpha: alpha(&op.matrix),
        y_f32: y.parts,
        splits: y.count,
        split_stride: y.stride,
        y_wide,
        padding: 0,
    };
    Ok(Launch::as_compiled(name, [blocks, 1, 1], &arguments))
}

/// Whether the kernel may be launched so: what it does not check itself.
fn fits(op: &Product, name: &str, blocks: u32, site: Site<'_>) -> Result<(), DeviceError> {
    let kernel = ProductKernel::named(name).ok_or_else(|| refuse(format!("no product is computed by {name}")))?;
    kernel.check(op, blocks, site.card).map_err(|misfit| refuse(format!("product: {misfit}")))?;
    if let (ProductKind::Few { .. }, _) | (_, Sum::Parts { .. }) = (kernel.kind, op.y) {
        return Ok(());
    }
    // The others leave sums to each other.
    let room = blocks <= site.card.multiprocessors && op.matrix.outputs / TILE.0 + GROUP_TILES <= COUNTERS;
    require(room, || format!("{name}: no room for what {blocks} blocks leave of {}", sizes(&op.matrix)))
}

fn alpha(matrix: &Matrix) -> f32 {
    match matrix.form {
        WeightForm::Bf16 => 1.0,
        WeightForm::Int8 => matrix.unit,
        WeightForm::Nf4 => matrix.unit / NF4_TABLE_FACTOR,
    }
}

pub(super) fn dequantize(op: &Dequantize, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    let matrix = &op.matrix;
    let (kernel, scales, factor) = match (matrix.form, op.scales) {
        (WeightForm::Int8, BlockScales::Own) => ("dequant_int8", matrix.scales, matrix.unit),
        (WeightForm::Nf4, BlockScales::Own) => ("dequant_nf4", matrix.scales, matrix.unit),
        (WeightForm::Nf4, BlockScales::F32(scales)) => ("dequant_nf4_f32", scales, 1.0),
        (WeightForm::Nf4, BlockScales::Nested(nested)) => return dequantize_nested(op, nested, site, calls),
        (WeightForm::Bf16, _) => return Err(refuse("weights of bf16 are not to be dequantised")),
        (WeightForm::Int8, _) => return Err(refuse("weights of int8 have no scales but their own")),
    };
    let arguments = DequantArgs {
        weights: site.at(matrix.weights),
        scales: site.at(scales),
        out: site.at(op.out),
        n: matrix.outputs,
        k: matrix.inputs,
        factor,
        padding: 0,
    };
    let grid = [site.card.multiprocessors * DEQUANTIZE_BLOCKS, 1, 1];
    calls.push(Call::Kernel(Launch::new(kernel, grid, DEQUANTIZE_THREADS, &arguments)));
    Ok(())
}

fn dequantize_nested(
    op: &Dequantize,
    nested: NestedScales,
    site: Site<'_>,
    calls: &mut Vec<Call>,
) -> Result<(), DeviceError> {
    let arguments = DequantNestedArgs {
        codes: site.at(op.matrix.weights),
        scale_codes: site.at(nested.codes),
        map: site.at(nested.map),
        nested: site.at(nested.groups),
        first_blocks: site.at(nested.first_blocks),
        out: site.at(op.out),
        n: op.matrix.outputs,
        k: op.matrix.inputs,
    };
    let grid = [site.card.multiprocessors * DEQUANTIZE_BLOCKS, 1, 1];
    calls.push(Call::Kernel(Launch::new("dequant_nf4_nested", grid, DEQUANTIZE_THREADS, &arguments)));
    Ok(())
}

fn sizes(matrix: &Matrix) -> String {
    format!("{} by {}", matrix.outputs, matrix.inputs)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MEMORY, launches, planned};
    use super::super::{Shared, Threads};
    use super::*;
    use crate::op::Activations;
    use crate::product::{Plan, Purpose, plan};
    use crate::{Address, Card, Op};

    fn matrix(form: WeightForm, outputs: u32, inputs: u32) -> Matrix {
        Matrix { form, outputs, inputs, weights: Address(256), scales: Address(512), unit: 0.5 }
    }

    /// As whoever plans a step would make it.
    fn planned_product(card: &Card, matrix: Matrix, rows: u32, purpose: Purpose) -> (Plan, Product) {
        let Matrix { form, outputs, inputs, .. } = matrix;
        let plan = plan(card, form, outputs, inputs, rows, purpose);
        let rows_of = |at, layout| Activations { at: Address(at), layout };
        let y = match (plan.parts, plan.separate_silu) {
            (1, true) => Sum::Whole(rows_of(2048, Layout::Rows)),
            (1, false) => Sum::Whole(rows_of(2048, if purpose == Purpose::Silu { plan.input } else { Layout::Rows })),
            (count, _) => Sum::Parts { at: Address(2048), count, stride: rows * outputs },
        };
        let matrix = Matrix { form: if plan.dequantize { WeightForm::Bf16 } else { form }, ..matrix };
        let silu = purpose == Purpose::Silu && !plan.separate_silu;
        (plan, Product { matrix, kernel: plan.launch, silu, x: rows_of(1024, plan.input), y, rows })
    }

    #[test]
    fn every_planned_product_can_be_launched() {
        for card in [Card::h200(), Card::rtx_4090()] {
            for form in [WeightForm::Nf4, WeightForm::Int8, WeightForm::Bf16] {
                for rows in crate::product::row_counts(&card, form, 1024) {
                    for (purpose, outputs) in [(Purpose::Summed, 7168), (Purpose::Silu, 27648), (Purpose::Whole, 5120)]
                    {
                        let (plan, op) = planned_product(&card, matrix(form, outputs, 5120), rows, purpose);
                        let calls = planned(&card, Op::Product(op)).expect("it is launched as planned");
                        assert_eq!(calls.len(), 1, "{plan:?}");
                        match (&calls[0], plan.launch) {
                            (Call::Kernel(launch), product::Launch::Kernel { name, blocks }) => {
                                assert_eq!((launch.kernel, launch.grid), (name, [blocks, 1, 1]));
                                assert_eq!(
                                    (launch.threads, launch.shared),
                                    (Threads::AsCompiled, Shared::AsCompiled { more: 0 })
                                );
                            }
                            (Call::Library(gemm), product::Launch::Library) => {
                                assert_eq!(gemm.shape, Shape { m: rows, n: outputs, k: 5120 });
                            }
                            _ => panic!("{plan:?}"),
                        }
                    }
                }
            }
        }
    }

    /// Small ones too, of which there may be fewer inputs than multiprocessors could add up.
    #[test]
    fn planned_products_of_any_size_can_be_launched() {
        for (card, purpose) in [Card::h200(), Card::rtx_4090()]
            .iter()
            .flat_map(|card| [Purpose::Summed, Purpose::Silu, Purpose::Whole].map(|purpose| (card, purpose)))
        {
            for form in [WeightForm::Nf4, WeightForm::Int8, WeightForm::Bf16] {
                for rows in crate::product::row_counts(card, form, 256) {
                    for (outputs, inputs) in (256..=1152)
                        .step_by(128)
                        .chain([16, 48, 16_384])
                        .flat_map(|outputs| (64..=1280).step_by(64).map(move |inputs| (outputs, inputs)))
                    {
                        let (plan, op) = planned_product(card, matrix(form, outputs, inputs), rows, purpose);
                        let planned = planned(card, Op::Product(op));
                        assert!(planned.is_ok(), "{rows} rows, {outputs} by {inputs}, {plan:?}: {planned:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_kernel_is_told_of_parts_layouts_and_scales() {
        let (plan, op) = planned_product(&Card::h200(), matrix(WeightForm::Nf4, 5120, 5120), 16, Purpose::Summed);
        let calls = planned(&Card::h200(), Op::Product(op)).expect("it fits");
        let [(_, _, arguments)] = launches::<ProductArgs>(&calls)[..] else { panic!("one launch") };
        assert!(plan.parts > 1);
        assert_eq!((arguments.y, arguments.y_f32), (0, MEMORY + 2048));
        assert_eq!((arguments.splits, arguments.split_stride), (plan.parts, 16 * 5120));
        assert_eq!((arguments.x_row, arguments.x_oct), (8, 128));
        assert_eq!((arguments.y_row, arguments.y_oct, arguments.y_wide), (5120, 8, 0));
        assert_eq!(arguments.alpha.to_bits(), (0.5f32 / 1.4367).to_bits());

        let (_, op) = planned_product(&Card::h200(), matrix(WeightForm::Int8, 27648, 5120), 64, Purpose::Silu);
        let calls = planned(&Card::h200(), Op::Product(op)).expect("it fits");
        let [(_, _, arguments)] = launches::<ProductArgs>(&calls)[..] else { panic!("one launch") };
        assert_eq!((arguments.y, arguments.y_f32, arguments.splits), (MEMORY + 2048, 0, 1));
        assert_eq!((arguments.y_row, arguments.y_oct, arguments.y_wide), (8, 512, 1));
        assert_eq!((arguments.n, arguments.alpha), (27648, 0.5));
    }

    #[test]
    fn what_would_read_or_write_elsewhere_is_refused() {
        let whole = |layout| Sum::Whole(Activations { at: Address(2048), layout });
        let refused = |change: &dyn Fn(&mut Product)| {
            let matrix = matrix(WeightForm::Nf4, 5120, 5120);
            let (_, mut op) = planned_product(&Card::h200(), matrix, 128, Purpose::Whole);
            change(&mut op);
            planned(&Card::h200(), Op::Product(op)).expect_err("it is refused").to_string()
        };
        let library = |op: &mut Product| op.kernel = product::Launch::Library;
        let named = |name, blocks| move |op: &mut Product| op.kernel = product::Launch::Kernel { name, blocks };
        let parts = |count, blocks| {
            move |op: &mut Product| {
                op.y = Sum::Parts { at: Address(0), count, stride: 1 };
                op.kernel = product::Launch::Kernel { name: "nf4_wide128", blocks };
            }
        };
        assert!(refused(&library).starts_with("cuBLASLt computes bf16"));
        assert!(refused(&named("nf4_m8_k5w8a1", 132)).contains("`kernel` is nf4_m8_k5w8a1, which is not for 128 rows"));
        assert!(refused(&named("int8_wide128", 132)).contains("not for 128 rows of Nf4"));
        assert!(refused(&named("nf4_mma64", 132)).contains("on NVIDIA H200"));
        assert!(refused(&named("nf4_wide128_3", 132)).contains("no product is computed by nf4_wide128_3"));
        assert!(refused(&named("nf4_wide128", 133)).contains("no room for what 133 blocks leave"));
        assert!(refused(&named("nf4_wide128", 0)).contains("by 0 blocks"));
        assert!(refused(&|op| op.rows = 100).contains("not for 100 rows"));
        assert!(
            refused(&|op| op.x.layout = Layout::Wide { rows: 64 }).contains("`x` is laid out as Wide { rows: 64 }")
        );
        assert!(refused(&|op| op.matrix.inputs = 5121).contains("not whole tiles"));
        assert!(refused(&|op| op.matrix.inputs = 5120 + 64).contains("reads 128 inputs at a time"));
        assert!(refused(&parts(5, 132)).contains("132 blocks, which do not share out 5120 by 5120 in 5 parts"));
        assert!(refused(&parts(41, 40 * 41)).contains("`y` has 41 parts"));
        assert!(refused(&parts(1, 132)).contains("`y` has 1 parts"));
        assert!(
            refused(&|op| {
                library(op);
                op.matrix.form = WeightForm::Bf16;
                op.x.layout = Layout::Rows;
                op.y = whole(Layout::Wide { rows: 128 });
            })
            .starts_with("cuBLASLt computes bf16")
        );
    }

    #[test]
    fn dequantising_takes_the_unit_as_it_is() {
        let exactly =
            |form, scales| Op::Dequantize(Dequantize { matrix: matrix(form, 5120, 640), scales, out: Address(4096) });
        let op = |form| exactly(form, BlockScales::Own);
        for (form, kernel) in [(WeightForm::Nf4, "dequant_nf4"), (WeightForm::Int8, "dequant_int8")] {
            let calls = planned(&Card::rtx_4090(), op(form)).expect("it is quantised");
            let [(name, grid, arguments)] = launches::<DequantArgs>(&calls)[..] else { panic!("one launch") };
            assert_eq!((name, grid, arguments.factor), (kernel, [1024, 1, 1], 0.5));
        }
        let f32s = BlockScales::F32(Address(256));
        let calls = planned(&Card::rtx_4090(), exactly(WeightForm::Nf4, f32s)).expect("it is quantised");
        let [(name, _, arguments)] = launches::<DequantArgs>(&calls)[..] else { panic!("one launch") };
        assert_eq!((name, arguments.factor), ("dequant_nf4_f32", 1.0));
        let [codes, map, groups, first_blocks] = [256, 512, 2048, 4096].map(Address);
        let nested = BlockScales::Nested(NestedScales { codes, map, groups, first_blocks });
        let calls = planned(&Card::rtx_4090(), exactly(WeightForm::Nf4, nested)).expect("it is quantised");
        let [(name, _, arguments)] = launches::<DequantNestedArgs>(&calls)[..] else { panic!("one launch") };
        assert_eq!((name, arguments.n, arguments.k), ("dequant_nf4_nested", 5120, 640));
        assert_eq!(arguments.map - arguments.scale_codes, 256);
        assert!(planned(&Card::rtx_4090(), op(WeightForm::Bf16)).is_err());
        assert!(planned(&Card::rtx_4090(), exactly(WeightForm::Int8, f32s)).is_err());
    }
}
