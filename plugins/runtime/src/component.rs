//! A component's instance behind the traits of its slot: views go in as borrowed columns, decisions come out.

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingDecision, BatchingPolicy, CallCost, Choice, Chunk, Descriptor, Events, FaultKind,
    NextFlow, Policy, PolicyFault, Rejection, Route, RoutingPolicy, State, Verdict,
};

use crate::Export;
use crate::bindings::exports::sluice::policy::{admission_policy, batching_policy, lifecycle, routing_policy};
use crate::bindings::sluice::policy::types::StateParam;
use crate::compiled::Decision;
use crate::instance::Instance;
use crate::lower::{self, FinishedColumns, PreemptedColumns};

pub(crate) struct Component<D> {
    instance: Instance,
    lifecycle: lifecycle::Guest,
    decision: D,
    /// Events come as rows and go in as columns; these keep their memory.
    finished: FinishedColumns,
    preempted: PreemptedColumns,
}

impl<D> Component<D> {
    pub(crate) fn new(instance: Instance, lifecycle: lifecycle::Guest, decision: D) -> Self {
        Self {
            instance,
            lifecycle,
            decision,
            finished: FinishedColumns::default(),
            preempted: PreemptedColumns::default(),
        }
    }

    pub(crate) fn describe(&mut self) -> Result<Descriptor, PolicyFault> {
        let descriptor = self.instance.call(Export::Describe, |store| self.lifecycle.call_describe(store))?;
        Ok(Descriptor {
            name: descriptor.name,
            version: descriptor.version,
            description: descriptor.description,
            configuration_schema: descriptor.configuration_schema,
            state_schema: descriptor.state_schema,
        })
    }

    pub(crate) fn configure(&mut self, json: &str) -> Result<(), PolicyFault> {
        let accepted = self.instance.call(Export::Configure, |store| self.lifecycle.call_configure(store, json))?;
        accepted.map_err(|message| self.instance.origin().fault(FaultKind::Configuration(message)))
    }
}

impl<D: Decision> Policy for Component<D> {
    fn observe(&mut self, events: &Events) -> Result<(), PolicyFault> {
        self.finished.fill(&events.finished);
        self.preempted.fill(&events.preempted);
        let samples: Vec<_> = events.samples.iter().map(lower::sample).collect();
        let view = lower::events(events, &self.finished, &self.preempted, &samples);
        self.instance.call(Export::Observe, |store| self.lifecycle.call_observe(store, view))
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        let state = self.instance.call(Export::ExportState, |store| self.lifecycle.call_export_state(store))?;
        if state.bytes.len() > self.instance.origin().limits.state_bytes {
            return Err(self.instance.origin().fault(FaultKind::ResultTooLarge));
        }
        Ok(State { schema: state.schema, bytes: state.bytes })
    }

    /// State that no component may export is not imported either, wherever it came from.
    fn import_state(&mut self, state: &State) -> Result<bool, PolicyFault> {
        if state.bytes.len() > self.instance.origin().limits.state_bytes {
            return Ok(false);
        }
        let param = StateParam { schema: &state.schema, bytes: &state.bytes };
        self.instance.call(Export::ImportState, |store| self.lifecycle.call_import_state(store, param))
    }

    fn last_cost(&self) -> CallCost {
        self.instance.last_cost()
    }
}

impl AdmissionPolicy for Component<admission_policy::Guest> {
    fn admit(&mut self, view: &ArrivalView) -> Result<Verdict, PolicyFault> {
        let arrival = lower::arrival(view);
        let verdict = self.instance.call(Export::Admission, |store| self.decision.call_admit(store, arrival))?;
        Ok(match verdict {
            admission_policy::Verdict::Accept(priority) => Verdict::Accept { priority },
            admission_policy::Verdict::Reject(rejection) => Verdict::Reject(Rejection {
                caller: rejection.caller,
                reason: rejection.reason,
                retry_after: rejection.retry_after,
            }),
            admission_policy::Verdict::Degrade(max_new_tokens) => Verdict::Degrade { max_new_tokens },
        })
    }

    fn next(&mut self, view: &FlowView) -> Result<NextFlow, PolicyFault> {
        let flows = lower::flow_view(view);
        let next = self.instance.call(Export::Admission, |store| self.decision.call_next(store, flows))?;
        Ok(match next {
            admission_policy::NextFlow::Serve(tenant) => NextFlow::Serve { tenant },
            admission_policy::NextFlow::HoldUntil(until) => NextFlow::HoldUntil(until),
        })
    }
}

impl RoutingPolicy for Component<routing_policy::Guest> {
    fn rank(&mut self, view: &RoutingView) -> Result<Route, PolicyFault> {
        let routing = lower::routing(view);
        let route = self.instance.call(Export::Routing, |store| self.decision.call_rank(store, routing))?;
        Ok(match route {
            routing_policy::Route::Ranked(choices) => {
                let choice = |choice: &routing_policy::Choice| Choice { replica: choice.replica, cost: choice.cost };
                Route::Ranked(choices.iter().map(choice).collect())
            }
            routing_policy::Route::HoldUntil(until) => Route::HoldUntil(until),
        })
    }
}

impl BatchingPolicy for Component<batching_policy::Guest> {
    fn plan(&mut self, view: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        let batching = lower::batching(view);
        let schedule = self.instance.call(Export::Batching, |store| self.decision.call_plan(store, batching))?;
        let chunk = |chunk: &batching_policy::Chunk| Chunk { id: chunk.id, tokens: chunk.tokens };
        Ok(BatchingDecision {
            max_running: schedule.max_running,
            token_budget: schedule.token_budget,
            order: schedule.order,
            chunks: schedule.chunks.iter().map(chunk).collect(),
            victims: schedule.victims,
        })
    }
}
