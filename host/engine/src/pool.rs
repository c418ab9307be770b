//! The pool: who comes in, who is served next, and by which replica. Fairness is decided here, while requests wait.
//!
//! Runs on one thread and is driven from outside: `offer` and `finish` when something comes, then `tick`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_core::view::{ArrivalView, FlowView, PoolView, RequestView, RoutingView, replica_state};
use sluice_core::{
    AdmissionPolicy, BlockHash, Clock, EndOfStream, EngineEvent, FinishReason, Finished, Nanos, NextFlow, Observer,
    Rejection, ReplicaId, Request, RequestId, Route, RoutingPolicy, SECOND, Seat, Slot, TokenEvent, Verdict,
};

use crate::admission;
use crate::blocks::PrefixChange;
use crate::decide::{Admit, Next, Rank};
use crate::flows::Flows;
use crate::guard::{Guard, GuardConfig};
use crate::link::{Admitted, FromReplica, ReplicaPort, Report, ToReplica};
use crate::order::Order;
use crate::random::RandomWords;
use crate::rates::Rate;
use crate::routing;

#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Hard bounds of the central queue, whatever admission says.
    pub max_queued_requests: u32,
    pub max_queued_tokens: u64,
    /// Prompt and answer together.
    pub max_model_len: u32,
    /// How many requests beyond its limit in force a replica is given, so that it can start the next at once.
    pub look_ahead: u32,
    /// A request that waits longer is sent next, whatever the policies say.
    pub starvation: Nanos,
    /// A request that was with so many replicas when they were lost is refused.
    pub max_attempts: u32,
    pub seed: u64,
    pub guard: GuardConfig,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_queued_requests: 1024,
            max_queued_tokens: 1 << 20,
            max_model_len: 2048,
            look_ahead: 2,
            starvation: 30 * SECOND,
            max_attempts: 2,
            seed: 0,
            guard: GuardConfig::default(),
        }
    }
}

/// What control asks of the pool's two seats.
pub enum PoolOrder {
    Admission(Order<dyn AdmissionPolicy, (ArrivalView, FlowView)>),
    Routing(Order<dyn RoutingPolicy, RoutingView>),
}

pub struct Pool {
    config: PoolConfig,
    admission: Guard<dyn AdmissionPolicy>,
    routing: Guard<dyn RoutingPolicy>,
    flows: Flows,
    replicas: Vec<Replica>,
    in_flight: HashMap<RequestId, InFlight>,
    arrivals: Rate,
    completions: Rate,
    random: RandomWords,
    observer: Arc<dyn Observer>,
    arrival_view: ArrivalView,
    flow_view: FlowView,
    routing_view: RoutingView,
    mail: Vec<FromReplica>,
}

/// The pool's side of a replica: what it has counted itself, and the last report.
pub(crate) struct Replica {
    pub(crate) port: ReplicaPort,
    pub(crate) report: Report,
    pub(crate) state: u8,
    pub(crate) in_flight: u32,
    pub(crate) in_flight_tokens: u64,
    prefixes: HashSet<BlockHash>,
}

struct InFlight {
    admitted: Arc<Admitted>,
    replica: usize,
}

/// What became of the attempt to send one request.
enum Turn {
    Sent,
    /// This tenant's head waits until the time, if there is one, or until something changes.
    Held(u64, Option<Nanos>),
    /// Nothing more goes out now.
    Rest(Option<Nanos>),
}

impl Pool {
    pub fn new(config: PoolConfig, ports: Vec<ReplicaPort>, observer: Arc<dyn Observer>) -> Self {
        let seat = |slot| Seat { slot, replica: None };
        Self {
            config,
            admission: Guard::new(seat(Slot::Admission), config.guard, Arc::clone(&observer)),
            routing: Guard::new(seat(Slot::Routing), config.guard, Arc::clone(&observer)),
            flows: Flows::default(),
            replicas: ports.into_iter().map(Replica::new).collect(),
            in_flight: HashMap::new(),
            arrivals: Rate::default(),
            completions: Rate::default(),
            random: RandomWords::new(config.seed),
            observer,
            arrival_view: ArrivalView::default(),
            flow_view: FlowView::default(),
            routing_view: RoutingView::default(),
            mail: Vec::new(),
        }
    }

    pub fn admission(&self) -> &Guard<dyn AdmissionPolicy> {
        &self.admission
    }

    pub fn routing(&self) -> &Guard<dyn RoutingPolicy> {
        &self.routing
    }

    /// Requests in the central queue.
    pub fn queued(&self) -> usize {
        self.flows.len()
    }

    /// Requests that replicas hold.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Lets a request in or tells its sink why not.
    pub fn offer(&mut self, request: Request, now: Nanos) {
        self.arrivals.count(1.0, now);
        match self.admit(&request, now) {
            Ok(admitted) => {
                self.flows.push(Arc::new(admitted));
                self.report_queue();
            }
            Err(rejection) => {
                self.observer.observe(&EngineEvent::Rejected { rejection: &rejection });
                // The client may be gone already; then nobody is to be told.
                let _ = request.sink.send(TokenEvent::Rejected(rejection));
            }
        }
    }

    /// Ends a request early, wherever it is. An unknown one has ended already.
    pub fn finish(&mut self, id: RequestId, reason: FinishReason, now: Nanos) {
        if let Some(admitted) = self.flows.remove(id) {
            self.end_unserved(&admitted, ReplicaId(u32::MAX), reason, None, now);
            self.report_queue();
        } else if let Some(in_flight) = self.in_flight.get(&id) {
            self.replicas[in_flight.replica].port.send(ToReplica::Finish(id, reason));
        }
    }

    /// Takes in what the replicas report: requests that ended, prefixes, losses.
    pub fn events(&mut self, now: Nanos) {
        for index in 0..self.replicas.len() {
            let mut mail = std::mem::take(&mut self.mail);
            let replica = &mut self.replicas[index];
            let lost = replica.port.is_lost();
            replica.report = replica.port.report();
            replica.port.receive(&mut mail);
            for message in mail.drain(..) {
                match message {
                    FromReplica::Finished(finished) => self.ended(&finished, now),
                    FromReplica::Prefix(change) => self.replicas[index].prefix_changed(change),
                }
            }
            self.mail = mail;
            if lost && self.replicas[index].state != replica_state::LOST {
                self.lose(index, now);
            }
        }
    }

    /// Sends what can be sent. Returns when to come back if nothing happens before.
    pub fn tick(&mut self, now: Nanos) -> Option<Nanos> {
        let mut wake: Option<Nanos> = None;
        let mut held = Vec::new();
        let soonest = |wake: Option<Nanos>, at: Option<Nanos>| match (wake, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        while self.has_room() && !self.flows.is_empty() {
            match self.send_one(&held, now) {
                Turn::Sent => {}
                Turn::Held(tenant, until) => {
                    held.push(tenant);
                    wake = soonest(wake, until);
                }
                Turn::Rest(until) => {
                    wake = soonest(wake, until);
                    break;
                }
            }
        }
        self.report_queue();
        let starving = self.flows.oldest().map(|oldest| oldest.request.arrival.saturating_add(self.config.starvation));
        soonest(wake, starving.map(|at| at.max(now + SECOND / 10)))
    }

    /// Carries out an order for one of the pool's seats.
    pub fn order(&mut self, order: PoolOrder, clock: &dyn Clock) {
        match order {
            PoolOrder::Admission(order) => {
                if let Some(reply) = self.admission.carry_out(order, clock) {
                    reply(self.admission_snapshot(clock.now()));
                }
            }
            PoolOrder::Routing(order) => {
                if let Some(reply) = self.routing.carry_out(order, clock) {
                    self.fill_routing_view(sample_request(clock.now()), &[], clock.now());
                    reply(self.routing_view.clone());
                }
            }
        }
    }

    /// A restarted replica stands where a lost one stood.
    pub fn replace(&mut self, replica: ReplicaId, port: ReplicaPort) {
        self.replicas[replica.0 as usize] = Replica::new(port);
    }

    /// Panics unless every request is in exactly one place. For tests, after every step.
    pub fn assert_consistent(&self) {
        for (index, replica) in self.replicas.iter().enumerate() {
            let here = || self.in_flight.values().filter(|in_flight| in_flight.replica == index);
            assert_eq!(replica.in_flight as usize, here().count(), "requests in flight on replica {index}");
            let tokens: u64 = here().map(|in_flight| in_flight.admitted.tokens()).sum();
            assert_eq!(replica.in_flight_tokens, tokens, "tokens in flight on replica {index}");
        }
        assert!(self.flows.len() <= self.config.max_queued_requests as usize, "the queue is over its bound");
        assert!(self.flows.queued_tokens() <= self.config.max_queued_tokens, "the queue is over its bound of tokens");
    }

    fn admit(&mut self, request: &Request, now: Nanos) -> Result<Admitted, Rejection> {
        let room = self.check_bounds(request, now)?;
        let mut admitted = Admitted {
            request: request.clone(),
            priority: request.priority,
            max_new_tokens: request.max_new_tokens.clamp(1, room),
            started: AtomicBool::new(false),
        };
        self.arrival_view.now = now;
        self.arrival_view.random = self.random.next();
        self.arrival_view.request = RequestView::from(request);
        self.arrival_view.pool = self.pool_view(now);
        self.flows.fill(&mut self.arrival_view.flows, now);
        match self.admission.decide::<Admit>(&self.arrival_view, now) {
            Some(Verdict::Accept { priority }) => admitted.priority = priority,
            Some(Verdict::Degrade { max_new_tokens }) => {
                admitted.max_new_tokens = admitted.max_new_tokens.min(max_new_tokens);
            }
            Some(Verdict::Reject(rejection)) => return Err(rejection),
            None => {}
        }
        Ok(admitted)
    }

    /// The bounds that hold whatever a policy says. Returns the tokens that are left for an answer.
    fn check_bounds(&self, request: &Request, now: Nanos) -> Result<u32, Rejection> {
        let reject = |caller, reason: String| Err(Rejection { caller, reason, retry_after: self.retry_after(now) });
        let prompt = request.prompt_tokens();
        let room = self.config.max_model_len.saturating_sub(prompt);
        if prompt == 0 || room == 0 {
            let most = self.config.max_model_len.saturating_sub(1);
            return reject(true, format!("a prompt of {prompt} tokens cannot be served; 1 to {most} can"));
        }
        if self.replicas.iter().all(|replica| replica.state == replica_state::LOST) {
            return reject(false, "no replica is ready".into());
        }
        let (requests, tokens) = (self.config.max_queued_requests, self.config.max_queued_tokens);
        if self.flows.len() >= requests as usize {
            return reject(false, format!("the queue is full: {requests} requests wait"));
        }
        if self.flows.queued_tokens() + u64::from(prompt) > tokens {
            return reject(false, format!("the queue is full: at most {tokens} prompt tokens wait"));
        }
        Ok(room)
    }

    /// As long as the queue takes to drain at the rate of the last seconds.
    fn retry_after(&self, now: Nanos) -> Nanos {
        admission::retry_after(self.flows.len(), self.completions.per_second(now))
    }

    fn send_one(&mut self, held: &[u64], now: Nanos) -> Turn {
        if let Some(admitted) = self.overdue(now) {
            self.admission.overridden("starvation");
            self.routing.overridden("starvation");
            let chosen = self.route(&admitted, now).ok();
            let target = chosen.or_else(|| routing::least_loaded(&self.replicas, self.config.look_ahead));
            return match target {
                Some(target) => self.send(&admitted, target),
                None => Turn::Rest(None),
            };
        }
        let waiting: Vec<u64> = self.flows.tenants().filter(|tenant| !held.contains(tenant)).collect();
        let tenant = match self.next_flow(&waiting, now) {
            Ok(tenant) => tenant,
            Err(until) => return Turn::Rest(until),
        };
        let Some(admitted) = self.flows.head(tenant).cloned() else { return Turn::Rest(None) };
        match self.route(&admitted, now) {
            Ok(target) => self.send(&admitted, target),
            Err(until) => Turn::Held(tenant, until),
        }
    }

    fn overdue(&self, now: Nanos) -> Option<Arc<Admitted>> {
        let oldest = self.flows.oldest()?;
        let waited = now.saturating_sub(oldest.request.arrival);
        (waited > self.config.starvation).then(|| Arc::clone(oldest))
    }

    /// The tenant to serve, or until when none is.
    fn next_flow(&mut self, waiting: &[u64], now: Nanos) -> Result<u64, Option<Nanos>> {
        match waiting {
            [] => return Err(None),
            [only] => return Ok(*only),
            _ => {}
        }
        self.flow_view.now = now;
        self.flow_view.random = self.random.next();
        self.flow_view.pool = self.pool_view(now);
        self.flows.fill_waiting(&mut self.flow_view.flows, waiting, now);
        match self.admission.decide::<Next>(&self.flow_view, now) {
            Some(NextFlow::Serve { tenant }) => Ok(tenant),
            Some(NextFlow::HoldUntil(until)) => Err(Some(until)),
            None => admission::first_come(&self.flow_view.flows).ok_or(None),
        }
    }

    /// The replica that takes it, or until when it waits.
    fn route(&mut self, admitted: &Admitted, now: Nanos) -> Result<usize, Option<Nanos>> {
        let request = RequestView {
            priority: admitted.priority,
            max_new_tokens: admitted.max_new_tokens,
            ..RequestView::from(&admitted.request)
        };
        self.fill_routing_view(request, admitted.request.hashes.hashes(), now);
        match self.routing.decide::<Rank>(&self.routing_view, now) {
            Some(Route::Ranked(choices)) => choices
                .iter()
                .map(|choice| choice.replica as usize)
                .find(|&index| self.replicas[index].has_room(self.config.look_ahead))
                .ok_or(None),
            Some(Route::HoldUntil(until)) => Err(Some(until)),
            None => routing::least_loaded(&self.replicas, self.config.look_ahead).ok_or(None),
        }
    }

    fn send(&mut self, admitted: &Arc<Admitted>, target: usize) -> Turn {
        let id = admitted.request.id;
        self.flows.remove(id);
        self.flows.sent(admitted.request.tenant.0);
        let replica = &mut self.replicas[target];
        replica.in_flight += 1;
        replica.in_flight_tokens += admitted.tokens();
        replica.port.send(ToReplica::Offer(Arc::clone(admitted)));
        self.in_flight.insert(id, InFlight { admitted: Arc::clone(admitted), replica: target });
        Turn::Sent
    }

    fn ended(&mut self, finished: &Finished, now: Nanos) {
        let Some(in_flight) = self.take_in_flight(finished.id) else { return };
        let served = u64::from(finished.prompt_tokens) + u64::from(finished.generated_tokens);
        self.flows.ended(in_flight.admitted.request.tenant.0, served);
        self.completions.count(1.0, now);
        self.announce(finished);
    }

    fn announce(&mut self, finished: &Finished) {
        self.admission.finished(finished);
        self.routing.finished(finished);
        self.observer.observe(&EngineEvent::Finished(finished));
    }

    fn take_in_flight(&mut self, id: RequestId) -> Option<InFlight> {
        let in_flight = self.in_flight.remove(&id)?;
        let replica = &mut self.replicas[in_flight.replica];
        replica.in_flight -= 1;
        replica.in_flight_tokens -= in_flight.admitted.tokens();
        Some(in_flight)
    }

    /// What a lost replica held goes back into the queue if it has sent nothing yet, and fails otherwise.
    fn lose(&mut self, index: usize, now: Nanos) {
        let id = ReplicaId(u32::try_from(index).expect("replicas are few"));
        self.replicas[index].state = replica_state::LOST;
        self.replicas[index].prefixes.clear();
        let mut there: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, in_flight)| in_flight.replica == index).map(|(&id, _)| id).collect();
        there.sort_unstable();
        let (mut requeued, mut failed) = (0, 0);
        for request in there {
            let Some(in_flight) = self.take_in_flight(request) else { continue };
            self.flows.ended(in_flight.admitted.request.tenant.0, 0);
            if self.offer_again(&in_flight.admitted) {
                requeued += 1;
            } else {
                let error = format!("replica {} was lost while it served this request", id.0);
                self.end_unserved(&in_flight.admitted, id, FinishReason::Failed, Some(error), now);
                failed += 1;
            }
        }
        self.observer.observe(&EngineEvent::ReplicaLost { replica: id, requeued, failed });
        self.report_queue();
    }

    fn offer_again(&mut self, admitted: &Admitted) -> bool {
        let attempt = admitted.request.attempt + 1;
        if admitted.started.load(Ordering::Acquire) || attempt > self.config.max_attempts {
            return false;
        }
        self.flows.push(Arc::new(Admitted {
            request: Request { attempt, ..admitted.request.clone() },
            priority: admitted.priority,
            max_new_tokens: admitted.max_new_tokens,
            started: AtomicBool::new(false),
        }));
        true
    }

    /// Tells the sink and everybody who counts that a request ended without a replica's word.
    fn end_unserved(
        &mut self,
        admitted: &Admitted,
        replica: ReplicaId,
        reason: FinishReason,
        error: Option<String>,
        now: Nanos,
    ) {
        let request = &admitted.request;
        let _ = request.sink.send(TokenEvent::End(EndOfStream { reason, error, cached_tokens: 0 }));
        self.announce(&Finished {
            id: request.id,
            tenant: request.tenant,
            replica,
            reason,
            arrival: request.arrival,
            scheduled: None,
            first_token: None,
            finished: now,
            prompt_tokens: request.prompt_tokens(),
            cached_tokens: 0,
            generated_tokens: 0,
            preemptions: 0,
        });
    }

    fn has_room(&self) -> bool {
        self.replicas.iter().any(|replica| replica.has_room(self.config.look_ahead))
    }

    fn report_queue(&self) {
        let requests = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        self.observer.observe(&EngineEvent::Queue { requests, tokens: self.flows.queued_tokens() });
    }

    fn pool_view(&self, now: Nanos) -> PoolView {
        let ready = || self.replicas.iter().filter(|replica| replica.state == replica_state::READY);
        let sum = |of: fn(&Replica) -> u64| ready().map(of).sum::<u64>();
        let share = |part: u64, whole: u64| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
        PoolView {
            queued_requests: u32::try_from(self.flows.len()).unwrap_or(u32::MAX),
            queued_tokens: self.flows.queued_tokens(),
            in_flight_requests: u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX),
            in_flight_tokens: self.replicas.iter().map(|replica| replica.in_flight_tokens).sum(),
            arrival_rate: self.arrivals.per_second(now),
            completion_rate: self.completions.per_second(now),
            ready_replicas: u32::try_from(ready().count()).unwrap_or(u32::MAX),
            sequence_saturation: share(sum(|r| r.report.running.into()), sum(|r| r.report.max_running.into())),
            kv_saturation: share(sum(|r| r.report.blocks_held.into()), sum(|r| r.report.blocks_total.into())),
            queue_saturation: share(self.flows.len() as u64, self.config.max_queued_requests.into()),
        }
    }

    fn admission_snapshot(&mut self, now: Nanos) -> (ArrivalView, FlowView) {
        let (request, pool) = (sample_request(now), self.pool_view(now));
        let mut arrival = ArrivalView { now, random: self.random.next(), request, pool, ..ArrivalView::default() };
        self.flows.fill(&mut arrival.flows, now);
        let mut flow = FlowView { now, random: self.random.next(), pool: arrival.pool.clone(), ..FlowView::default() };
        let waiting: Vec<u64> = self.flows.tenants().collect();
        self.flows.fill_waiting(&mut flow.flows, &waiting, now);
        (arrival, flow)
    }

    fn fill_routing_view(&mut self, request: RequestView, hashes: &[BlockHash], now: Nanos) {
        self.routing_view.now = now;
        self.routing_view.random = self.random.next();
        self.routing_view.request = request;
        routing::fill(&mut self.routing_view.replicas, &self.replicas, hashes, now);
    }
}

impl Replica {
    fn new(port: ReplicaPort) -> Self {
        let report = port.report();
        Self { port, report, state: replica_state::READY, in_flight: 0, in_flight_tokens: 0, prefixes: HashSet::new() }
    }

    /// Room to start soon: its limit in force and a small look-ahead.
    pub(crate) fn has_room(&self, look_ahead: u32) -> bool {
        self.state == replica_state::READY && self.in_flight < self.report.max_running.saturating_add(look_ahead)
    }

    pub(crate) fn cached_prefix_tokens(&self, hashes: &[BlockHash]) -> u32 {
        let blocks = hashes.iter().take_while(|hash| self.prefixes.contains(hash)).count();
        u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(self.report.block_tokens)
    }

    fn prefix_changed(&mut self, change: PrefixChange) {
        match change {
            PrefixChange::Cached(hash) => self.prefixes.insert(hash),
            PrefixChange::Evicted(hash) => self.prefixes.remove(&hash),
        };
    }
}

/// Stands for a request in a view that a candidate is probed with.
fn sample_request(now: Nanos) -> RequestView {
    RequestView {
        tenant_weight: 1.0,
        prompt_tokens: 1,
        max_new_tokens: 1,
        attempt: 1,
        arrival: now,
        ..RequestView::default()
    }
}

impl Admitted {
    /// The tokens it occupies if it runs to its end.
    pub fn tokens(&self) -> u64 {
        u64::from(self.request.prompt_tokens()) + u64::from(self.max_new_tokens)
    }
}
