//! The executor of a GPU: a step is planned and submitted while the one before it is still computed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sluice_core::{
    Batch, Clock, Executor, ExecutorError, Nanos, PromptVariants, RequestId, Row, StepOutput, StepTimes, Ticket,
    TokenSource,
};
use sluice_kernels::attention::Path;
use sluice_kernels::op::Count;
use sluice_kernels::product::row_counts;
use sluice_kernels::sampling::CountSpan;
use sluice_kernels::{Card, Copy, Device, DeviceError, GraphId, Op, Region, Submission, WeightForm, Work};

use crate::gpu::ceilings::Ceilings;
use crate::gpu::counts::{Counted, Counts};
use crate::gpu::forward::{Forward, Group, Tokens};
use crate::gpu::memory::Memory;
use crate::gpu::outcome::Asked;
use crate::gpu::planned::{Planned, Planner};
use crate::gpu::roof::Roof;
use crate::gpu::shape::Shape;
use crate::gpu::staging::Staging;
use crate::layers::Logn;
use crate::step::{BadBatch, ModelLimits, RowProblem, StepLimits, check, check_size};

/// One replica's: its device, its weights, its cache.
pub struct GpuExecutor<D> {
    device: D,
    clock: Arc<dyn Clock>,
    served: Served,
    limits: StepLimits,
    recorded: Vec<Recorded>,
    counts: Counts,
    /// Where the last step that was submitted drew for each sequence.
    drawn: HashMap<RequestId, u32>,
    /// Known once it was measured.
    roof: Option<Roof>,
    in_flight: VecDeque<InFlight>,
    finished: VecDeque<(Ticket, StepOutput)>,
    submitted: u64,
    /// Kept for their memory.
    ops: Vec<Op>,
    copies: Vec<Copy>,
    slots: Vec<i32>,
}

/// What of a model and its device a step depends on.
pub(crate) struct Served {
    pub(crate) card: Card,
    pub(crate) shape: Shape,
    pub(crate) memory: Memory,
    pub(crate) limits: ModelLimits,
    pub(crate) variants: PromptVariants,
    pub(crate) logn: Option<Logn>,
    pub(crate) eps: f32,
}

/// Steps of one number of rows.
struct Recorded {
    short: GraphId,
    long: GraphId,
}

enum InFlight {
    /// Nobody waits for it.
    Count,
    Step {
        ticket: Ticket,
        submitted: Nanos,
        roof: Option<Nanos>,
        asked: Asked,
    },
}

/// Sequences whose tokens are to be counted.
#[derive(Default)]
struct Recount {
    tokens: Vec<i32>,
    spans: Vec<CountSpan>,
}

/// Steps in flight: while one is computed, the next is planned.
const STEPS: usize = 2;

/// And what is counted ahead of them.
const DEPTH: usize = STEPS + 2;

impl<D: Device> GpuExecutor<D> {
    pub(crate) fn reserve(device: &mut D, memory: &Memory) -> Result<(), DeviceError> {
        device.reserve(memory.bytes(), memory.inputs.bytes(), memory.results.bytes(), DEPTH)
    }

    /// On a device that holds the weights.
    pub(crate) fn new(
        mut device: D,
        served: Served,
        limits: StepLimits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DeviceError> {
        let recorded = record(&mut device, &served)?;
        warm_up(&mut device, &served)?;
        Ok(Self {
            counts: Counts::new(served.memory.slots()),
            device,
            clock,
            served,
            limits,
            recorded,
            drawn: HashMap::new(),
            roof: None,
            in_flight: VecDeque::new(),
            finished: VecDeque::new(),
            submitted: 0,
            ops: Vec::new(),
            copies: Vec::new(),
            slots: Vec::new(),
        })
    }

    /// From here on each step says what it could have taken. Called before the first one: what the cache holds is lost.
    pub fn measure_roof(&mut self) -> Result<Option<Ceilings>, ExecutorError> {
        let pool = &self.served.memory.pool;
        let scratch = Region { at: pool.keys, bytes: u64::from(pool.layers) * pool.layer_bytes() };
        let ceilings = Ceilings::measure(&mut self.device, scratch).map_err(|error| lost(&error))?;
        self.roof = ceilings.map(|ceilings| Roof::new(ceilings, &self.served.shape, &self.served.memory.weights));
        Ok(ceilings)
    }

    fn check(&self, batch: &Batch) -> Result<(), BadBatch> {
        check_size(batch, &self.limits)?;
        for row in &batch.rows {
            let checked = check(batch, row, &self.limits, &self.served.limits).map(drop);
            let drawn = checked.and_then(|()| self.check_drawn(batch, row));
            let listed = drawn.and_then(|()| Memory::check_lists(row));
            listed.map_err(|problem| BadBatch::Row { sequence: row.sequence, problem })?;
        }
        Ok(())
    }

    /// What the step before drew has to be there, and can only be the last of a row, which tells nothing of a prompt.
    fn check_drawn(&self, batch: &Batch, row: &Row) -> Result<(), RowProblem> {
        let pending = |token: &TokenSource| *token == TokenSource::PreviousStep;
        let Some((last, others)) = batch.tokens_of(row).split_last() else { return Ok(()) };
        let there = !pending(last) || (row.score.is_none() && self.drawn.contains_key(&row.sequence));
        if there && !others.iter().any(pending) { Ok(()) } else { Err(RowProblem::PreviousStep) }
    }

    /// Gives each row that penalises tokens the slot where its own are counted, and has those counted that are not.
    fn count(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let penalises = |row: &&Row| row.draw.as_ref().is_some_and(|draw| draw.params.penalises());
        self.counts.begin_step(batch.rows.iter().filter(penalises).map(|row| row.sequence));
        self.slots.clear();
        let mut recount = Recount::default();
        for row in &batch.rows {
            let slot = if penalises(&row) { self.count_row(batch, row, &mut recount)? } else { -1 };
            self.slots.push(slot);
        }
        self.submit_count(&recount)
    }

    fn count_row(&mut self, batch: &Batch, row: &Row, recount: &mut Recount) -> Result<i32, ExecutorError> {
        let bad = |problem| failed(&BadBatch::Row { sequence: row.sequence, problem });
        let Some(draw) = &row.draw else { return Ok(-1) };
        let history = &batch.history[draw.history_offset..][..draw.history_tokens];
        let pending = batch.tokens_of(row).contains(&TokenSource::PreviousStep);
        let counted = self.counts.draw(row.sequence, history.len() + usize::from(pending));
        match counted.ok_or_else(|| bad(RowProblem::Range))? {
            Counted::Here { slot } => Ok(slot as i32),
            // What is pending cannot be counted here: the draw before would have done it.
            Counted::Anew { .. } if pending => Err(bad(RowProblem::PreviousStep)),
            Counted::Anew { slot } => {
                if recount.tokens.len() + history.len() > self.served.memory.counted_at_once() {
                    self.submit_count(recount)?;
                    *recount = Recount::default();
                }
                recount.add(history, row.prompt_tokens, slot);
                Ok(slot as i32)
            }
        }
    }

    fn submit_count(&mut self, recount: &Recount) -> Result<(), ExecutorError> {
        if recount.spans.is_empty() {
            return Ok(());
        }
        // Room for this one and the step behind it.
        while self.in_flight.len() + 2 > DEPTH {
            self.device.wait().map_err(|error| lost(&error))?;
            self.take_finished()?;
        }
        let memory = &self.served.memory;
        let inputs = &memory.inputs;
        let mut staging = Staging::new(self.device.staging(), inputs.start, &mut self.copies);
        staging.put_all(inputs.counted, 0, &recount.tokens);
        staging.put_all(inputs.spans, 0, &recount.spans);
        staging.send::<i32>(inputs.counted, recount.tokens.len());
        staging.send::<CountSpan>(inputs.spans, recount.spans.len());
        let count = Op::Count(Count {
            tokens: inputs.counted.at,
            spans: inputs.spans.at,
            span_count: recount.spans.len() as u32,
            counts: memory.counts.at,
            vocab: self.served.limits.vocab,
        });
        let submission = Submission { copies: &self.copies, work: Work::Ops(&[count]), results: &[] };
        self.device.submit(&submission).map_err(|error| lost(&error))?;
        self.in_flight.push_back(InFlight::Count);
        Ok(())
    }

    fn submit_step(&mut self, batch: &Batch) -> Result<Asked, ExecutorError> {
        let served = &self.served;
        let mut staging = Staging::new(self.device.staging(), served.memory.inputs.start, &mut self.copies);
        let planner = Planner { served, batch, slots: &self.slots, drawn: &self.drawn };
        let (planned, asked) = planner.plan(&mut staging).map_err(|error| failed(&error))?;
        let work = match &planned {
            Planned::Recorded { index, long } => {
                let recorded = &self.recorded[*index];
                Work::Graph(if *long { recorded.long } else { recorded.short })
            }
            Planned::Other { tokens, groups } => {
                served.forward().other(&mut self.ops, *tokens, groups);
                Work::Ops(&self.ops)
            }
        };
        let results = asked.regions(&served.memory.results);
        let submission = Submission { copies: &self.copies, work, results: &results };
        self.device.submit(&submission).map_err(|error| lost(&error))?;
        self.drawn.clear();
        self.drawn.extend(asked.draws.iter().map(|draw| (draw.sequence, draw.index)));
        Ok(asked)
    }

    /// Takes in every step that is done.
    fn take_finished(&mut self) -> Result<(), ExecutorError> {
        while let Some(done) = self.device.poll().map_err(|error| lost(&error))? {
            match self.in_flight.pop_front() {
                Some(InFlight::Step { ticket, submitted, roof, asked }) => {
                    let mut output = asked.output(done.results);
                    output.times = StepTimes { roof, ..times(submitted, self.clock.now(), done.device_nanos) };
                    self.finished.push_back((ticket, output));
                }
                Some(InFlight::Count) => {}
                None => return Err(ExecutorError { message: "the device finished what nobody submitted".to_owned() }),
            }
        }
        Ok(())
    }
}

impl<D: Device> Executor for GpuExecutor<D> {
    fn depth(&self) -> usize {
        STEPS
    }

    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        self.check(batch).map_err(|error| failed(&error))?;
        self.count(batch)?;
        let asked = self.submit_step(batch)?;
        self.submitted += 1;
        let ticket = Ticket(self.submitted);
        let roof = self.roof.as_ref().map(|roof| roof.of(batch));
        self.in_flight.push_back(InFlight::Step { ticket, submitted: now, roof, asked });
        Ok(ticket)
    }

    fn collect(&mut self, _now: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        self.take_finished()?;
        Ok(self.finished.pop_front())
    }

    fn wait(&mut self) -> Result<(), ExecutorError> {
        self.take_finished()?;
        while self.finished.is_empty() && !self.in_flight.is_empty() {
            self.device.wait().map_err(|error| lost(&error))?;
            self.take_finished()?;
        }
        Ok(())
    }
}

impl Served {
    fn forward(&self) -> Forward<'_> {
        let Self { card, shape, memory, logn, eps, .. } = self;
        Forward { card, shape, memory, eps: *eps, scales_queries: logn.is_some() }
    }
}

impl Recount {
    fn add(&mut self, history: &[u32], prompt: u32, slot: u32) {
        let prompt = history.len().min(prompt as usize);
        self.spans.push(CountSpan {
            first: self.tokens.len() as i32,
            prompt: prompt as i32,
            answer: (history.len() - prompt) as i32,
            slot: slot as i32,
        });
        self.tokens.extend(history.iter().map(|token| *token as i32));
    }
}

/// Inputs and results of every step in flight.
pub(crate) fn pinned_bytes(memory: &Memory) -> u64 {
    (memory.inputs.bytes() as u64).saturating_add(memory.results.bytes() as u64).saturating_mul(DEPTH as u64)
}

fn record<D: Device>(device: &mut D, served: &Served) -> Result<Vec<Recorded>, DeviceError> {
    let forward = served.forward();
    let mut record = |rows, long| device.record(&forward.recorded(rows, Path::choose(rows, long)));
    let counts = served.memory.rows.recorded.iter();
    counts.map(|rows| Ok(Recorded { short: record(*rows, false)?, long: record(*rows, true)? })).collect()
}

/// Every number of rows that a step may have, and every number of draws.
fn warm_up<D: Device>(device: &mut D, served: &Served) -> Result<(), DeviceError> {
    let (forward, rows, card) = (served.forward(), &served.memory.rows, &served.card);
    let step = |rows| Tokens { rows, decoding: 0, path: Path::choose(0, false), tiles: 1 };
    let mut ops = Vec::new();
    for rows in rows.counts(card, rows.tokens) {
        forward.other(&mut ops, step(rows), &[]);
        device.warm_up(&ops)?;
    }
    for draws in row_counts(card, WeightForm::Bf16, rows.samples) {
        forward.other(&mut ops, step(1), &[Group { first: 0, rows: draws, draws: true }]);
        device.warm_up(&ops)?;
    }
    Ok(())
}

/// A step that waited behind another began when that had ended: what it waited is not the device's idling.
fn times(submitted: Nanos, finished: Nanos, device: Nanos) -> StepTimes {
    StepTimes { submitted: submitted.max(finished.saturating_sub(device)), finished, device, roof: None }
}

/// The engine asked for what cannot be computed.
fn failed(error: &BadBatch) -> ExecutorError {
    ExecutorError { message: error.to_string() }
}

fn lost(error: &DeviceError) -> ExecutorError {
    ExecutorError { message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_timed_from_when_it_began() {
        let began = |submitted, finished, device| times(submitted, finished, device).submitted;
        assert_eq!(began(10, 100, 90), 10, "at once");
        assert_eq!(began(10, 100, 30), 70, "behind another");
        assert_eq!(began(10, 100, 95), 10, "clocks differ");
        assert_eq!(began(0, 10, 20), 0);
    }
}
