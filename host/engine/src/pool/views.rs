//! What the pool's two policies are shown.

use sluice_core::view::{ArrivalView, FlowView, PoolView, RequestView, replica_state};
use sluice_core::{BlockHash, Nanos, Request};

use super::Pool;
use crate::roster::Replica;
use crate::routing;

impl Pool {
    pub(super) fn pool_view(&self, now: Nanos) -> PoolView {
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

    pub(super) fn admission_snapshot(&mut self, now: Nanos) -> (ArrivalView, FlowView) {
        let (request, pool) = (sample_request(now), self.pool_view(now));
        let mut arrival = ArrivalView { now, random: self.random.next(), request, pool, ..ArrivalView::default() };
        self.flows.fill(&mut arrival.flows, now);
        let mut flow = FlowView { now, random: self.random.next(), pool: arrival.pool.clone(), ..FlowView::default() };
        let waiting: Vec<u64> = self.flows.tenants().collect();
        self.flows.fill_waiting(&mut flow.flows, &waiting, now);
        (arrival, flow)
    }

    pub(super) fn fill_routing_view(&mut self, request: RequestView, hashes: &[BlockHash], now: Nanos) {
        self.routing_view.now = now;
        self.routing_view.random = self.random.next();
        self.routing_view.request = request;
        routing::fill(&mut self.routing_view.replicas, &self.replicas, hashes, now);
    }
}

/// What a client asks for at once, as its first request with the tokens of all; `None` for nothing.
pub(super) fn asked_together(requests: &[Request]) -> Option<RequestView> {
    let sum = |tokens: fn(&Request) -> u32| requests.iter().map(tokens).fold(0, u32::saturating_add);
    Some(RequestView {
        prompt_tokens: sum(Request::prompt_tokens),
        max_new_tokens: sum(|request| request.max_new_tokens),
        ..RequestView::from(requests.first()?)
    })
}

/// Stands for a request in a view that a candidate is probed with.
pub(super) fn sample_request(now: Nanos) -> RequestView {
    RequestView {
        tenant_weight: 1.0,
        prompt_tokens: 1,
        max_new_tokens: 1,
        attempt: 1,
        arrival: now,
        ..RequestView::default()
    }
}
