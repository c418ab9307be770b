//! What an operation is to a card: launches, as plain data. Nothing here asks a card for anything.

mod attention;
mod moves;
mod product;
mod sampling;

use std::collections::HashMap;

use super::args::{Arguments, Pointer, TensorMap};
use super::workspace::Workspace;
use crate::op::{Activations, KvPool, Sum};
use crate::{Address, Card, DeviceError, Layout, Op};

/// One launch.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are launches of kernels, and a box would be memory of its own"
)]
pub(super) enum Call {
    Kernel(Launch),
    Library(Gemm),
}

#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) kernel: &'static str,
    pub(super) grid: [u32; 3],
    pub(super) threads: Threads,
    pub(super) shared: Shared,
    pub(super) arguments: Arguments,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Threads {
    /// As many as the kernel was compiled for.
    AsCompiled,
    Count(u32),
}

/// Of shared memory, beside what is fixed when the kernel is compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shared {
    None,
    /// As much as the kernel wants, and so many bytes more.
    AsCompiled {
        more: u32,
    },
}

/// y = x · Wᵀ in bf16, by cuBLASLt; all in rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gemm {
    pub(super) shape: Shape,
    pub(super) x: Pointer,
    pub(super) weights: Pointer,
    pub(super) y: Pointer,
}

/// Rows, outputs, inputs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Shape {
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
}

/// What launches depend on beside their operation.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) card: &'a Card,
    /// Where the memory that operations speak of begins.
    pub(super) memory: Pointer,
    pub(super) workspace: &'a Workspace,
    /// Of keys and of values.
    pub(super) maps: &'a HashMap<KvPool, [TensorMap; 2]>,
}

/// Appends the launches of `op`.
pub(super) fn plan(op: &Op, site: Site<'_>, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
    match op {
        Op::Embed(op) => moves::embed(op, site, calls),
        Op::Norm(op) => moves::norm(op, site, calls),
        Op::Product(op) => product::product(op, site, calls),
        Op::Dequantize(op) => product::dequantize(op, site, calls),
        Op::Rope(op) => attention::rope(op, site, calls),
        Op::DecodeAttention(op) => attention::decode(op, site, calls),
        Op::PrefillAttention(op) => attention::prefill(op, site, calls),
        Op::SiluMul(op) => moves::silu_mul(op, site, calls),
        Op::Gather(op) => moves::gather(op, site, calls),
        Op::Widen(op) => moves::widen(op, site, calls),
        Op::Count(op) => sampling::count(op, site, calls),
        Op::Sample(op) => sampling::sample(op, site, calls),
    }
}

/// Rows that it computes; of prefill attention, which has runs of them, none.
pub(super) fn rows(op: &Op) -> u32 {
    match op {
        Op::Embed(op) => op.rows,
        Op::Norm(op) => op.rows,
        Op::Product(op) => op.rows,
        Op::Rope(op) => op.rows,
        Op::DecodeAttention(op) => op.rows,
        Op::SiluMul(op) => op.rows,
        Op::Gather(op) => op.rows,
        Op::Widen(op) => op.rows,
        Op::Sample(op) => op.rows,
        Op::Dequantize(_) | Op::PrefillAttention(_) | Op::Count(_) => 0,
    }
}

impl Call {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kernel(launch) => launch.kernel,
            Self::Library(_) => "cuBLASLt",
        }
    }
}

impl Launch {
    /// Of so many threads a block.
    fn new<T: bytemuck::Pod>(kernel: &'static str, grid: [u32; 3], threads: u32, arguments: &T) -> Self {
        let threads = Threads::Count(threads);
        Self { kernel, grid, threads, shared: Shared::None, arguments: Arguments::of(arguments) }
    }

    /// Of threads and shared memory as the kernel says itself.
    fn as_compiled<T: bytemuck::Pod>(kernel: &'static str, grid: [u32; 3], arguments: &T) -> Self {
        let (threads, shared) = (Threads::AsCompiled, Shared::AsCompiled { more: 0 });
        Self { kernel, grid, threads, shared, arguments: Arguments::of(arguments) }
    }
}

impl Site<'_> {
    fn at(&self, address: Address) -> Pointer {
        self.memory + address.0
    }

    /// Null where there is nothing.
    fn at_any(&self, address: Option<Address>) -> Pointer {
        address.map_or(0, |address| self.at(address))
    }

    /// Of what is read, which kernels do in rows.
    fn sum_in_rows(&self, what: &str, sum: Option<Sum>) -> Result<Parts, DeviceError> {
        let in_rows = !matches!(sum, Some(Sum::Whole(Activations { layout: Layout::Wide { .. }, .. })));
        require(in_rows, || format!("{what} is read in rows, and not {sum:?}"))?;
        Ok(self.sum(sum))
    }

    /// Null, null, 1 and 0 stand for what is not there.
    fn sum(&self, sum: Option<Sum>) -> Parts {
        match sum {
            None => Parts { whole: 0, parts: 0, count: 1, stride: 0 },
            Some(Sum::Whole(whole)) => Parts { whole: self.at(whole.at), parts: 0, count: 1, stride: 0 },
            Some(Sum::Parts { at, count, stride }) => Parts { whole: 0, parts: self.at(at), count, stride },
        }
    }
}

/// What a product has made, as kernels are told of it.
struct Parts {
    whole: Pointer,
    parts: Pointer,
    count: u32,
    stride: u32,
}

fn refuse(why: impl Into<String>) -> DeviceError {
    DeviceError(why.into())
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), DeviceError> {
    if holds { Ok(()) } else { Err(refuse(why())) }
}

fn is_wide(activations: Activations) -> u32 {
    u32::from(matches!(activations.layout, Layout::Wide { .. }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cuda::compiled::find;

    /// Where the memory of tests begins.
    pub(super) const MEMORY: Pointer = 1 << 32;

    pub(super) fn planned(card: &Card, op: Op) -> Result<Vec<Call>, DeviceError> {
        planned_with(card, op, &HashMap::new())
    }

    pub(super) fn planned_with(
        card: &Card,
        op: Op,
        maps: &HashMap<KvPool, [TensorMap; 2]>,
    ) -> Result<Vec<Call>, DeviceError> {
        let workspace = Workspace::plan(card).at(1 << 40);
        let mut calls = Vec::new();
        plan(&op, Site { card, memory: MEMORY, workspace: &workspace, maps }, &mut calls)?;
        calls.iter().for_each(|call| can_run(card, call));
        Ok(calls)
    }

    /// Whether there is such a kernel, takes what it is handed, and has room on the card.
    fn can_run(card: &Card, call: &Call) {
        if let Call::Kernel(launch) = call {
            let block = find(launch.kernel).and_then(|(_, kernel)| kernel.block(launch, card));
            block.expect("what is planned can be launched");
        }
    }

    /// The launches, all of which have arguments of this type.
    pub(super) fn launches<T: bytemuck::Pod>(calls: &[Call]) -> Vec<(&'static str, [u32; 3], T)> {
        let launch = |call: &Call| match call {
            Call::Kernel(launch) => {
                (launch.kernel, launch.grid, bytemuck::pod_read_unaligned(launch.arguments.bytes()))
            }
            Call::Library(gemm) => panic!("{gemm:?}"),
        };
        calls.iter().map(launch).collect()
    }
}
