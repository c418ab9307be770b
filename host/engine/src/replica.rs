//! One replica's loop, step by step: plan → submit → collect. Driven from outside, by a thread or by a simulator.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_core::view::{BatchingView, EngineLimits, LastStep};
use sluice_core::{
    Batch, BatchingDecision, BatchingPolicy, Clock, DeviceReadings, EngineEvent, Executor, ExecutorError, Failure,
    FailureKind, FinishReason, Nanos, NoDevices, Observer, ReplicaId, RequestId, SECOND, Sampled, Scored, Seat, Slot,
    StepOutput, Ticket,
};

use crate::batching::{self, Selection};
use crate::decide::Plan;
use crate::guard::{Guard, GuardConfig};
use crate::holdings::{Holdings, Ordinal};
use crate::link::{FromReplica, ReplicaInlet, Report, ToReplica};
use crate::meter::Meter;
use crate::order::Order;
use crate::random::RandomWords;
use crate::rates::{Mean, Rate};
use crate::rows;
use crate::sequence::{Accepted, length};

#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    pub id: ReplicaId,
    pub limits: EngineLimits,
    /// A sequence that is part of no step for longer goes first, whatever the policy says.
    pub starvation: Nanos,
    /// While work waits and blocks are free, something runs within this time.
    pub work_conservation: Nanos,
    pub seed: u64,
    pub guard: GuardConfig,
}

impl ReplicaConfig {
    pub fn new(id: ReplicaId, limits: EngineLimits) -> Self {
        Self {
            id,
            limits,
            starvation: 30 * SECOND,
            work_conservation: SECOND,
            seed: u64::from(id.0),
            guard: GuardConfig::default(),
        }
    }

    /// What the pool is told before the first step.
    pub fn first_report(&self) -> Report {
        Report {
            max_running: self.limits.max_sequences,
            blocks_total: self.limits.blocks_total,
            block_tokens: self.limits.block_tokens,
            ..Report::default()
        }
    }
}

pub struct Replica {
    config: ReplicaConfig,
    executor: Box<dyn Executor>,
    inlet: ReplicaInlet,
    guard: Guard<dyn BatchingPolicy>,
    observer: Arc<dyn Observer>,
    devices: Arc<dyn DeviceReadings>,
    held: Holdings,
    in_flight: VecDeque<Submitted>,
    view: BatchingView,
    /// The last decision's limits, capped by the engine's.
    in_force: (u32, u32),
    step: u64,
    /// When something last ran, or there was nothing to run.
    progress: Nanos,
    /// The last plan changed something but computes nothing.
    again: bool,
    account: LastStep,
    /// Running and waiting sequences and blocks held, as last observed.
    occupancy: (u32, u32, u32),
    averages: Averages,
    meter: Meter,
    random: RandomWords,
    mail: Vec<ToReplica>,
    orders: Vec<Order<dyn BatchingPolicy, BatchingView>>,
    outgoing: Vec<FromReplica>,
    spare: Batch,
}

/// A step that is ready for the executor. Its blocks are reserved.
pub struct Planned {
    batch: Batch,
    rows: Vec<PlannedRow>,
    account: LastStep,
}

#[derive(Clone, Copy)]
struct PlannedRow {
    id: RequestId,
    ordinal: Ordinal,
    incarnation: u32,
    /// Tokens in the cache once the step is done.
    end: u32,
    draws: bool,
    /// Where its run starts, if tokens of a prompt are scored in it.
    scored_from: Option<u32>,
}

struct Submitted {
    ticket: Ticket,
    rows: Vec<PlannedRow>,
    account: LastStep,
}

#[derive(Default)]
struct Averages {
    tokens: Rate,
    ttft: Mean,
    tpot: Mean,
    errors: Mean,
}

impl Replica {
    pub fn new(
        config: ReplicaConfig,
        executor: Box<dyn Executor>,
        inlet: ReplicaInlet,
        observer: Arc<dyn Observer>,
        now: Nanos,
    ) -> Self {
        let limits = config.limits;
        let seat = Seat { slot: Slot::Batching, replica: Some(config.id) };
        let replica = Self {
            executor,
            inlet,
            guard: Guard::new(seat, config.guard, Arc::clone(&observer)),
            observer,
            devices: Arc::new(NoDevices),
            held: Holdings::new(limits.blocks_total, limits.block_tokens),
            in_flight: VecDeque::new(),
            view: BatchingView { limits, ..BatchingView::default() },
            in_force: (limits.max_sequences, limits.max_batched_tokens),
            step: 0,
            progress: now,
            again: false,
            account: LastStep::default(),
            occupancy: (0, 0, 0),
            averages: Averages::default(),
            meter: Meter::new(now),
            random: RandomWords::new(config.seed),
            mail: Vec::new(),
            orders: Vec::new(),
            outgoing: Vec::new(),
            spare: Batch::default(),
            config,
        };
        replica.inlet.publish(replica.report(now), &mut Vec::new());
        replica
    }

    /// Says where its card's readings are, before the first step. Without it the engine's own numbers are all there is.
    #[must_use]
    pub fn with_devices(mut self, devices: Arc<dyn DeviceReadings>) -> Self {
        self.devices = devices;
        self
    }

    pub fn guard(&self) -> &Guard<dyn BatchingPolicy> {
        &self.guard
    }

    /// Gives the seat a policy before the first step.
    pub fn guard_mut(&mut self) -> &mut Guard<dyn BatchingPolicy> {
        &mut self.guard
    }

    pub fn held(&self) -> usize {
        self.held.sequences.len()
    }

    pub fn blocks_available(&self) -> u32 {
        self.held.blocks.available()
    }

    pub fn steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the executor takes another step before one is collected.
    pub fn can_submit(&self) -> bool {
        self.in_flight.len() < self.executor.depth()
    }

    /// Blocks until the oldest step has finished.
    pub fn wait(&mut self) -> Result<(), ExecutorError> {
        self.executor.wait()
    }

    /// Takes in what came, carries out orders, asks the policy and reserves blocks. `None`: nothing to compute now.
    pub fn plan(&mut self, clock: &dyn Clock) -> Option<Planned> {
        let now = clock.now();
        self.receive(now);
        self.carry_out_orders(clock);
        let now = clock.now();
        if self.held.sequences.is_empty() {
            self.progress = now;
            self.publish(now);
            return None;
        }
        let selection = self.select(now);
        self.announce(&selection, now);
        self.expire(now);
        // Whoever was preempted for nothing may start at the next turn, which then must not wait.
        self.again = selection.rows.is_empty() && !selection.preempted.is_empty();
        if selection.rows.is_empty() {
            self.publish(now);
            return None;
        }
        self.progress = now;
        Some(self.assemble(&selection, now))
    }

    pub fn submit(&mut self, planned: Planned, clock: &dyn Clock) -> Result<Ticket, ExecutorError> {
        let ticket = self.executor.submit(&planned.batch, clock.now())?;
        self.in_flight.push_back(Submitted { ticket, rows: planned.rows, account: planned.account });
        self.spare = planned.batch;
        Ok(ticket)
    }

    /// Takes in the oldest step if it has finished: appends tokens, finishes sequences. False if none had.
    pub fn collect(&mut self, clock: &dyn Clock) -> Result<bool, ExecutorError> {
        let Some((ticket, output)) = self.executor.collect(clock.now())? else { return Ok(false) };
        let submitted = self.in_flight.pop_front().filter(|submitted| submitted.ticket == ticket);
        let Some(submitted) = submitted else {
            return Err(ExecutorError { message: format!("step {} finished out of order", ticket.0) });
        };
        let now = clock.now();
        self.take_in(&submitted, output, now)?;
        self.publish(now);
        Ok(true)
    }

    /// When to come back if nothing happens: a policy may hold work back, but not for ever.
    pub fn wake_at(&self, now: Nanos) -> Option<Nanos> {
        let idle = self.in_flight.is_empty() && !self.held.sequences.is_empty();
        let soon = if self.again { now } else { now + SECOND / 10 };
        idle.then(|| (self.progress + self.config.work_conservation).min(soon))
    }

    /// What the batching policy would be shown now.
    pub fn view(&mut self, now: Nanos) -> &BatchingView {
        self.view.now = now;
        self.view.random = self.random.next();
        self.fill_now(now);
        self.held.fill(&mut self.view.sequences);
        &self.view
    }

    /// Panics unless blocks are conserved and no cap is exceeded. For tests, after every step.
    pub fn assert_consistent(&self) {
        self.held.blocks.assert_consistent(self.held.tables());
        assert!(self.held.running() <= self.config.limits.max_sequences, "more sequences run than may");
        for sequence in self.held.sequences.values() {
            assert!(sequence.computed <= sequence.length(), "computed more than there is");
            assert!(sequence.running || sequence.blocks.is_empty(), "a waiting sequence holds blocks");
            assert!(sequence.generated <= sequence.admitted.max_new_tokens, "more new tokens than asked for");
        }
    }

    fn receive(&mut self, now: Nanos) {
        let mut mail = std::mem::take(&mut self.mail);
        self.inlet.receive(&mut mail);
        for message in mail.drain(..) {
            match message {
                ToReplica::Offer(admitted) => self.held.add(admitted, now),
                ToReplica::Finish(id, reason) => {
                    if let Some(ordinal) = self.held.ordinal(id) {
                        self.end(ordinal, reason, None, now);
                    }
                }
                ToReplica::Order(order) => self.orders.push(order),
            }
        }
        self.mail = mail;
    }

    fn carry_out_orders(&mut self, clock: &dyn Clock) {
        for order in std::mem::take(&mut self.orders) {
            if let Some(reply) = self.guard.carry_out(order, clock) {
                reply(self.view(clock.now()).clone());
            }
        }
    }

    fn select(&mut self, now: Nanos) -> Selection {
        if self.meter.is_due(now) {
            self.guard.sample(self.meter.sample(self.devices.latest(self.config.id), now));
        }
        self.view(now);
        let decision = self.guard.decide::<Plan>(&self.view, now);
        let decision = decision.unwrap_or_else(|| batching::first_come(&self.config.limits));
        let limits = &self.config.limits;
        self.in_force =
            (decision.max_running.min(limits.max_sequences), decision.token_budget.min(limits.max_batched_tokens));
        let selection = self.carry_out(&decision, now);
        let stalled = selection.rows.is_empty()
            && self.in_flight.is_empty()
            && now.saturating_sub(self.progress) >= self.config.work_conservation;
        if !stalled {
            return selection;
        }
        self.guard.overridden("work-conservation");
        let mut native = self.carry_out(&batching::first_come(&self.config.limits), now);
        native.preempted.extend(selection.preempted);
        native
    }

    fn carry_out(&mut self, decision: &BatchingDecision, now: Nanos) -> Selection {
        batching::select(&mut self.held, decision, &self.config.limits, self.config.starvation, now)
    }

    /// Tells everybody who counts what the selection did to the sequences.
    fn announce(&mut self, selection: &Selection, now: Nanos) {
        let replica = self.config.id;
        if selection.starvation {
            self.guard.overridden("starvation");
        }
        self.account.allocation_failures += selection.allocation_failures;
        for &preempted in &selection.preempted {
            self.account.preempted += 1;
            self.account.recomputed_tokens += preempted.recompute_tokens;
            self.guard.preempted(preempted);
            let (id, recompute_tokens) = (preempted.id, preempted.recompute_tokens);
            self.observer.observe(&EngineEvent::Preempted { replica, id, recompute_tokens });
        }
        for &(ordinal, cached) in &selection.started {
            let Some(sequence) = self.held.sequences.get_mut(&ordinal) else { continue };
            if sequence.scheduled.is_none() {
                sequence.scheduled = Some(now);
                sequence.admitted.scheduled.store(true, Ordering::Release);
                sequence.cached_tokens = cached;
            }
            if !sequence.awaits_scores() {
                let queried = sequence.length();
                self.observer.observe(&EngineEvent::PrefixCache { replica, queried, hit: cached });
            }
        }
    }

    /// Gives back to the pool what has waited for too long, now that everything has started that there is room for.
    fn expire(&mut self, now: Nanos) {
        let expired = self.held.sequences.iter().filter(|(_, sequence)| sequence.has_expired(now));
        for ordinal in expired.map(|(&ordinal, _)| ordinal).collect::<Vec<Ordinal>>() {
            let Some(sequence) = self.held.remove(ordinal) else { continue };
            self.guard.finished(&sequence.finished(self.config.id, FinishReason::Failed, now));
            self.outgoing.push(FromReplica::Expired(sequence.id()));
        }
    }

    fn assemble(&mut self, selection: &Selection, now: Nanos) -> Planned {
        let mut account = std::mem::take(&mut self.account);
        account.decode_sequences = batching::decoding(&self.held, &selection.rows);
        account.context_tokens = batching::context_tokens(&self.held, &selection.rows);
        let mut batch = std::mem::take(&mut self.spare);
        batch.rows.clear();
        batch.tokens.clear();
        batch.blocks.clear();
        batch.history.clear();
        self.step += 1;
        batch.step = self.step;
        let mut rows = Vec::with_capacity(selection.rows.len());
        for share in &selection.rows {
            let Some(sequence) = self.held.sequences.get_mut(&share.ordinal) else { continue };
            let draws = sequence.draws_after(share.tokens);
            rows::add(&mut batch, sequence, share.tokens);
            let scored = batch.rows.last().filter(|row| row.score.is_some());
            let scored_from = scored.map(|row| row.start);
            sequence.computed += share.tokens;
            sequence.drawing += u32::from(draws);
            sequence.idle_since = now;
            rows.push(PlannedRow {
                id: sequence.id(),
                ordinal: share.ordinal,
                incarnation: sequence.incarnation,
                end: sequence.computed,
                draws,
                scored_from,
            });
        }
        account.prefill_tokens = length(batch.tokens.len()) - account.decode_sequences;
        Planned { batch, rows, account }
    }

    fn take_in(&mut self, submitted: &Submitted, output: StepOutput, now: Nanos) -> Result<(), ExecutorError> {
        let times = output.times;
        let (mut sampled, mut scored) = (output.sampled.into_iter(), output.scored.into_iter());
        let mut finished = 0;
        for row in &submitted.rows {
            self.publish_prefix(row);
            if let Some(start) = row.scored_from {
                let outcome = of_row(row, scored.next(), "score")?;
                finished += u32::from(self.accept_scores(row, start, outcome, now));
            }
            if row.draws {
                let outcome = of_row(row, sampled.next(), "token")?;
                finished += u32::from(self.accept(row, outcome, now));
            }
        }
        let host_gap = self.meter.step(&times);
        let wall = times.finished.saturating_sub(times.submitted);
        let step = LastStep { wall, device: times.device, host_gap, finished, ..submitted.account };
        self.view.last_step = Some(step);
        self.observer.observe(&EngineEvent::Step { replica: self.config.id, step: &step, roof: times.roof });
        Ok(())
    }

    fn publish_prefix(&mut self, row: &PlannedRow) {
        if self.held.sequences.get(&row.ordinal).is_some_and(|sequence| sequence.incarnation == row.incarnation) {
            self.held.publish(row.ordinal, row.end);
        }
    }

    /// Takes in how likely a row's part of the prompt is. True if its sequence ended with it.
    fn accept_scores(&mut self, row: &PlannedRow, start: u32, outcome: Scored, now: Nanos) -> bool {
        let Some(sequence) = self.held.sequences.get_mut(&row.ordinal) else { return false };
        let scores = match outcome {
            Scored::Tokens(scores) => scores,
            Scored::Failed(error) => {
                self.fail(row, error, now);
                return true;
            }
        };
        let closed = sequence.accept_scores(start, scores).is_err();
        if closed {
            self.end(row.ordinal, FinishReason::Cancelled, None, now);
        }
        closed
    }

    /// The model's numbers for this row are none.
    fn fail(&mut self, row: &PlannedRow, error: String, now: Nanos) {
        let failure = Failure::new(FailureKind::NotANumber, error);
        self.end(row.ordinal, FinishReason::Failed, Some(failure), now);
    }

    /// Takes in what a row drew. True if its sequence ended with it; a surplus draw of an ended one is dropped.
    fn accept(&mut self, row: &PlannedRow, outcome: Sampled, now: Nanos) -> bool {
        let Some(sequence) = self.held.sequences.get_mut(&row.ordinal) else { return false };
        sequence.drawing -= 1;
        let token = match outcome {
            Sampled::Token(token) => token,
            Sampled::Failed(error) => {
                self.fail(row, error, now);
                return true;
            }
        };
        let arrival = sequence.admitted.request.arrival;
        let end = match sequence.accept(token, self.config.limits.max_model_len, now) {
            Accepted::Last(reason) => Some(reason),
            Accepted::Sent { before, end } => {
                self.count_token(before, arrival, now);
                end
            }
        };
        if let Some(reason) = end {
            self.end(row.ordinal, reason, None, now);
        }
        end.is_some()
    }

    fn count_token(&mut self, before: Option<Nanos>, arrival: Nanos, now: Nanos) {
        let replica = self.config.id;
        let after = now.saturating_sub(before.unwrap_or(arrival));
        self.averages.token(before.is_none(), after, now);
        self.observer.observe(&match before {
            None => EngineEvent::FirstToken { replica, after },
            Some(_) => EngineEvent::Token { replica, after },
        });
    }

    fn end(&mut self, ordinal: Ordinal, reason: FinishReason, failure: Option<Failure>, now: Nanos) {
        let Some(sequence) = self.held.remove(ordinal) else { return };
        sequence.end(reason, failure);
        let finished = sequence.finished(self.config.id, reason, now);
        self.averages.errors.add(f64::from(u8::from(reason == FinishReason::Failed)));
        self.guard.finished(&finished);
        self.outgoing.push(FromReplica::Finished(finished));
    }

    fn fill_now(&mut self, now: Nanos) {
        let engine = &mut self.view.engine;
        engine.step = self.step;
        engine.blocks_free = self.held.blocks.available();
        engine.blocks_reclaimable = self.held.blocks.reclaimable();
        engine.waiting_uncached_tokens = self.held.waiting_uncached_tokens();
        (engine.max_running, engine.token_budget) = self.in_force;
        engine.device = self.meter.latest(now);
    }

    fn publish(&mut self, now: Nanos) {
        self.outgoing.extend(self.held.blocks.drain_changes().map(FromReplica::Prefix));
        let report = self.report(now);
        self.observe_occupancy(&report);
        self.inlet.publish(report, &mut self.outgoing);
    }

    fn observe_occupancy(&mut self, report: &Report) {
        let occupancy = (report.running, report.waiting, report.blocks_held);
        if std::mem::replace(&mut self.occupancy, occupancy) != occupancy {
            self.observer.observe(&EngineEvent::Occupancy {
                replica: self.config.id,
                running: report.running,
                waiting: report.waiting,
                blocks_used: report.blocks_held,
                blocks_total: report.blocks_total,
            });
        }
    }

    fn report(&self, now: Nanos) -> Report {
        let running = self.held.running();
        let nanos = |mean: &Mean| mean.get().map(|value| value as Nanos);
        Report {
            at: now,
            running,
            waiting: length(self.held.sequences.len()) - running,
            waiting_uncached_tokens: self.view.engine.waiting_uncached_tokens,
            max_running: self.in_force.0,
            blocks_held: self.held.blocks.held(),
            tokens_per_second: self.averages.tokens.per_second(now),
            ttft_average: nanos(&self.averages.ttft),
            tpot_average: nanos(&self.averages.tpot),
            error_rate: self.averages.errors.get().unwrap_or(0.0),
            ..self.config.first_report()
        }
    }
}

/// However it ends, the pool hears of every request that ended before: it would offer them again.
impl Drop for Replica {
    fn drop(&mut self) {
        self.inlet.hand_over(&mut self.outgoing);
    }
}

/// What came back for a row; outcomes stand in the order of the rows.
fn of_row<T>(row: &PlannedRow, outcome: Option<(RequestId, T)>, what: &str) -> Result<T, ExecutorError> {
    match outcome {
        Some((id, outcome)) if id == row.id => Ok(outcome),
        _ => Err(ExecutorError { message: format!("no {what} came back for request {}", row.id.0) }),
    }
}

impl Averages {
    fn token(&mut self, first: bool, after: Nanos, now: Nanos) {
        self.tokens.count(1.0, now);
        if first { self.ttft.add(after as f64) } else { self.tpot.add(after as f64) }
    }
}
