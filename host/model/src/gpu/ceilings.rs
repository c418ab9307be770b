//! What a card reaches when it does nothing else, measured by products of bf16 numbers.

use sluice_core::{Nanos, SECOND, philox};
use sluice_kernels::op::{Activations, Product, Sum};
use sluice_kernels::product::{Purpose, plan};
use sluice_kernels::{Address, Device, DeviceError, Layout, Matrix, Op, Region, Submission, WeightForm, Work};

use crate::gpu::shape::halves;

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ceilings {
    /// Read from its memory.
    pub bytes_per_second: f64,
    pub flops_per_second: f64,
}

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Outputs and inputs of a matrix that one row is multiplied with: reading it is all that takes time.
    read: (u32, u32),
    /// Of three square matrices: multiplying is.
    side: u32,
}

/// The first is 1 GiB, of which no cache holds much, and as wide as the kernel that reads it likes best.
const SIZES: Sizes = Sizes { read: (104_448, 5120), side: 8192 };

/// One behind the other; the fastest counts.
const RUNS: usize = 5;

/// Random numbers, which are written again and again: as many as are made quickly.
const PATTERN: u64 = 4 << 20;

impl Ceilings {
    /// Overwrites `scratch`. None where that is too little to measure by, or the device does not take such products.
    pub(crate) fn measure<D: Device>(device: &mut D, scratch: Region) -> Result<Option<Self>, DeviceError> {
        Self::measure_by(SIZES, device, scratch)
    }

    fn measure_by<D: Device>(sizes: Sizes, device: &mut D, scratch: Region) -> Result<Option<Self>, DeviceError> {
        let bytes = |(outputs, inputs): (u32, u32)| halves(u64::from(outputs) * u64::from(inputs));
        let square = (sizes.side, sizes.side);
        let weights = scratch.at;
        let x = weights.offset(bytes(sizes.read).max(bytes(square)));
        let y = x.offset(bytes(square));
        let end = y.offset(bytes(square).max(halves(u64::from(sizes.read.0))));
        if scratch.bytes < end.0 - scratch.at.0 {
            return Ok(None);
        }
        fill(device, Region { at: weights, bytes: y.0 - weights.0 })?;
        let mut time = |(outputs, inputs), rows| {
            let (form, scales) = (WeightForm::Bf16, weights);
            let matrix = Matrix { form, outputs, inputs, weights, scales, unit: 1.0 };
            let op = product(device, matrix, rows, x, y);
            fastest(device, &op)
        };
        let (Some(reading), Some(computing)) = (time(sizes.read, 1)?, time(square, sizes.side)?) else {
            return Ok(None);
        };
        let flops = 2.0 * f64::from(sizes.side).powi(3);
        let per_second = |count: f64, nanos: Nanos| count * SECOND as f64 / nanos.max(1) as f64;
        let bytes_per_second = per_second(bytes(sizes.read) as f64, reading);
        Ok(Some(Self { bytes_per_second, flops_per_second: per_second(flops, computing) }))
    }
}

/// With random numbers: zeros are multiplied faster.
fn fill<D: Device>(device: &mut D, region: Region) -> Result<(), DeviceError> {
    let number = |index: u64| half::bf16::from_f32(philox::philox(0, index.into())[0] as f32 / 2f32.powi(31) - 1.0);
    let pattern: Vec<u8> = (0..PATTERN.min(region.bytes) / 2).flat_map(|index| number(index).to_le_bytes()).collect();
    (0..region.bytes).step_by(PATTERN as usize).try_for_each(|at| {
        let more = (region.bytes - at).min(pattern.len() as u64) as usize;
        device.upload(region.at.offset(at), &pattern[..more])
    })
}

fn product<D: Device>(device: &D, matrix: Matrix, rows: u32, x: Address, y: Address) -> Op {
    let plan = plan(device.card(), matrix.form, matrix.outputs, matrix.inputs, rows, Purpose::Whole);
    let in_rows = |at| Activations { at, layout: Layout::Rows };
    Op::Product(Product { matrix, kernel: plan.launch, silu: false, x: in_rows(x), y: Sum::Whole(in_rows(y)), rows })
}

/// None if it is refused before it has begun.
fn fastest<D: Device>(device: &mut D, op: &Op) -> Result<Option<Nanos>, DeviceError> {
    if device.warm_up(std::slice::from_ref(op)).is_err() {
        return Ok(None);
    }
    let mut fastest = Nanos::MAX;
    for _ in 0..RUNS {
        device.submit(&Submission { copies: &[], work: Work::Ops(std::slice::from_ref(op)), results: &[] })?;
        device.wait()?;
        if let Some(done) = device.poll()? {
            fastest = fastest.min(done.device_nanos);
        }
    }
    Ok(Some(fastest))
}

#[cfg(test)]
mod tests {
    use sluice_kernels::Card;

    use super::*;
    use crate::gpu::HostDevice;

    const SMALL: Sizes = Sizes { read: (128, 320), side: 64 };

    /// Of `SMALL`.
    const NEEDED: u64 = 2 * (128 * 320 + 2 * 64 * 64);

    fn check(bytes: u64, measured: bool) {
        let mut device = HostDevice::new(Card::h200()).poisoned();
        device.reserve(2 * NEEDED, 0, 256, 1).unwrap();
        let behind = Address(256 + bytes);
        device.upload(behind, &[7; 64]).unwrap();
        let found = Ceilings::measure_by(SMALL, &mut device, Region { at: Address(256), bytes }).unwrap();
        assert_eq!(found.is_some(), measured, "{bytes} bytes: {found:?}");
        let results = [Region { at: behind, bytes: 64 }];
        device.submit(&Submission { copies: &[], work: Work::Ops(&[]), results: &results }).unwrap();
        assert_eq!(device.poll().unwrap().unwrap().results, [7; 64], "what is behind stays as it is");
    }

    #[test]
    fn a_card_is_measured_where_there_is_room() {
        check(NEEDED, true);
        check(NEEDED - 2, false);
    }
}
