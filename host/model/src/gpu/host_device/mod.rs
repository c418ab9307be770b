//! A device of the host's own memory: computes each operation plainly, in the layouts and with the roundings of a card's
//! kernels, so that a step without a GPU is what a card computes but for the order of its additions.
//!
//! What would be an illegal access on a card, or wrong numbers without a word, is an error here that names the operation
//! and its field.

mod attention;
mod cache;
mod fault;
mod memory;
mod norm;
mod numbers;
mod product;
mod rope;
mod rows;
mod sample;
mod silu;
mod weights;

#[cfg(test)]
mod tests;

use sluice_kernels::{Address, Card, Copy, Device, DeviceError, Finished, GraphId, Op, Region, Submission, Work};

use fault::{Fault, expect};
use memory::Memory;

/// NaN as bf16, f16 and f32, and far outside every table as a whole number.
const POISON: u64 = 0x7fff_7fff_7fff_7fff;

/// Stands in for the card that it is told to be. A step is computed while it is submitted; there is no clock, so it took
/// 0 nanoseconds.
pub struct HostDevice {
    card: Card,
    memory: Memory,
    /// What memory is full of before anything is written: zeros, as promised, or [`POISON`].
    filler: u64,
    /// How often a step is asked for in vain.
    patience: u32,
    graphs: Vec<Vec<Op>>,
    /// As many as steps may be in flight; each step takes the next one.
    slots: Vec<Slot>,
    submitted: usize,
    finished: usize,
}

/// A step's inputs and results.
struct Slot {
    staging: Vec<u8>,
    results: Vec<u8>,
    /// Of `results`, those that the step has.
    used: usize,
    /// How often the step has still to be asked for.
    patience: u32,
}

impl HostDevice {
    pub fn new(card: Card) -> Self {
        Self {
            card,
            memory: Memory::default(),
            filler: 0,
            patience: 0,
            graphs: Vec::new(),
            slots: Vec::new(),
            submitted: 0,
            finished: 0,
        }
    }

    /// Instead of zeros, memory and staging hold what no result survives: shows that nothing is read that was not
    /// written.
    #[must_use]
    pub fn poisoned(self) -> Self {
        Self { filler: POISON, ..self }
    }

    /// A step is done only when [`Device::poll`] has been asked for it so many times in vain, or [`Device::wait`] was
    /// called: shows that steps may be in flight.
    #[must_use]
    pub fn lagging(self, polls: u32) -> Self {
        Self { patience: polls, ..self }
    }

    fn copy(&mut self, copy: &Copy, slot: usize) -> Result<(), Fault> {
        let staging = &self.slots[slot].staging;
        expect(copy.runs <= 1 || copy.pitch >= copy.bytes, "pitch", || {
            format!("is {}, and a run has {} bytes", copy.pitch, copy.bytes)
        })?;
        for run in 0..copy.runs {
            let skipped = run.checked_mul(copy.pitch);
            let from = skipped.and_then(|skipped| copy.from.checked_add(skipped));
            let from = from.and_then(|from| staging.get(from..from.checked_add(copy.bytes)?));
            let from = from.ok_or_else(|| {
                let bytes = staging.len();
                Fault::new("from", format!("leads outside the {bytes} bytes of staging memory: {copy:?}, run {run}"))
            })?;
            let to = Address(copy.to.0.saturating_add(skipped.unwrap_or(usize::MAX) as u64));
            self.memory.write("to", to, copy.bytes)?.copy_from_slice(from);
        }
        Ok(())
    }

    fn compute(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        for (place, op) in ops.iter().enumerate() {
            compute(op, &self.card, &mut self.memory)
                .map_err(|(name, fault)| DeviceError(format!("operation {place} of a step, {name}: {fault}")))?;
        }
        Ok(())
    }

    /// Copies results out, one behind the other.
    fn collect(&mut self, results: &[Region], slot: usize) -> Result<(), Fault> {
        let slot = &mut self.slots[slot];
        let mut used = 0;
        for region in results {
            let from: &[u8] =
                self.memory.read("results", region.at, usize::try_from(region.bytes).unwrap_or(usize::MAX))?;
            let room = slot.results.len();
            let to = slot.results.get_mut(used..used + from.len());
            let to = to.ok_or_else(|| Fault::new("results", format!("are more than the {room} bytes set aside")))?;
            to.copy_from_slice(from);
            used += from.len();
        }
        slot.used = used;
        Ok(())
    }

    /// Poisons it: what a step writes down is read once, and the next to use the slot writes its own.
    fn forget_staging(&mut self, slot: usize) {
        if self.filler != 0 {
            let filler = self.filler.to_le_bytes();
            self.slots[slot].staging.iter_mut().zip(filler.iter().cycle()).for_each(|(byte, filler)| *byte = *filler);
        }
    }

    fn in_flight(&self) -> usize {
        self.submitted - self.finished
    }

    fn oldest(&mut self) -> Option<&mut Slot> {
        if self.in_flight() == 0 { None } else { Some(self.finished % self.slots.len()) }
            .map(|slot| &mut self.slots[slot])
    }
}

impl Device for HostDevice {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.card.memory_bytes.saturating_sub(self.memory.bytes() as u64))
    }

    fn reserve(&mut self, bytes: u64, staging: usize, results: usize, depth: usize) -> Result<(), DeviceError> {
        if !self.slots.is_empty() || depth == 0 {
            return Err(DeviceError(format!(
                "memory is reserved once, for one step in flight or more: not for {depth}"
            )));
        }
        let free = self.free_bytes()?;
        let memory = if bytes <= free { Memory::new(bytes, self.filler) } else { None };
        self.memory = memory
            .ok_or_else(|| DeviceError(format!("{bytes} bytes do not fit into the {free} of {}", self.card.name)))?;
        self.slots = (0..depth).map(|_| Slot::new(staging, results)).collect();
        (0..depth).for_each(|slot| self.forget_staging(slot));
        Ok(())
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.begin();
        let place = self.memory.write("to", to, bytes.len());
        place.map_err(|fault| DeviceError(format!("upload: {fault}")))?.copy_from_slice(bytes);
        Ok(())
    }

    fn record(&mut self, ops: &[Op]) -> Result<GraphId, DeviceError> {
        self.graphs.push(ops.to_vec());
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn staging(&mut self) -> &mut [u8] {
        let next = self.submitted.checked_rem(self.slots.len());
        next.map_or(&mut [], |slot| &mut self.slots[slot].staging)
    }

    fn submit(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError> {
        let depth = self.slots.len();
        if self.in_flight() >= depth {
            return Err(DeviceError(format!("{depth} steps are in flight, and no more may be")));
        }
        let slot = self.submitted % depth;
        self.memory.begin();
        for copy in submission.copies {
            self.copy(copy, slot).map_err(|fault| DeviceError(format!("copy of inputs: {fault}")))?;
        }
        match submission.work {
            Work::Ops(ops) => self.compute(ops)?,
            Work::Graph(GraphId(id)) => {
                let ops = self.graphs.get_mut(id).map(std::mem::take);
                let ops = ops.ok_or_else(|| DeviceError(format!("graph {id} was never recorded")))?;
                let computed = self.compute(&ops);
                self.graphs[id] = ops;
                computed?;
            }
        }
        self.collect(submission.results, slot).map_err(|fault| DeviceError(format!("copy of results: {fault}")))?;
        self.forget_staging(slot);
        self.slots[slot].patience = self.patience;
        self.submitted += 1;
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Finished<'_>>, DeviceError> {
        let Some(slot) = self.oldest() else { return Ok(None) };
        if slot.patience > 0 {
            slot.patience -= 1;
            return Ok(None);
        }
        let slot = self.finished % self.slots.len();
        self.finished += 1;
        let slot = &self.slots[slot];
        Ok(Some(Finished { results: &slot.results[..slot.used], device_nanos: 0 }))
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let slot = self.oldest().ok_or_else(|| DeviceError("no step is in flight, and none will be done".into()))?;
        slot.patience = 0;
        Ok(())
    }
}

impl Slot {
    fn new(staging: usize, results: usize) -> Self {
        Self { staging: vec![0; staging], results: vec![0; results], used: 0, patience: 0 }
    }
}

/// With the operation's name, where it is at fault.
fn compute(op: &Op, card: &Card, memory: &mut Memory) -> Result<(), (&'static str, Fault)> {
    memory.begin();
    let (name, computed) = match op {
        Op::Embed(op) => ("embed", rows::embed(op, memory)),
        Op::Norm(op) => ("norm", norm::norm(op, memory)),
        Op::Product(op) => ("product", product::product(op, card, memory)),
        Op::Dequantize(op) => ("dequantize", product::dequantize(op, memory)),
        Op::Rope(op) => ("rope", rope::rope(op, memory)),
        Op::DecodeAttention(op) => ("decode attention", attention::decode(op, memory)),
        Op::PrefillAttention(op) => ("prefill attention", attention::prefill(op, memory)),
        Op::SiluMul(op) => ("silu", silu::silu_mul(op, memory)),
        Op::Gather(op) => ("gather", rows::gather(op, memory)),
        Op::Widen(op) => ("widen", rows::widen(op, memory)),
        Op::Count(op) => ("count", sample::count(op, memory)),
        Op::Sample(op) => ("sample", sample::sample(op, memory)),
    };
    computed.map_err(|fault| (name, fault))
}
