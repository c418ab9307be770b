//! Who is served next, and where: admission says whose turn it is, routing ranks the replicas, and the host sees to it
//! that nobody waits for ever and no replica stands idle.
//!
//! While a replica has room, no flow of which something waits goes unserved for longer than `starvation`. That is about
//! flows: where many wait for long because much is asked, policies go on deciding who is next. A request that has waited
//! for `queue_timeout` is ended, unless a replica has room for it just then.

use std::sync::Arc;

use sluice_core::view::RequestView;
use sluice_core::{
    Failure, FailureKind, FinishReason, MILLISECOND, Nanos, NextFlow, ReplicaId, RequestId, Route, SECOND,
};

use super::{InFlight, NOWHERE, Pool, PoolConfig, replica_id};
use crate::decide::{Next, Rank};
use crate::link::{Admitted, ToReplica};
use crate::{admission, routing};

/// A policy that holds is not asked again before so long.
const SHORTEST_HOLD: Nanos = MILLISECOND;

/// What became of the attempt to send one request.
enum Turn {
    Sent,
    /// This tenant's head waits until the time, if there is one, or until something changes.
    Held(u64, Option<Nanos>),
    /// Nothing more goes out now.
    Rest(Option<Nanos>),
}

/// The rules that go before the policies.
const STARVATION: &str = "starvation";
const WORK_CONSERVATION: &str = "work-conservation";

impl Pool {
    /// Sends what can be sent. Returns when to come back if nothing happens before.
    pub fn tick(&mut self, now: Nanos) -> Option<Nanos> {
        self.granted.retain(|&tenant| self.flows.head(tenant, now).is_some());
        let mut wake = None;
        let mut held = Vec::new();
        while self.has_room() && !self.flows.is_empty() {
            let until = match self.send_one(&held, now) {
                Turn::Sent => continue,
                Turn::Held(tenant, until) => {
                    held.push(tenant);
                    until
                }
                Turn::Rest(until) => {
                    wake = soonest(wake, until);
                    break;
                }
            };
            wake = soonest(wake, until);
        }
        self.expire(now);
        self.report_queue();
        soonest(wake, self.next_rule()).map(|at| at.max(now + SHORTEST_HOLD))
    }

    fn send_one(&mut self, held: &[u64], now: Nanos) -> Turn {
        if let Some((admitted, rule)) = self.overdue(now) {
            return self.send_overdue(&admitted, rule, now);
        }
        let granted = self.granted.iter().copied().find(|tenant| !held.contains(tenant));
        let tenant = match granted {
            Some(tenant) => tenant,
            None => match self.next_flow(held, now) {
                Ok(tenant) => tenant,
                Err(until) => return Turn::Rest(until),
            },
        };
        let Some(admitted) = self.flows.head(tenant, now).cloned() else { return Turn::Rest(None) };
        match self.route(&admitted, now) {
            Ok(target) => {
                self.granted.retain(|&other| other != tenant);
                self.send(&admitted, target, now)
            }
            Err(until) => {
                if granted.is_none() {
                    self.granted.push(tenant);
                }
                Turn::Held(tenant, until)
            }
        }
    }

    /// The request that a rule of the host sends now, whatever the policies say.
    fn overdue(&self, now: Nanos) -> Option<(Arc<Admitted>, &'static str)> {
        let oldest = self.flows.oldest()?;
        let (since, starving) = self.flows.longest_unserved()?;
        let waited = now.saturating_sub(oldest.queued);
        let (admitted, rule) = if oldest.has_waited(now) {
            (oldest, STARVATION)
        } else if now.saturating_sub(since) > self.config.starvation {
            (starving, STARVATION)
        } else if waited > self.config.work_conservation && self.in_flight.is_empty() {
            (oldest, WORK_CONSERVATION)
        } else {
            return None;
        };
        Some((Arc::clone(admitted), rule))
    }

    fn send_overdue(&mut self, admitted: &Arc<Admitted>, rule: &'static str, now: Nanos) -> Turn {
        let look_ahead = self.config.look_ahead;
        let target = match self.route(admitted, now) {
            Ok(target) => {
                self.admission.overridden(rule);
                Some(target)
            }
            Err(_) => {
                self.routing.overridden(rule);
                routing::least_loaded(&self.replicas, |replica| replica.has_room(look_ahead))
            }
        };
        target.map_or(Turn::Rest(None), |target| self.send(admitted, target, now))
    }

    /// Ends what has waited for too long, now that everything is sent that there is room for.
    fn expire(&mut self, now: Nanos) {
        while let Some(id) = self.flows.oldest().filter(|oldest| oldest.has_waited(now)).map(|it| it.request.id) {
            let Some(admitted) = self.flows.remove(id) else { return };
            self.time_out(&admitted, NOWHERE, now);
        }
    }

    /// A replica gives back what it was sent ahead of time and had no room for.
    pub(super) fn expired(&mut self, id: RequestId, now: Nanos) {
        let Some(InFlight { admitted, replica }) = self.take_in_flight(id) else { return };
        self.flows.ended(admitted.request.tenant.0, 0);
        self.time_out(&admitted, replica_id(replica), now);
    }

    fn time_out(&mut self, admitted: &Admitted, replica: ReplicaId, now: Nanos) {
        let seconds = admitted.patience as f64 / SECOND as f64;
        let message = format!("no replica had room for this request within {seconds} s");
        let failure =
            Failure { retry_after: Some(self.retry_after(now)), ..Failure::new(FailureKind::QueueTimeout, message) };
        self.end_unserved(admitted, replica, FinishReason::Failed, Some(failure), now);
    }

    /// When a rule of the host applies next, as things stand.
    fn next_rule(&self) -> Option<Nanos> {
        let PoolConfig { starvation, queue_timeout, work_conservation, .. } = self.config;
        let oldest = self.flows.oldest()?.queued;
        let (unserved, _) = self.flows.longest_unserved()?;
        let mut at = oldest.saturating_add(queue_timeout);
        if self.has_room() {
            at = at.min(unserved.saturating_add(starvation));
            if self.in_flight.is_empty() {
                at = at.min(oldest.saturating_add(work_conservation));
            }
        }
        // Strictly later than the bound.
        Some(at.saturating_add(1))
    }

    /// The tenant to serve, or until when none is.
    fn next_flow(&mut self, held: &[u64], now: Nanos) -> Result<u64, Option<Nanos>> {
        let waiting: Vec<u64> = self.flows.tenants().filter(|tenant| !held.contains(tenant)).collect();
        match waiting.as_slice() {
            [] => return Err(None),
            [only] => return Ok(*only),
            _ => {}
        }
        self.flow_view.now = now;
        self.flow_view.random = self.random.next();
        self.flow_view.pool = self.pool_view(now);
        self.flows.fill_waiting(&mut self.flow_view.flows, &waiting, now);
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
        self.fill_routing_view(request, admitted.reusable(), now);
        let look_ahead = self.config.look_ahead;
        match self.routing.decide::<Rank>(&self.routing_view, now) {
            Some(Route::Ranked(choices)) => choices
                .iter()
                .map(|choice| choice.replica as usize)
                .find(|&index| self.replicas[index].is_open_to(admitted, look_ahead))
                .ok_or(None),
            Some(Route::HoldUntil(until)) => Err(Some(until)),
            None => {
                let open = routing::least_loaded(&self.replicas, |replica| replica.is_open_to(admitted, look_ahead));
                open.ok_or(None)
            }
        }
    }

    fn send(&mut self, admitted: &Arc<Admitted>, target: usize, now: Nanos) -> Turn {
        let id = admitted.request.id;
        self.flows.remove(id);
        self.flows.sent(admitted, now);
        let replica = &mut self.replicas[target];
        replica.in_flight += 1;
        replica.in_flight_tokens += admitted.tokens();
        replica.suspect = admitted.is_suspect().then_some(id);
        replica.port.send(ToReplica::Offer(Arc::clone(admitted)));
        self.in_flight.insert(id, InFlight { admitted: Arc::clone(admitted), replica: target });
        Turn::Sent
    }

    fn has_room(&self) -> bool {
        self.replicas.iter().any(|replica| replica.has_room(self.config.look_ahead))
    }
}

fn soonest(wake: Option<Nanos>, at: Option<Nanos>) -> Option<Nanos> {
    match (wake, at) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
