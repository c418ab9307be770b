//! The central queue: one flow per tenant, within a flow by priority and then by arrival, but for whoever has waited
//! beyond all patience: every other turn is theirs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_core::view::FlowTable;
use sluice_core::{Nanos, RequestId};

use crate::link::Admitted;

type Place = (Reverse<i32>, Nanos, RequestId);

#[derive(Default)]
struct Flow {
    waiting: BTreeMap<Place, Arc<Admitted>>,
    /// Those that wait, by when they came into the queue.
    by_age: BTreeMap<(Nanos, RequestId), Place>,
    /// The last one that was sent went before one that is more urgent: now that one's turn has come.
    overtook: bool,
    /// When something of it was last sent.
    last_sent: Nanos,
    queued_tokens: u64,
    weight: f64,
    in_flight: u32,
    served_tokens: u64,
}

/// How many tenants' served tokens are remembered while they are away.
pub(crate) const MAX_IDLE_FLOWS: usize = 4096;

pub(crate) struct Flows {
    /// Whoever waits longer need not be the most urgent any more.
    patience: Nanos,
    flows: BTreeMap<u64, Flow>,
    places: HashMap<RequestId, (u64, Place)>,
    by_age: BTreeMap<(Nanos, RequestId), u64>,
    /// Flows of which something waits, by since when they have not been served.
    unserved: BTreeSet<(Nanos, u64)>,
    queued_tokens: u64,
}

impl Flows {
    pub(crate) fn new(patience: Nanos) -> Self {
        Self {
            patience,
            flows: BTreeMap::new(),
            places: HashMap::new(),
            by_age: BTreeMap::new(),
            unserved: BTreeSet::new(),
            queued_tokens: 0,
        }
    }

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
        let place = place_of(&admitted);
        let tokens = u64::from(request.prompt_tokens());
        let age = (admitted.queued, request.id);
        self.queued_tokens += tokens;
        self.places.insert(request.id, (tenant, place));
        self.by_age.insert(age, tenant);
        self.flows.entry(tenant).or_default();
        self.change(tenant, |flow| {
            flow.weight = admitted.request.tenant_weight;
            flow.queued_tokens += tokens;
            flow.by_age.insert(age, place);
            flow.waiting.insert(place, admitted);
        });
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Arc<Admitted>> {
        let (tenant, place) = self.places.remove(&id)?;
        let admitted = Arc::clone(self.flows.get(&tenant)?.waiting.get(&place)?);
        let age = (admitted.queued, id);
        let tokens = u64::from(admitted.request.prompt_tokens());
        self.by_age.remove(&age);
        self.queued_tokens -= tokens;
        self.change(tenant, |flow| {
            flow.waiting.remove(&place);
            flow.by_age.remove(&age);
            flow.queued_tokens -= tokens;
        });
        Some(admitted)
    }

    /// Who of this tenant is served next.
    pub(crate) fn head(&self, tenant: u64, now: Nanos) -> Option<&Arc<Admitted>> {
        self.flows.get(&tenant)?.head(self.patience, now)
    }

    /// Tenants of whom something waits, in a fixed order.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = u64> + '_ {
        self.flows.iter().filter(|(_, flow)| !flow.waiting.is_empty()).map(|(&tenant, _)| tenant)
    }

    /// Of all requests, the one that has waited here for longest.
    pub(crate) fn oldest(&self) -> Option<&Arc<Admitted>> {
        let (_, id) = self.by_age.first_key_value()?.0;
        self.get(*id)
    }

    /// Of the flow that has not been served for longest though something of it waits: since when, and its oldest.
    pub(crate) fn longest_unserved(&self) -> Option<(Nanos, &Arc<Admitted>)> {
        let (since, tenant) = self.unserved.first()?;
        let (_, id) = self.flows.get(tenant)?.by_age.first_key_value()?.0;
        Some((*since, self.get(*id)?))
    }

    /// It has left the queue for a replica.
    pub(crate) fn sent(&mut self, admitted: &Admitted, now: Nanos) {
        let place = place_of(admitted);
        self.change(admitted.request.tenant.0, |flow| {
            flow.overtook = flow.waiting.first_key_value().is_some_and(|(first, _)| *first < place);
            flow.in_flight += 1;
            flow.last_sent = now;
        });
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
                push_row(table, tenant, flow, self.patience, now);
            }
        }
    }

    /// One row for each of these tenants of whom something waits.
    pub(crate) fn fill_waiting(&self, table: &mut FlowTable, tenants: &[u64], now: Nanos) {
        table.clear();
        for tenant in tenants {
            if let Some(flow) = self.flows.get(tenant).filter(|flow| !flow.waiting.is_empty()) {
                push_row(table, *tenant, flow, self.patience, now);
            }
        }
    }

    /// Panics unless every request that waits is in every order. For tests, after every step.
    pub(crate) fn assert_consistent(&self) {
        let unserved = |(tenant, flow): (&u64, &Flow)| Some((flow.unserved_since()?, *tenant));
        assert_eq!(self.unserved, self.flows.iter().filter_map(unserved).collect(), "flows that are unserved");
        assert_eq!(self.by_age.len(), self.places.len(), "requests by age");
        for (tenant, flow) in &self.flows {
            let by_age = |one: &Arc<Admitted>| ((one.queued, one.request.id), place_of(one));
            let by_age: BTreeMap<_, _> = flow.waiting.values().map(by_age).collect();
            assert_eq!(flow.by_age, by_age, "requests of tenant {tenant} by age");
            let tokens: u64 = flow.waiting.values().map(|one| u64::from(one.request.prompt_tokens())).sum();
            assert_eq!(flow.queued_tokens, tokens, "tokens that wait of tenant {tenant}");
        }
    }

    fn get(&self, id: RequestId) -> Option<&Arc<Admitted>> {
        let (tenant, place) = self.places.get(&id)?;
        self.flows.get(tenant)?.waiting.get(place)
    }

    /// Changes a flow, and with it its place among those that are unserved.
    fn change(&mut self, tenant: u64, change: impl FnOnce(&mut Flow)) {
        let Some(flow) = self.flows.get_mut(&tenant) else { return };
        let before = flow.unserved_since();
        change(flow);
        let after = flow.unserved_since();
        if before != after {
            if let Some(since) = before {
                self.unserved.remove(&(since, tenant));
            }
            self.unserved.extend(after.map(|since| (since, tenant)));
        }
    }

    fn forget_idle(&mut self) {
        if self.flows.len() >= MAX_IDLE_FLOWS {
            self.flows.retain(|_, flow| !flow.waiting.is_empty() || flow.in_flight > 0);
        }
    }
}

impl Flow {
    /// None while nothing of it waits.
    fn unserved_since(&self) -> Option<Nanos> {
        let (queued, _) = self.by_age.first_key_value()?.0;
        Some(self.last_sent.max(*queued))
    }

    fn head(&self, patience: Nanos, now: Nanos) -> Option<&Arc<Admitted>> {
        let ((queued, _), oldest) = self.by_age.first_key_value()?;
        let impatient = now.saturating_sub(*queued) > patience && !self.overtook;
        let place = if impatient { oldest } else { self.waiting.first_key_value()?.0 };
        self.waiting.get(place)
    }
}

fn place_of(admitted: &Admitted) -> Place {
    (Reverse(admitted.priority), admitted.request.arrival, admitted.request.id)
}

fn push_row(table: &mut FlowTable, tenant: u64, flow: &Flow, patience: Nanos, now: Nanos) {
    let head = flow.head(patience, now);
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
