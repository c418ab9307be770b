//! The host's own device agrees with itself, and with nothing that is wrong in one bit, one byte or one row.

use sluice_kernels::op::{Activations, Sum};
use sluice_kernels::sampling::SampleResult;
use sluice_kernels::{Address, Card, Device, DeviceError, Finished, GraphId, Layout, Op, Region, Submission, Work};
use sluice_model::gpu::HostDevice;

use super::{Checker, Finding, subjects};

/// Of a device, in bytes: no more than small cases take.
const MEMORY: u64 = 32 << 20;

/// What goes wrong with the output of an operation.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    /// A bit of the first number.
    Bit,
    /// A byte behind the last.
    Behind,
    /// The first row, where the second should be.
    Row,
}

/// A device that does one thing wrong whenever it computes something.
struct Faulty {
    device: HostDevice,
    wrong: Wrong,
}

/// The main output: where it is, and the bytes of all of it, of a row, and which byte has a bit that matters.
struct Output {
    at: Address,
    bytes: u64,
    row: u64,
    byte: u64,
}

impl Output {
    fn halves(at: Address, rows: u32, width: u32) -> Self {
        // The sign and the most of the exponent.
        Self { at, bytes: u64::from(rows) * u64::from(width) * 2, row: u64::from(width) * 2, byte: 1 }
    }

    fn activations(to: Activations, rows: u32, width: u32) -> Self {
        let output = Self::halves(to.at, rows, width);
        // Eight numbers of each row at a time.
        if to.layout == Layout::Rows { output } else { Self { row: 16, ..output } }
    }

    fn sum(sum: Sum, rows: u32, width: u32) -> Self {
        match sum {
            Sum::Whole(to) => Self::activations(to, rows, width),
            Sum::Parts { at, count, stride } => {
                let numbers = u64::from((count - 1) * stride) + u64::from(rows * width);
                Self { at, bytes: numbers * 4, row: u64::from(width) * 4, byte: 3 }
            }
        }
    }

    fn of(op: &Op) -> Self {
        match op {
            Op::Embed(op) => Self::halves(op.hidden, op.rows, op.width),
            Op::Norm(op) => Self::activations(op.out, op.rows, op.width),
            Op::Product(op) => Self::sum(op.y, op.rows, op.matrix.outputs / if op.silu { 2 } else { 1 }),
            Op::Dequantize(op) => Self::halves(op.out, op.matrix.outputs, op.matrix.inputs),
            Op::Rope(op) => Self::halves(op.q, op.rows, op.heads.queries * 128),
            Op::DecodeAttention(op) => Self::activations(op.out, op.rows, op.heads.queries * 128),
            // Of a step's rows, that of the first run.
            Op::PrefillAttention(op) => Self::halves(op.out, 131, op.heads.queries * 128),
            Op::SiluMul(op) => Self::activations(op.out, op.rows, op.width),
            Op::Gather(op) => Self::halves(op.out, op.rows, op.width),
            Op::Widen(op) => Self { row: 16, ..Self::halves(op.out, op.rows, op.width) },
            Op::Count(op) => {
                let slot = u64::from(op.vocab) * 4;
                Self { at: op.counts, bytes: 4 * slot, row: 2 * slot, byte: 0 }
            }
            Op::Sample(op) => {
                let row = size_of::<SampleResult>() as u64;
                Self { at: op.results, bytes: u64::from(op.rows) * row, row, byte: 4 }
            }
        }
    }
}

impl Faulty {
    /// Of one operation that was computed.
    fn spoil(&mut self, op: &Op) -> Result<(), DeviceError> {
        let Output { at, bytes, row, byte } = Output::of(op);
        let (from, to, bytes) = match self.wrong {
            Wrong::Bit => (at.offset(byte), at.offset(byte), 1),
            Wrong::Behind => (at.offset(bytes), at.offset(bytes), 1),
            Wrong::Row => (at, at.offset(row), row.min(bytes - row)),
        };
        let mut spoiled = self.read(Region { at: from, bytes })?;
        if self.wrong != Wrong::Row {
            spoiled[0] ^= 0x40;
        }
        self.device.upload(to, &spoiled)
    }

    fn read(&mut self, region: Region) -> Result<Vec<u8>, DeviceError> {
        self.device.submit(&Submission { copies: &[], work: Work::Ops(&[]), results: &[region] })?;
        Ok(self.device.poll()?.unwrap().results.to_vec())
    }
}

impl Device for Faulty {
    fn card(&self) -> &Card {
        self.device.card()
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.device.free_bytes()
    }

    fn reserve(&mut self, bytes: u64, staging: usize, results: usize, depth: usize) -> Result<(), DeviceError> {
        self.device.reserve(bytes, staging, results, depth)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.upload(to, bytes)
    }

    fn record(&mut self, ops: &[Op]) -> Result<GraphId, DeviceError> {
        self.device.record(ops)
    }

    fn staging(&mut self) -> &mut [u8] {
        self.device.staging()
    }

    fn submit(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError> {
        if let Work::Ops(ops @ [op, ..]) = submission.work {
            self.device.submit(&Submission { work: Work::Ops(ops), ..*submission })?;
            self.device.poll()?;
            self.spoil(op)?;
            return self.device.submit(&Submission { work: Work::Ops(&[]), ..*submission });
        }
        self.device.submit(submission)
    }

    fn poll(&mut self) -> Result<Option<Finished<'_>>, DeviceError> {
        self.device.poll()
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.device.wait()
    }
}

/// With random numbers that are others in each run, unless a seed is given.
fn findings(device: impl Device, card: &Card, words: &[&str], seed: u64) -> Vec<Finding> {
    let mut checker = Checker::new(device, HostDevice::new(card.clone()), MEMORY).unwrap();
    let meant = subjects(card, false).into_iter().filter(|subject| subject.is_meant(words));
    let findings: Vec<_> = meant.flat_map(|subject| checker.run(&subject.case(card, seed)).unwrap()).collect();
    assert!(!findings.is_empty(), "{words:?}");
    findings
}

fn fresh_seed() -> u64 {
    let hasher = std::hash::BuildHasher::build_hasher(&std::hash::RandomState::new());
    std::hash::Hasher::finish(&hasher)
}

#[test]
fn a_device_agrees_with_itself_on_every_operation() {
    for card in [Card::h200(), Card::rtx_4090()] {
        let seed = fresh_seed();
        for Finding { name, outcome } in findings(HostDevice::new(card.clone()), &card, &[], seed) {
            assert!(outcome.is_ok(), "{name}, seed {seed}: {outcome:?}");
        }
    }
}

/// All checks of a subject, and the whole memory's.
#[test]
fn whatever_is_wrong_is_found() {
    let card = Card::h200();
    let names: Vec<String> = subjects(&card, false).iter().map(|subject| subject.name().to_owned()).collect();
    for (name, wrong) in
        names.iter().flat_map(|name| [Wrong::Bit, Wrong::Behind, Wrong::Row].map(|wrong| (name, wrong)))
    {
        let words: Vec<&str> = name.split(' ').collect();
        let faulty = Faulty { device: HostDevice::new(card.clone()), wrong };
        let found = findings(faulty, &card, &words, 5);
        let failed = found.iter().filter(|finding| finding.outcome.is_err()).count();
        let expected = match wrong {
            Wrong::Bit => found.len(),
            // It is one finding of each memory.
            Wrong::Behind => 1,
            // Some have one row.
            Wrong::Row => 1,
        };
        assert!(failed >= expected, "{name}, {wrong:?}: {found:?}");
    }
}

#[test]
fn a_seed_gives_the_same_numbers_and_another_gives_others() {
    let card = Card::h200();
    for subject in subjects(&card, false) {
        let bytes = |seed| subject.case(&card, seed).image.bytes().to_vec();
        assert!(bytes(3) == bytes(3), "{}", subject.name());
        assert!(bytes(3) != bytes(4), "{}", subject.name());
    }
}

#[test]
fn what_a_device_refuses_is_a_finding() {
    let (hopper, ada) = (Card::h200(), Card::rtx_4090());
    let mut checker = Checker::new(HostDevice::new(ada), HostDevice::new(hopper.clone()), MEMORY).unwrap();
    // Kernels of another card.
    let subject = subjects(&hopper, false).into_iter().find(|subject| subject.is_meant(&["product", "nf4"])).unwrap();
    let found = checker.run(&subject.case(&hopper, 1)).unwrap();
    assert!(found.iter().any(|finding| finding.outcome.as_ref().is_err_and(|wrong| wrong.contains("`kernel`"))));
}
