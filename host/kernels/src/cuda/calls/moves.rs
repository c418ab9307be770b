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
    let delta = site.sum(op.delta);
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
