//! The pool: who comes in, who is served next, and by which replica. Fairness is decided here, while requests wait.
//!
//! Runs on one thread and is driven from outside: `offer` and `finish` when something comes, `events` and `tick` then.

mod dispatch;
mod loss;
mod views;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sluice_core::view::{ArrivalView, FlowView, RoutingView, replica_state};
use sluice_core::{
    AdmissionPolicy, BlockHash, Clock, EndOfStream, EngineEvent, Failure, FinishReason, Finished, Nanos, Observer,
    Rejection, ReplicaId, Request, RequestId, RoutingPolicy, SECOND, Seat, Slot, TokenEvent, Verdict,
};

use crate::admission;
use crate::decide::Admit;
use crate::flows::Flows;
use crate::guard::{Guard, GuardConfig};
use crate::link::{Admitted, FromReplica, ReplicaPort, ToReplica};
use crate::order::Order;
use crate::random::RandomWords;
use crate::rates::Rate;
use crate::roster::Replica;

#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Hard bounds of the central queue, whatever admission says.
    pub max_queued_requests: u32,
    pub max_queued_tokens: u64,
    /// Prompt and answer together.
    pub max_model_len: u32,
    /// How many requests beyond its limit in force a replica is given, so that it can start the next at once.
    pub look_ahead: u32,
    /// While a replica has room, a tenant of whom something waits is served after so long, whatever the policies say.
    pub starvation: Nanos,
    /// A request that waits longer, no replica having room for it, is ended: in the queue, or where it was sent ahead.
    pub queue_timeout: Nanos,
    /// While nothing runs at all, no request waits longer, whatever the policies say.
    pub work_conservation: Nanos,
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
            starvation: 10 * SECOND,
            queue_timeout: 30 * SECOND,
            work_conservation: SECOND,
            max_attempts: 2,
            seed: 0,
            guard: GuardConfig::default(),
        }
    }
}

/// Stands for the replica of a request that none has.
const NOWHERE: ReplicaId = ReplicaId(u32::MAX);

fn replica_id(index: usize) -> ReplicaId {
    ReplicaId(u32::try_from(index).expect("replicas are few"))
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
    /// Tenants whose turn it is, but whose request routing holds: they are not chosen twice.
    granted: Vec<u64>,
    arrivals: Rate,
    completions: Rate,
    random: RandomWords,
    observer: Arc<dyn Observer>,
    arrival_view: ArrivalView,
    flow_view: FlowView,
    routing_view: RoutingView,
    mail: Vec<FromReplica>,
}

struct InFlight {
    admitted: Arc<Admitted>,
    replica: usize,
}

impl Pool {
    pub fn new(config: PoolConfig, ports: Vec<ReplicaPort>, observer: Arc<dyn Observer>) -> Self {
        let seat = |slot| Seat { slot, replica: None };
        Self {
            config,
            admission: Guard::new(seat(Slot::Admission), config.guard, Arc::clone(&observer)),
            routing: Guard::new(seat(Slot::Routing), config.guard, Arc::clone(&observer)),
            flows: Flows::new(config.starvation),
            replicas: ports.into_iter().map(Replica::new).collect(),
            in_flight: HashMap::new(),
            granted: Vec::new(),
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

    /// Lets all that a client asks for at once in, or tells every sink why nothing of it comes in.
    pub fn offer(&mut self, requests: &[Request], now: Nanos) {
        self.arrivals.count(requests.len() as f64, now);
        match self.admit(requests, now) {
            Ok(admitted) => {
                admitted.into_iter().for_each(|admitted| self.flows.push(Arc::new(admitted)));
                self.report_queue();
            }
            Err(rejection) => {
                self.observer.observe(&EngineEvent::Rejected { rejection: &rejection });
                for request in requests {
                    // The client may be gone already; then nobody is to be told.
                    let _ = request.sink.send(TokenEvent::Rejected(rejection.clone()));
                }
            }
        }
    }

    /// Ends a request early, wherever it is. An unknown one has ended already.
    pub fn finish(&mut self, id: RequestId, reason: FinishReason, now: Nanos) {
        if let Some(admitted) = self.flows.remove(id) {
            self.end_unserved(&admitted, NOWHERE, reason, None, now);
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
                    FromReplica::Expired(id) => self.expired(id, now),
                    FromReplica::Prefix(change) => self.replicas[index].prefix_changed(change),
                }
            }
            self.mail = mail;
            if lost && self.replicas[index].state != replica_state::LOST {
                self.lose(index, now);
            }
        }
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
                    self.fill_routing_view(views::sample_request(clock.now()), &[], clock.now());
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
        self.flows.assert_consistent();
        assert!(self.flows.len() <= self.config.max_queued_requests as usize, "the queue is over its bound");
        assert!(self.flows.queued_tokens() <= self.config.max_queued_tokens, "the queue is over its bound of tokens");
    }

    /// The policy is asked once: part of an answer is of no use to anybody.
    fn admit(&mut self, requests: &[Request], now: Nanos) -> Result<Vec<Admitted>, Rejection> {
        let Some(asked) = views::asked_together(requests) else { return Ok(Vec::new()) };
        self.check_bounds(requests, now)?;
        self.arrival_view.now = now;
        self.arrival_view.random = self.random.next();
        self.arrival_view.request = asked;
        self.arrival_view.pool = self.pool_view(now);
        self.flows.fill(&mut self.arrival_view.flows, now);
        let (mut priority, mut most) = (None, u32::MAX);
        match self.admission.decide::<Admit>(&self.arrival_view, now) {
            Some(Verdict::Accept { priority: changed }) => priority = Some(changed),
            Some(Verdict::Degrade { max_new_tokens }) => {
                most = max_new_tokens / u32::try_from(requests.len()).unwrap_or(u32::MAX);
            }
            Some(Verdict::Reject(rejection)) => return Err(rejection),
            None => {}
        }
        Ok(requests.iter().map(|request| self.admitted(request, priority, most, now)).collect())
    }

    fn admitted(&self, request: &Request, priority: Option<i32>, most: u32, now: Nanos) -> Admitted {
        let room = self.config.max_model_len.saturating_sub(request.prompt_tokens());
        Admitted {
            request: request.clone(),
            priority: priority.unwrap_or(request.priority),
            max_new_tokens: request.max_new_tokens.min(room).min(most).max(1),
            queued: now,
            patience: self.config.queue_timeout,
            scheduled: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }
    }

    /// The bounds that hold whatever a policy says.
    fn check_bounds(&self, requests: &[Request], now: Nanos) -> Result<(), Rejection> {
        let reject = |caller, reason: String| Err(Rejection { caller, reason, retry_after: self.retry_after(now) });
        let longest = self.config.max_model_len.saturating_sub(1);
        let is_served = |prompt: &u32| (1..=longest).contains(prompt);
        if let Some(prompt) = requests.iter().map(Request::prompt_tokens).find(|prompt| !is_served(prompt)) {
            return reject(true, format!("a prompt of {prompt} tokens cannot be served; 1 to {longest} can"));
        }
        let (most, tokens) = (self.config.max_queued_requests as usize, self.config.max_queued_tokens);
        if requests.len() > most {
            return reject(true, format!("{} answers at once cannot be served; 1 to {most} can", requests.len()));
        }
        if self.replicas.iter().all(|replica| replica.state == replica_state::LOST) {
            return reject(false, "no replica is ready".into());
        }
        if self.flows.len() + requests.len() > most {
            return reject(false, format!("the queue is full: at most {most} requests wait"));
        }
        let prompts: u64 = requests.iter().map(|request| u64::from(request.prompt_tokens())).sum();
        if self.flows.queued_tokens() + prompts > tokens {
            return reject(false, format!("the queue is full: at most {tokens} prompt tokens wait"));
        }
        Ok(())
    }

    /// As long as the queue takes to drain at the rate of the last seconds.
    fn retry_after(&self, now: Nanos) -> Nanos {
        admission::retry_after(self.flows.len(), self.completions.per_second(now))
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
        replica.suspect.take_if(|suspect| *suspect == id);
        Some(in_flight)
    }

    /// Tells the sink and everybody who counts that a request ended without a replica's word.
    fn end_unserved(
        &mut self,
        admitted: &Admitted,
        replica: ReplicaId,
        reason: FinishReason,
        failure: Option<Failure>,
        now: Nanos,
    ) {
        let request = &admitted.request;
        let _ = request.sink.send(TokenEvent::End(EndOfStream { reason, failure, cached_tokens: 0 }));
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

    fn report_queue(&self) {
        let requests = u32::try_from(self.flows.len()).unwrap_or(u32::MAX);
        self.observer.observe(&EngineEvent::Queue { requests, tokens: self.flows.queued_tokens() });
    }
}

impl Admitted {
    /// It was with a replica when that was lost, and may have been the reason.
    pub(crate) fn is_suspect(&self) -> bool {
        self.request.attempt > 1
    }

    /// Of the blocks that it can take from a prefix cache: none where its prompt is to be scored.
    pub(crate) fn reusable(&self) -> &[BlockHash] {
        match self.request.prompt_logprobs {
            Some(_) => &[],
            None => self.request.hashes.hashes(),
        }
    }

    pub(crate) fn has_waited(&self, now: Nanos) -> bool {
        now.saturating_sub(self.queued) > self.patience
    }

    /// The tokens it occupies if it runs to its end.
    pub fn tokens(&self) -> u64 {
        u64::from(self.request.prompt_tokens()) + u64::from(self.max_new_tokens)
    }
}
