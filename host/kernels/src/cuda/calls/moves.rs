//! Operations that read and write each number once: embedding, norm, silu, and moves from one place to another.

use super::{Call, Launch, Site, is_wide, require};
use crate::DeviceError;
use crate::cuda::args::{EmbedArgs, GatherArgs, NormArgs, SiluArgs, WidenArgs};
use crate::op::{Embed, Gather, Norm, SiluMul, Widen};

const WARP: u32 = 32;

/// Numbers that a thread takes at a time.
const OCT: u32 = 8;

/// A block has a thread for each oct of a row.
const WIDEST_NORM: u32 = 1024 * OCT;

/// Of a block that moves a row.
const MOVE_THREADS: u32 = 128;

const SILU_THREADS: u32 = 256;

pub(super) fn embed(op: &Embed, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    octs("embedding", op.width)?;
    let arguments = EmbedArgs {
        tokens: site.at(op.tokens),
        drawn: site.at(op.drawn),
        table: site.at(op.table),
        hidden: site.at(op.hidden),
        rows: op.rows,
        width: op.width,
    };
    row_blocks("embed", op.rows, MOVE_THREADS, &arguments, calls);
    Ok(())
}

pub(super) fn norm(op: &Norm, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    octs("norm", op.width)?;
    require(op.width <= WIDEST_NORM, || format!("norm of {}: at most {WIDEST_NORM} wide", op.width))?;
    let (out_row, out_oct) = op.out.layout.strides(op.width);
    let delta = site.sum_in_rows("norm's addend", op.delta)?;
    let arguments = NormArgs {
        hidden: site.at(op.hidden),
        delta: delta.whole,
        parts: delta.parts,
        weight: site.at(op.weight),
        out: site.at(op.out.at),
        n: op.width,
        splits: delta.count,
        split_stride: delta.stride,
        out_row,
        out_oct,
        wide: is_wide(op.out),
        eps: op.eps,
        padding: 0,
    };
    let threads = (op.width / OCT).next_multiple_of(WARP);
    row_blocks("add_rms_norm", op.rows, threads, &arguments, calls);
    Ok(())
}

pub(super) fn silu_mul(op: &SiluMul, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    octs("silu", op.width)?;
    let (out_row, out_oct) = op.out.layout.strides(op.width);
    let arguments = SiluArgs {
        gate_up: site.at(op.gate_up),
        out: site.at(op.out.at),
        rows: op.rows,
        n: op.width,
        out_row,
        out_oct,
        wide: is_wide(op.out),
        padding: 0,
    };
    let octs = u64::from(op.rows) * u64::from(op.width / OCT);
    let blocks =
        u32::try_from(octs.div_ceil(SILU_THREADS.into())).map_err(|_| super::refuse("silu of too many rows"))?;
    row_blocks("silu_mul", blocks, SILU_THREADS, &arguments, calls);
    Ok(())
}

pub(super) fn gather(op: &Gather, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    octs("gather", op.width)?;
    let arguments = GatherArgs {
        from: site.at(op.from),
        indices: site.at(op.indices),
        out: site.at(op.out),
        rows: op.rows,
        width: op.width,
    };
    row_blocks("gather_rows", op.rows, MOVE_THREADS, &arguments, calls);
    Ok(())
}

pub(super) fn widen(op: &Widen, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    octs("widen", op.width)?;
    let arguments = WidenArgs { from: site.at(op.from), out: site.at(op.out), rows: op.rows, width: op.width };
    row_blocks("widen", op.rows, MOVE_THREADS, &arguments, calls);
    Ok(())
}

fn octs(what: &str, width: u32) -> Result<(), DeviceError> {
    require(width.is_multiple_of(OCT), || format!("{what} of {width}: not a multiple of {OCT}"))
}

/// A grid of one dimension; of nothing at all, no launch.
fn row_blocks<T: bytemuck::Pod>(kernel: &'static str, blocks: u32, threads: u32, arguments: &T, calls: &mut Vec<Call>) {
    if blocks > 0 {
        calls.push(Call::Kernel(Launch::new(kernel, [blocks, 1, 1], threads, arguments)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MEMORY, launches, planned};
    use super::*;
    use crate::Card;
    use crate::op::{Activations, Sum};
    use crate::{Address, Layout, Op};

    const WIDE: Layout = Layout::Wide { rows: 32 };

    fn norm_op(width: u32, delta: Option<Sum>) -> Op {
        let out = Activations { at: Address(512), layout: WIDE };
        Op::Norm(Norm { hidden: Address(0), delta, weight: Address(256), out, rows: 20, width, eps: 1e-6 })
    }

    #[test]
    fn a_norm_has_whole_warps_for_each_row() {
        for (width, expected) in [(64, 32), (896, 128), (5120, 640), (8192, 1024), (3072, 384)] {
            let calls = planned(&Card::rtx_4090(), norm_op(width, None)).expect("it fits");
            let [Call::Kernel(launch)] = &calls[..] else { panic!("one launch") };
            assert_eq!((launch.grid, launch.threads), ([20, 1, 1], super::super::Threads::Count(expected)));
            let (name, _, arguments) = launches::<NormArgs>(&calls)[0];
            assert_eq!((name, arguments.delta, arguments.parts, arguments.splits), ("add_rms_norm", 0, 0, 1));
            assert_eq!((arguments.out_row, arguments.out_oct, arguments.wide), (8, 256, 1));
        }
        for width in [8200, 60] {
            assert!(planned(&Card::rtx_4090(), norm_op(width, None)).is_err(), "{width}");
        }
    }

    #[test]
    fn a_norm_adds_rows_or_parts() {
        let whole = |layout| Some(Sum::Whole(Activations { at: Address(1024), layout }));
        let added = |delta| {
            let calls = planned(&Card::rtx_4090(), norm_op(64, delta));
            calls.map(|calls| launches::<NormArgs>(&calls)[0].2).map(|found| (found.delta, found.parts, found.splits))
        };
        assert_eq!(added(whole(Layout::Rows)), Ok((MEMORY + 1024, 0, 1)));
        let parts = Sum::Parts { at: Address(2048), count: 3, stride: 1280 };
        assert_eq!(added(Some(parts)), Ok((0, MEMORY + 2048, 3)));
        assert!(added(whole(WIDE)).is_err());
    }

    #[test]
    fn moves_take_a_block_for_each_row_and_silu_a_thread_for_each_oct() {
        let at = Address(0);
        let out = Activations { at, layout: WIDE };
        for (op, expected) in [
            (Op::Embed(Embed { tokens: at, drawn: at, table: at, hidden: at, rows: 3, width: 64 }), ("embed", 3)),
            (Op::Gather(Gather { from: at, indices: at, out: at, rows: 5, width: 64 }), ("gather_rows", 5)),
            (Op::Widen(Widen { from: at, out: at, rows: 16, width: 64 }), ("widen", 16)),
            (Op::SiluMul(SiluMul { gate_up: at, out, rows: 32, width: 13824 }), ("silu_mul", 216)),
            (Op::SiluMul(SiluMul { gate_up: at, out, rows: 1, width: 64 }), ("silu_mul", 1)),
        ] {
            let calls = planned(&Card::rtx_4090(), op).expect("it fits");
            let [Call::Kernel(launch)] = &calls[..] else { panic!("one launch") };
            assert_eq!((launch.kernel, launch.grid), (expected.0, [expected.1, 1, 1]));
        }
        let none = Op::Gather(Gather { from: at, indices: at, out: at, rows: 0, width: 64 });
        assert!(planned(&Card::rtx_4090(), none).expect("it is nothing").is_empty());
    }
}
