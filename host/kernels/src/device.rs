//! What computes operations: a card, or something that stands in for one.

use crate::{Address, Card, Op, Region};

/// The device is gone, or refuses what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// Work that was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GraphId(pub usize);

/// One step: inputs are copied, then operations run, then results are copied back.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    pub copies: &'a [Copy],
    pub work: Work<'a>,
    /// Copied back one behind the other.
    pub results: &'a [Region],
}

#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    Graph(GraphId),
    Ops(&'a [Op]),
}

/// From the staging memory, where a run begins every `pitch` bytes, to the device, where one does too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    pub from: usize,
    pub to: Address,
    /// Of a run.
    pub bytes: usize,
    pub runs: usize,
    /// From one run to the next, on both sides.
    pub pitch: usize,
}

/// A step that is done.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pub results: &'a [u8],
    /// From its first operation to its last, in nanoseconds.
    pub device_nanos: u64,
}

/// One card as one replica drives it, from one thread. Work runs in the order in which it was submitted.
pub trait Device {
    fn card(&self) -> &Card;

    /// Bytes that could be reserved now.
    fn free_bytes(&self) -> Result<u64, DeviceError>;

    /// Called once, before all that follows. The memory is zeros. `staging` bytes of inputs and `results` bytes of
    /// results are set aside for each of `depth` steps in flight.
    fn reserve(&mut self, bytes: u64, staging: usize, results: usize, depth: usize) -> Result<(), DeviceError>;

    /// Called while a model is loaded. May return before the copy has ended, but not before `bytes` are free again.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Called while a model is loaded: work that is submitted again and again. As [`Device::warm_up`] it may overwrite.
    fn record(&mut self, ops: &[Op]) -> Result<GraphId, DeviceError>;

    /// Called while a model is loaded, when its weights are there: work like this will be submitted, and whatever takes
    /// time about it at first is done now. It may overwrite what the work writes, and the activations that its products
    /// read.
    fn warm_up(&mut self, _ops: &[Op]) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Called once per step, before `submit`: where the next step's inputs are written down. At most `depth` steps are in
    /// flight.
    fn staging(&mut self) -> &mut [u8];

    /// Called once per step. Does not block.
    fn submit(&mut self, submission: &Submission<'_>) -> Result<(), DeviceError>;

    /// The oldest step, if it is done. Never blocks.
    fn poll(&mut self) -> Result<Option<Finished<'_>>, DeviceError>;

    /// Blocks until the oldest step is done; called only while one is in flight.
    fn wait(&mut self) -> Result<(), DeviceError>;
}

impl Copy {
    /// One run.
    pub fn flat(from: usize, to: Address, bytes: usize) -> Self {
        Self { from, to, bytes, runs: 1, pitch: bytes }
    }
}
