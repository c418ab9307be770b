//! Each operation against a few lines of f64, on a device whose memory is poisoned.

mod attention;
mod device;
mod elements;
mod faults;
mod products;
mod sampling;

use bytemuck::Pod;
use half::bf16;
use sluice_kernels::op::{Activations, HEAD_DIM};
use sluice_kernels::{Address, Arena, Card, Device, DeviceError, Layout, Op, Region, Submission, Work};

use super::HostDevice;

const DIM: usize = HEAD_DIM as usize;

/// A device with what a test has put into its memory.
struct Rig {
    device: HostDevice,
    arena: Arena,
}

impl Rig {
    fn new(card: Card) -> Self {
        let mut device = HostDevice::new(card).poisoned();
        device.reserve(1 << 24, 0, 1 << 24, 1).unwrap();
        Self { device, arena: Arena::default() }
    }

    fn put<T: Pod>(&mut self, values: &[T]) -> Address {
        let at = self.room::<T>(values.len());
        self.device.upload(at, bytemuck::cast_slice(values)).unwrap();
        at
    }

    /// Rounded to bf16.
    fn put_bf16(&mut self, numbers: &[f32]) -> Address {
        self.put(&numbers.iter().map(|number| bf16::from_f32(*number).to_bits()).collect::<Vec<_>>())
    }

    fn put_rows(&mut self, numbers: &[f32]) -> Activations {
        Activations { at: self.put_bf16(numbers), layout: Layout::Rows }
    }

    /// Of poison.
    fn room<T>(&mut self, count: usize) -> Address {
        self.arena.take((count * size_of::<T>()) as u64).at
    }

    fn room_for_rows(&mut self, count: usize) -> Activations {
        Activations { at: self.room::<u16>(count), layout: Layout::Rows }
    }

    fn room_for_wide(&mut self, rows: u32, width: usize) -> Activations {
        let at = self.room::<u16>(rows as usize * width);
        Activations { at, layout: Layout::Wide { rows } }
    }

    fn run(&mut self, op: Op) -> Result<(), DeviceError> {
        self.submit(&[op], &[]).map(|_| ())
    }

    fn get<T: Pod>(&mut self, at: Address, count: usize) -> Vec<T> {
        let region = Region { at, bytes: (count * size_of::<T>()) as u64 };
        let bytes = self.submit(&[], &[region]).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    fn get_bf16(&mut self, at: Address, count: usize) -> Vec<f32> {
        self.get::<u16>(at, count).into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
    }

    fn get_rows(&mut self, from: Activations, rows: usize, width: usize) -> Vec<f32> {
        let all = if let Layout::Wide { rows } = from.layout { rows as usize } else { rows };
        let numbers = self.get_bf16(from.at, all * width);
        let places = (0..rows * width).map(|index| from.layout.index(index / width, index % width, width));
        places.map(|place| numbers[place]).collect()
    }

    fn submit(&mut self, ops: &[Op], results: &[Region]) -> Result<Vec<u8>, DeviceError> {
        self.device.submit(&Submission { copies: &[], work: Work::Ops(ops), results })?;
        Ok(self.device.poll()?.unwrap().results.to_vec())
    }
}

/// As a bf16 holds it.
fn rounded(number: f32) -> f32 {
    bf16::from_f32(number).to_f32()
}

/// Rounded numbers of a bell-like curve around 0, always the same for a seed.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let number = |index| {
        let [a, b, c, d] = sluice_core::philox::philox(seed, index as u128);
        let sum: f64 = [a, b, c, d].iter().map(|word| f64::from(*word) / f64::from(u32::MAX) - 0.5).sum();
        rounded(sum as f32)
    };
    (0..count).map(number).collect()
}

/// Within a rounding to bf16 of numbers that may have been rounded to f32 in any order before.
fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |most, number| most.max(number.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        let allowed = expected.abs() / 256.0 + largest * 1e-5;
        assert!(error <= allowed, "{what}: number {index} is {found}, expected {expected}");
    }
}
