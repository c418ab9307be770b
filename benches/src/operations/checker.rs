//! Runs a case on two devices and says of each check how far they are apart.

use sluice_kernels::{Address, Device, DeviceError, Op, Region, Submission, Work};

use super::case::{Case, Check, Compared};
use super::view::slice;
use super::{draws, limits};

/// A device that is checked, and one that is believed.
pub struct Checker<C, R> {
    checked: C,
    reference: R,
    memory: u64,
}

/// What came of a check: how far apart the numbers are in the mean, or what is wrong.
#[derive(Debug)]
pub struct Finding {
    pub name: String,
    pub outcome: Result<f64, String>,
}

/// Copied back at once.
const PIECE: u64 = 1 << 26;

impl<C: Device, R: Device> Checker<C, R> {
    /// `memory` bytes are reserved on both. Errors: the devices'.
    pub fn new(mut checked: C, mut reference: R, memory: u64) -> Result<Self, DeviceError> {
        checked.reserve(memory, 0, PIECE.min(memory) as usize, 1)?;
        reference.reserve(memory, 0, PIECE.min(memory) as usize, 1)?;
        Ok(Self { checked, reference, memory })
    }

    /// Errors: a device is gone, or has no room for the case. What one refuses to compute is a finding.
    pub fn run(&mut self, case: &Case) -> Result<Vec<Finding>, DeviceError> {
        let before = case.image.bytes();
        let bytes = before.len() as u64;
        if bytes > self.memory {
            return Err(DeviceError(format!("a case takes {bytes} bytes, and {} are reserved", self.memory)));
        }
        self.checked.upload(Address(0), before)?;
        self.reference.upload(Address(0), before)?;
        let computed: Vec<_> = case.checks.iter().map(|check| self.compute(check)).collect();
        let mut found = vec![0; before.len()];
        download(&mut self.checked, Region { at: Address(0), bytes }, &mut found)?;
        let mut expected = vec![0; before.len()];
        for region in case.checks.iter().flat_map(|check| &check.compared).flat_map(Compared::expected) {
            download(&mut self.reference, region, &mut expected)?;
        }
        let memories = Memories { before, found: &found, expected: &expected };
        let findings = case.checks.iter().zip(computed).map(|(check, computed)| Finding {
            name: check.name.clone(),
            outcome: computed.and_then(|()| memories.compare(check)),
        });
        Ok(findings.chain(memories.strays(&case.checks)).collect())
    }

    fn compute(&mut self, check: &Check) -> Result<(), String> {
        submit(&mut self.checked, &check.ops, &[]).map_err(|error| error.to_string())?;
        let reference = check.reference.as_ref().unwrap_or(&check.ops);
        let expected = submit(&mut self.reference, reference, &[]);
        expected.map(drop).map_err(|error| format!("the reference: {error}"))
    }
}

/// One memory at three times.
struct Memories<'a> {
    before: &'a [u8],
    found: &'a [u8],
    expected: &'a [u8],
}

impl Memories<'_> {
    fn compare(&self, check: &Check) -> Result<f64, String> {
        let mut worst = 0.0f64;
        for compared in &check.compared {
            let difference = match compared {
                Compared::Same(regions) => self.same(regions).map(|()| 0.0),
                Compared::Close(what, pairs, limits) => {
                    let difference =
                        limits::hold(*limits, pairs, |view| view.read(self.found), |view| view.read(self.expected));
                    difference.map_err(|wrong| format!("{what}: {wrong}"))
                }
                Compared::Written(view) if view.is_written(self.found) => Ok(0.0),
                Compared::Written(_) => Err("some of it is no number".to_owned()),
                Compared::Draws(op) => draws::hold(op, self.before, self.found, self.expected),
            };
            worst = worst.max(difference?);
        }
        Ok(worst)
    }

    fn same(&self, regions: &[Region]) -> Result<(), String> {
        for region in regions {
            let (found, expected) = (slice(self.found, *region), slice(self.expected, *region));
            if let Some(byte) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
                let Region { bytes, .. } = region;
                return Err(format!("byte {byte} of {bytes} is {}, expected {}", found[byte], expected[byte]));
            }
        }
        Ok(())
    }

    /// What was written that nobody may write.
    fn strays(&self, checks: &[Check]) -> Option<Finding> {
        let writes = checks.iter().flat_map(|check| check.writes.iter().map(move |region| (*region, &check.name)));
        let mut writes: Vec<_> = writes.collect();
        writes.sort_by_key(|(region, _)| region.at);
        let (mut start, mut behind) = (0, "nothing");
        for (region, name) in writes {
            if let Some(stray) = self.stray(start, region.at.0 as usize, behind) {
                return Some(stray);
            }
            let end = (region.at.0 + region.bytes) as usize;
            if end > start {
                (start, behind) = (end, name);
            }
        }
        self.stray(start, self.before.len(), behind)
    }

    fn stray(&self, start: usize, end: usize, behind: &str) -> Option<Finding> {
        let (before, found) = (self.before.get(start..end)?, self.found.get(start..end)?);
        if before == found {
            return None;
        }
        let byte = before.iter().zip(found).position(|(before, found)| before != found)?;
        let wrong = format!("byte {} was written, which is no output: {byte} bytes behind {behind}", start + byte);
        Some(Finding { name: "memory".to_owned(), outcome: Err(wrong) })
    }
}

/// Gives the results.
fn submit<'d>(device: &'d mut impl Device, ops: &[Op], results: &[Region]) -> Result<&'d [u8], DeviceError> {
    device.submit(&Submission { copies: &[], work: Work::Ops(ops), results })?;
    device.wait()?;
    let finished = device.poll()?;
    finished.map(|finished| finished.results).ok_or_else(|| DeviceError("a step was waited for and is not done".into()))
}

/// To the same place of `into`.
fn download(device: &mut impl Device, region: Region, into: &mut [u8]) -> Result<(), DeviceError> {
    let end = region.at.0 + region.bytes;
    for start in (region.at.0..end).step_by(PIECE as usize) {
        let piece = Region { at: Address(start), bytes: PIECE.min(end - start) };
        let bytes = submit(device, &[], &[piece])?;
        into[start as usize..start as usize + bytes.len()].copy_from_slice(bytes);
    }
    Ok(())
}
