//! Steps in flight: in order, each with its own inputs and results.

use sluice_kernels::op::{Gather, Op};
use sluice_kernels::{Address, Card, Copy, Device, DeviceError, GraphId, Region, Submission, Work};

use super::HostDevice;

const WIDTH: usize = 8;

/// Row `index` of the first four, sixteen bytes each.
const FROM: Address = Address(0);
const INDEX: Address = Address(256);
const OUT: Address = Address(512);

fn gather() -> Op {
    Op::Gather(Gather { from: FROM, indices: INDEX, out: OUT, rows: 1, width: WIDTH as u32 })
}

fn device(device: HostDevice, depth: usize) -> HostDevice {
    let mut device = device;
    device.reserve(1024, 64, 32, depth).unwrap();
    let rows: Vec<u16> = (0..4 * WIDTH as u16).collect();
    device.upload(FROM, bytemuck::cast_slice(&rows)).unwrap();
    device
}

fn submit(device: &mut HostDevice, index: i32, work: Work<'_>) -> Result<(), DeviceError> {
    device.staging()[..4].copy_from_slice(&index.to_le_bytes());
    let results = [Region { at: OUT, bytes: 2 }, Region { at: INDEX, bytes: 4 }];
    device.submit(&Submission { copies: &[Copy::flat(0, INDEX, 4)], work, results: &results })
}

/// The first number of the gathered row, and its index.
fn poll(device: &mut HostDevice) -> Option<(u16, i32)> {
    let results = device.poll().unwrap()?.results.to_vec();
    assert_eq!(results.len(), 6);
    Some((u16::from_le_bytes([results[0], results[1]]), i32::from_le_bytes(results[2..].try_into().unwrap())))
}

#[test]
fn steps_are_done_in_order_once_each_and_no_more_than_depth_are_in_flight() {
    let mut device = device(HostDevice::new(Card::h200()), 2);
    let graph = device.record(&[gather()]).unwrap();
    assert_eq!(poll(&mut device), None);
    for round in 0..3 {
        submit(&mut device, 3, Work::Graph(graph)).unwrap();
        submit(&mut device, 1, Work::Ops(&[gather()])).unwrap();
        let refused = submit(&mut device, 2, Work::Graph(graph)).unwrap_err();
        assert_eq!(refused.0, "2 steps are in flight, and no more may be", "round {round}");
        assert_eq!(poll(&mut device), Some((24, 3)));
        submit(&mut device, 0, Work::Graph(graph)).unwrap();
        assert_eq!([poll(&mut device), poll(&mut device), poll(&mut device)], [Some((8, 1)), Some((0, 0)), None]);
    }
}

#[test]
fn a_lagging_step_is_done_when_it_was_asked_for_or_waited_for() {
    let mut device = device(HostDevice::new(Card::h200()).lagging(2), 2);
    submit(&mut device, 1, Work::Ops(&[gather()])).unwrap();
    submit(&mut device, 2, Work::Ops(&[gather()])).unwrap();
    assert_eq!([poll(&mut device), poll(&mut device), poll(&mut device)], [None, None, Some((8, 1))]);
    assert_eq!(poll(&mut device), None);
    device.wait().unwrap();
    assert_eq!([poll(&mut device), poll(&mut device)], [Some((16, 2)), None]);
    assert!(device.wait().unwrap_err().0.contains("no step is in flight"));
}

#[test]
fn memory_is_zeros_unless_it_is_poisoned() {
    let mut plain = HostDevice::new(Card::h200());
    let all = plain.card().memory_bytes;
    assert_eq!(plain.free_bytes(), Ok(all));
    plain.reserve(1024, 64, 32, 1).unwrap();
    assert_eq!(plain.free_bytes(), Ok(all - 1024));
    let mut poisoned = HostDevice::new(Card::h200()).poisoned();
    poisoned.reserve(1024, 64, 32, 1).unwrap();
    for (mut device, expected) in [(plain, 0u32), (poisoned, 0x7fff_7fff)] {
        let results = [Region { at: OUT, bytes: 4 }];
        device.submit(&Submission { copies: &[], work: Work::Ops(&[]), results: &results }).unwrap();
        assert_eq!(device.poll().unwrap().unwrap().results, expected.to_le_bytes());
    }
}

#[test]
fn poisoned_staging_is_poisoned_anew_for_each_step() {
    let mut device = device(HostDevice::new(Card::h200()).poisoned(), 1);
    for step in 0..2 {
        assert!(device.staging().chunks(2).all(|pair| pair == [0xff, 0x7f]), "step {step}");
        submit(&mut device, 1, Work::Ops(&[gather()])).unwrap();
        assert_eq!(poll(&mut device), Some((8, 1)));
    }
}

#[test]
fn runs_are_copied_at_their_pitch() {
    let mut device = device(HostDevice::new(Card::h200()), 1);
    device.staging().iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
    let copy = Copy { from: 3, to: OUT, bytes: 2, runs: 3, pitch: 5 };
    let results = [Region { at: OUT, bytes: 16 }];
    device.submit(&Submission { copies: &[copy], work: Work::Ops(&[]), results: &results }).unwrap();
    let expected = [3, 4, 0, 0, 0, 8, 9, 0, 0, 0, 13, 14, 0, 0, 0, 0];
    assert_eq!(device.poll().unwrap().unwrap().results, expected);
}

#[test]
fn what_leads_outside_is_refused() {
    let check = |copies: &[Copy], work: Work<'_>, results: &[Region], expected: &str| {
        let mut device = device(HostDevice::new(Card::h200()), 1);
        let refused = device.submit(&Submission { copies, work, results }).unwrap_err();
        assert!(refused.0.contains(expected), "{refused}");
        assert!(device.poll().unwrap().is_none(), "what was refused is not in flight");
    };
    let nothing = Work::Ops(&[]);
    check(&[Copy::flat(60, OUT, 5)], nothing, &[], "copy of inputs: `from` leads outside the 64 bytes");
    check(&[Copy::flat(0, Address(1020), 5)], nothing, &[], "copy of inputs: `to`");
    let overlapping = Copy { from: 0, to: OUT, bytes: 9, runs: 2, pitch: 8 };
    check(&[overlapping], nothing, &[], "`pitch` is 8, and a run has 9 bytes");
    let endless = Copy { from: 0, to: OUT, bytes: 1, runs: 3, pitch: usize::MAX };
    check(&[endless], nothing, &[], "`from` leads outside");
    check(&[], nothing, &[Region { at: OUT, bytes: 33 }], "more than the 32 bytes");
    check(&[], nothing, &[Region { at: Address(1024), bytes: 1 }], "copy of results");
    check(&[], Work::Graph(GraphId(0)), &[], "graph 0 was never recorded");
    check(
        &[],
        Work::Ops(&[
            gather(),
            Op::Gather(Gather { from: FROM, indices: INDEX, out: Address(1 << 40), rows: 1, width: 8 }),
        ]),
        &[],
        "operation 1 of a step, gather: `out`",
    );
    let mut device = device(HostDevice::new(Card::h200()), 1);
    assert!(device.upload(Address(1000), &[0; 25]).unwrap_err().0.contains("upload"));
    assert!(device.reserve(1, 1, 1, 1).is_err(), "twice");
    let mut small = HostDevice::new(Card::h200());
    assert!(small.reserve(small.card().memory_bytes + 1, 0, 0, 1).unwrap_err().0.contains("do not fit"));
    assert!(small.submit(&Submission { copies: &[], work: Work::Ops(&[]), results: &[] }).is_err(), "before reserving");
    assert!(small.staging().is_empty());
}
