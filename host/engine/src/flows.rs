//! The central queue: one flow per tenant, within a flow by priority and then by arrival.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluice_core::view::FlowTable;
use sluice_core::{Nanos, RequestId};

use crate::link::Admitted;

type Place = (Reverse<i32>, Nanos, RequestId);

#[derive(Default)]
struct Flow {
    waiting: BTreeMap<Place, Arc<Admitted>>,
    queued_tokens: u64,
    weight: f64,
    in_flight: u32,
    served_tokens: u64,
}

/// How many tenants' served tokens are remembered while they are away.
pub(crate) const MAX_IDLE_FLOWS: usize = 4096;

#[derive(Default)]
pub(crate) struct Flows {
    flows: BTreeMap<u64, Flow>,
    places: HashMap<RequestId, (u64, Place)>,
    by_age: BTreeMap<(Nanos, RequestId), u64>,
    queued_tokens: u64,
}

impl Flows {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn queued_tokens(&self) -> u64 {
        self.queued_tokens
    }

    pub(crate) fn push(&mut self, admitted: Arc<Admitted>) {
        self.forget_idle();
        let request = &admitted.request;
        let tenant = request.tenant.0;
        let place = (Reverse(admitted.priority), request.arrival, request.id);
        let tokens = u64::from(request.prompt_tokens());
        let flow = self.flows.entry(tenant).or_default();
        flow.weight = request.tenant_weight;
        flow.queued_tokens += tokens;
        self.queued_tokens += tokens;
        self.places.insert(request.id, (tenant, place));
        self.by_age.insert((admitted.queued, request.id), tenant);
        flow.waiting.insert(place, admitted);
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Arc<Admitted>> {
        let (tenant, place) = self.places.remove(&id)?;
        let flow = self.flows.get_mut(&tenant)?;
        let admitted = flow.waiting.remove(&place)?;
        self.by_age.remove(&(admitted.queued, id));
        let tokens = u64::from(admitted.request.prompt_tokens());
        flow.queued_tokens -= tokens;
        self.queued_tokens -= tokens;
        Some(admitted)
    }

    pub(crate) fn head(&self, tenant: u64) -> Option<&Arc<Admitted>> {
        Some(self.flows.get(&tenant)?.waiting.first_key_value()?.1)
    }

    /// Tenants of whom something waits, in a fixed order.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = u64> + '_ {
        self.flows.iter().filter(|(_, flow)| !flow.waiting.is_empty()).map(|(&tenant, _)| tenant)
    }

    /// Of all requests, the one that has waited here for longest.
    pub(crate) fn oldest(&self) -> Option<&Arc<Admitted>> {
        let (&(_, id), tenant) = self.by_age.first_key_value()?;
        let (_, place) = self.places.get(&id)?;
        self.flows.get(tenant)?.waiting.get(place)
    }

    pub(crate) fn sent(&mut self, tenant: u64) {
        if let Some(flow) = self.flows.get_mut(&tenant) {
            flow.in_flight += 1;
        }
    }

    /// A request of this tenant left its replica, having been served so many tokens.
    pub(crate) fn ended(&mut self, tenant: u64, tokens: u64) {
        if let Some(flow) = self.flows.get_mut(&tenant) {
            flow.in_flight = flow.in_flight.saturating_sub(1);
            flow.served_tokens += tokens;
        }
    }

    /// One row per tenant that waits or runs.
    pub(crate) fn fill(&self, table: &mut FlowTable, now: Nanos) {
        table.clear();
        for (&tenant, flow) in &self.flows {
            if !flow.waiting.is_empty() || flow.in_flight > 0 {
                push_row(table, tenant, flow, now);
            }
        }
    }

    /// One row for each of these tenants of whom something waits.
    pub(crate) fn fill_waiting(&self, table: &mut FlowTable, tenants: &[u64], now: Nanos) {
        table.clear();
        for tenant in tenants {
            if let Some(flow) = self.flows.get(tenant).filter(|flow| !flow.waiting.is_empty()) {
                push_row(table, *tenant, flow, now);
            }
        }
    }

    fn forget_idle(&mut self) {
        if self.flows.len() >= MAX_IDLE_FLOWS {
            self.flows.retain(|_, flow| !flow.waiting.is_empty() || flow.in_flight > 0);
        }
    }
}

fn push_row(table: &mut FlowTable, tenant: u64, flow: &Flow, now: Nanos) {
    let head = flow.waiting.first_key_value().map(|(_, admitted)| admitted);
    table.tenant.push(tenant);
    table.weight.push(flow.weight);
    table.queued_requests.push(u32::try_from(flow.waiting.len()).unwrap_or(u32::MAX));
    table.queued_tokens.push(flow.queued_tokens);
    table.head_wait.push(head.map_or(u64::MAX, |head| now.saturating_sub(head.request.arrival)));
    table.head_prompt_tokens.push(head.map_or(u32::MAX, |head| head.request.prompt_tokens()));
    table.head_max_new_tokens.push(head.map_or(u32::MAX, |head| head.max_new_tokens));
    table.head_priority.push(head.map_or(i32::MAX, |head| head.priority));
    table.in_flight_requests.push(flow.in_flight);
    table.served_tokens.push(flow.served_tokens);
}
