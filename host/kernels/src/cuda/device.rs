//! A real card: steps are queued on one stream, and events say how far it has come.

use std::mem;

use super::bounds;
use super::calls::{self, Call};
use super::driver::{Context, DeviceMemory, Graph, Stream, free_bytes};
use super::launcher::{Launcher, Trial};
use super::overlap::overlaps;
use super::slots::Slots;
use crate::{Address, Card, Copy, Device, DeviceError, Finished, GraphId, Op, Region, Submission, Work};

/// One card. Everything is reserved by [`Device::reserve`], but graphs, which the driver keeps, and what kernels need for
/// themselves.
///
/// It may go from thread to thread, and is used by one at a time. Fields are dropped as they stand: the context goes last.
pub struct CudaDevice {
    recorded: Vec<Recorded>,
    slots: Slots,
    /// Of operations that are launched now; kept, so that a step reserves no memory for it.
    calls: Vec<Call>,
    launcher: Launcher,
    /// What operations speak of. None until it is reserved.
    memory: Option<DeviceMemory>,
    stream: Stream,
    card: Card,
    context: Context,
}

enum Recorded {
    Graph(Graph),
    /// To be launched one by one.
    Calls(Vec<Call>),
}

impl CudaDevice {
    /// One of the cards that [`count`](super::count) counts. Errors: there is no such card, it is too old, its driver is,
    /// or it has no room for what kernels need for themselves.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let (context, card) = Context::open(ordinal)?;
        Self::new(context, card)
    }

    /// Plans as for a card like another one that has less: so code for cards that are not there is run on one that is.
    /// Only in a program that was built with `SLUICE_CUDA_PTX_ONLY=1`: code for the card itself would be another.
    pub fn open_like(ordinal: usize, other: &Card) -> Result<Self, DeviceError> {
        if !cfg!(ptx_only) {
            let what =
                "there is code for this very card in here, which would be run: build with SLUICE_CUDA_PTX_ONLY=1";
            return Err(DeviceError(what.into()));
        }
        let (context, card) = Context::open(ordinal)?;
        let (capability, shared_bytes) = (other.capability, other.shared_bytes);
        if capability > card.capability || shared_bytes > card.shared_bytes {
            return Err(DeviceError(format!("a {} cannot do what a {} does", card.name, other.name)));
        }
        let name = format!("{} like a {}", card.name, other.name);
        Self::new(context, Card { name, capability, shared_bytes, ..card })
    }

    fn new(context: Context, card: Card) -> Result<Self, DeviceError> {
        let stream = Stream::new()?;
        Ok(Self {
            recorded: Vec::new(),
            slots: Slots::default(),
            calls: Vec::new(),
            launcher: Launcher::new(&card, &stream)?,
            memory: None,
            stream,
            card,
            context,
        })
    }

    /// As NVML and `nvidia-smi -L` write it: `GPU-…`, or `MIG-…` for a part of a card.
    pub fn uuid(&self) -> &str {
        self.context.uuid()
    }

    /// Where so many bytes are, all of which there are.
    fn locate(&self, what: &str, at: Address, bytes: u64) -> Result<u64, DeviceError> {
        let memory = self.memory.as_ref().ok_or_else(nothing_reserved)?;
        bounds::within(what, Region { at, bytes }, memory.bytes())?;
        Ok(memory.at() + at.0)
    }

    fn prepare(&mut self, ops: &[Op]) -> Result<Vec<Call>, DeviceError> {
        let mut calls = Vec::new();
        let memory = self.memory.as_ref().ok_or_else(nothing_reserved)?;
        for op in ops {
            self.launcher.prepare(op, &self.card, memory, Trial::On(&self.stream), &mut calls)?;
        }
        Ok(calls)
    }

    fn work(&mut self, work: Work<'_>) -> Result<(), DeviceError> {
        match work {
            Work::Graph(id) => match self.recorded.get(id.0) {
                Some(Recorded::Graph(graph)) => graph.launch(&self.stream),
                Some(Recorded::Calls(calls)) => self.launcher.issue_all(calls, &self.card, &self.stream),
                None => Err(DeviceError(format!("{id:?} was not recorded"))),
            },
            Work::Ops(ops) => {
                let mut calls = mem::take(&mut self.calls);
                let done = ops.iter().try_for_each(|op| self.work_now(op, &mut calls));
                self.calls = calls;
                done
            }
        }
    }

    fn work_now(&mut self, op: &Op, calls: &mut Vec<Call>) -> Result<(), DeviceError> {
        calls.clear();
        let memory = self.memory.as_ref().ok_or_else(nothing_reserved)?;
        self.launcher.prepare(op, &self.card, memory, Trial::Never, calls)?;
        self.launcher.issue_all(calls, &self.card, &self.stream)
    }

    fn copy_in(&mut self, copy: &Copy) -> Result<(), DeviceError> {
        let reach = reach(copy)?;
        let to = self.locate("input", copy.to, reach)?;
        let slot = self.slots.next().ok_or_else(all_in_flight)?;
        let staged = Region { at: Address(copy.from as u64), bytes: reach };
        bounds::within("staged input", staged, slot.staging.len() as u64)?;
        let from = &slot.staging.bytes()[copy.from..][..reach as usize];
        match from.len() {
            0 => Ok(()),
            all if all == copy.bytes * copy.runs => self.stream.copy_in(to, from),
            _ => self.stream.copy_runs_in(to, from, copy.bytes, copy.pitch, copy.runs),
        }
    }

    fn copy_results_out(&mut self, results: &[Region]) -> Result<(), DeviceError> {
        let mut used = 0;
        for region in results {
            let from = self.locate("result", region.at, region.bytes)?;
            let slot = self.slots.next().ok_or_else(all_in_flight)?;
            let room = slot.results.len() as u64;
            bounds::within("results", Region { at: Address(used), bytes: region.bytes }, room)?;
            if region.bytes > 0 {
                self.stream.copy_out(&mut slot.results, used as usize, region.bytes as usize, from)?;
            }
            used += region.bytes;
        }
        self.slots.next().ok_or_else(all_in_flight)?.used = used as usize;
        Ok(())
    }

    fn enqueue(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError> {
        submission.copies.iter().try_for_each(|copy| self.copy_in(copy))?;
        self.stream.record(&self.slots.next().ok_or_else(all_in_flight)?.start)?;
        self.work(submission.work)?;
        self.stream.record(&self.slots.next().ok_or_else(all_in_flight)?.end)?;
        self.copy_results_out(submission.results)?;
        self.stream.record(&self.slots.next().ok_or_else(all_in_flight)?.done)?;
        self.slots.begin();
        Ok(())
    }
}

impl Device for CudaDevice {
    fn card(&self) -> &Card {
        &self.card
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.context.enter()?;
        free_bytes()
    }

    fn reserve(&mut self, bytes: u64, staging: usize, results: usize, depth: usize) -> Result<(), DeviceError> {
        if self.memory.is_some() {
            return Err(DeviceError("memory of the GPU is reserved once".into()));
        }
        self.context.enter()?;
        self.slots = Slots::reserve(staging, results, depth)?;
        self.memory = Some(DeviceMemory::zeros(bytes, &self.stream)?);
        Ok(())
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.enter()?;
        let to = self.locate("upload", to, bytes.len() as u64)?;
        if !bytes.is_empty() {
            self.stream.copy_in(to, bytes)?;
        }
        // Whether memory that is not pinned may be read later still depends on the system.
        self.stream.synchronize()
    }

    fn record(&mut self, ops: &[Op]) -> Result<GraphId, DeviceError> {
        self.context.enter()?;
        let calls = self.prepare(ops)?;
        let recorded = if self.launcher.is_synchronous() {
            Recorded::Calls(calls)
        } else {
            let rows = ops.iter().map(calls::rows).max().unwrap_or(0);
            let mut issued = calls.iter().zip(overlaps(&self.card, rows, &calls));
            let mut issue =
                || issued.try_for_each(|(call, early)| self.launcher.issue(call, early, &self.card, &self.stream));
            Recorded::Graph(Graph::capture(&self.stream, &mut issue)?)
        };
        self.recorded.push(recorded);
        Ok(GraphId(self.recorded.len() - 1))
    }

    /// Finds kernels and algorithms. As in `record`, activations that products read and write are overwritten, and what is
    /// dequantised.
    fn warm_up(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.prepare(ops).map(drop)
    }

    /// Empty where all steps are in flight.
    fn staging(&mut self) -> &mut [u8] {
        match self.slots.next() {
            Some(slot) => slot.staging.bytes_mut(),
            None => &mut [],
        }
    }

    fn submit(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError> {
        self.context.enter()?;
        let enqueued = self.enqueue(submission);
        if enqueued.is_err() {
            // What was begun still reads the slot that the next step is going to be written to.
            let _ = self.stream.synchronize();
        }
        enqueued
    }

    fn poll(&mut self) -> Result<Option<Finished<'_>>, DeviceError> {
        self.context.enter()?;
        let Some(slot) = self.slots.oldest() else { return Ok(None) };
        if !slot.done.is_reached()? {
            return Ok(None);
        }
        let milliseconds = slot.end.since(&slot.start)?;
        let device_nanos = (f64::from(milliseconds) * 1e6) as u64;
        Ok(self.slots.end().map(|slot| Finished { results: &slot.results.bytes()[..slot.used], device_nanos }))
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.slots.oldest().map_or(Ok(()), |slot| slot.done.synchronize())
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // All that follows is of this context, and none of it may be in use.
        let _ = self.context.enter().and_then(|()| self.stream.synchronize());
    }
}

/// Bytes from the first to the last, on either side.
fn reach(copy: &Copy) -> Result<u64, DeviceError> {
    let Copy { bytes, runs, pitch, .. } = *copy;
    if runs == 0 || bytes == 0 {
        return Ok(0);
    }
    let reach = (runs - 1).checked_mul(pitch).and_then(|last| last.checked_add(bytes));
    match reach {
        Some(reach) if runs == 1 || pitch >= bytes => Ok(reach as u64),
        _ => Err(DeviceError(format!("an input of {runs} times {bytes} bytes, {pitch} apart"))),
    }
}

fn nothing_reserved() -> DeviceError {
    DeviceError("nothing is reserved on the GPU yet".into())
}

fn all_in_flight() -> DeviceError {
    DeviceError("a step was submitted while all that there is room for are in flight".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_reach_from_their_first_byte_to_their_last() {
        let copy = |bytes, runs, pitch| Copy { from: 0, to: Address(0), bytes, runs, pitch };
        for (copy, expected) in [
            (copy(10, 1, 10), Some(10)),
            (copy(10, 1, 0), Some(10)),
            (copy(10, 3, 16), Some(42)),
            (copy(10, 3, 10), Some(30)),
            (copy(0, 3, 16), Some(0)),
            (copy(10, 0, 16), Some(0)),
            (copy(10, 2, 9), None),
            (copy(10, usize::MAX, 16), None),
        ] {
            assert_eq!(reach(&copy).ok(), expected, "{copy:?}");
        }
    }

    /// With a GPU, such a number is none of its cards'; without one, that is said. Nothing panics either way.
    #[test]
    fn what_is_not_there_is_said() {
        let refused = CudaDevice::open(1 << 20).err().expect("nobody has so many").to_string();
        match super::super::count() {
            Ok(_) => assert!(refused.starts_with("there is no GPU 1048576"), "{refused}"),
            Err(none) => assert_eq!(refused, none.to_string()),
        }
        assert!(!refused.contains('\n'), "{refused}");
    }

    #[test]
    fn a_device_may_change_threads() {
        fn may<T: Send>() {}
        may::<CudaDevice>();
    }
}
