//! One instance and the door to it: every call goes in with fresh limits, and a fault closes the door for good.

use std::sync::Arc;
use std::time::Instant;

use sluice_core::{CallCost, Digest, FaultKind, PolicyFault};
use wasmtime::Store;

use crate::fault::kind_of;
use crate::host::{Host, on_deadline};
use crate::ticker::Ticker;
use crate::{Export, Limits};

/// What all instances of a component share.
pub(crate) struct Origin {
    pub(crate) policy: String,
    pub(crate) digest: Digest,
    pub(crate) limits: Limits,
    pub(crate) ticker: Arc<Ticker>,
}

impl Origin {
    /// The same component, now that its name is known.
    pub(crate) fn called(&self, policy: &str) -> Self {
        let policy = policy.to_owned();
        Self { policy, digest: self.digest, limits: self.limits, ticker: Arc::clone(&self.ticker) }
    }

    pub(crate) fn fault(&self, kind: FaultKind) -> PolicyFault {
        PolicyFault { policy: self.policy.clone(), digest: self.digest, kind }
    }
}

pub(crate) struct Instance {
    store: Store<Host>,
    origin: Arc<Origin>,
    cost: CallCost,
    /// wasmtime refuses to enter a component that trapped; so does this, with the reason.
    dead: Option<FaultKind>,
}

impl Instance {
    pub(crate) fn new(mut store: Store<Host>, origin: Arc<Origin>) -> Self {
        store.limiter(|host| host.limiter());
        store.epoch_deadline_callback(on_deadline);
        Self { store, origin, cost: CallCost::default(), dead: None }
    }

    pub(crate) fn call<R>(
        &mut self,
        export: Export,
        call: impl FnOnce(&mut Store<Host>) -> wasmtime::Result<R>,
    ) -> Result<R, PolicyFault> {
        if let Some(kind) = &self.dead {
            return Err(self.origin.fault(FaultKind::Trap(format!("this instance is dead: it {kind}"))));
        }
        let fuel = self.origin.limits.fuel_per_call;
        self.refill(export, fuel).map_err(|error| self.origin.fault(kind_of(&error)))?;
        let ticking = self.origin.ticker.enter();
        let started = Instant::now();
        let result = call(&mut self.store);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        drop(ticking);
        self.cost = CallCost { nanos, fuel: fuel.saturating_sub(self.store.get_fuel().unwrap_or(0)) };
        result.map_err(|error| self.die(kind_of(&error)))
    }

    pub(crate) fn last_cost(&self) -> CallCost {
        self.cost
    }

    pub(crate) fn store(&mut self) -> &mut Store<Host> {
        &mut self.store
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    fn refill(&mut self, export: Export, fuel: u64) -> wasmtime::Result<()> {
        let bound = self.origin.limits.bound(export);
        self.store.data_mut().begin_call();
        self.store.set_epoch_deadline(Ticker::ticks(bound.deadline));
        self.store.set_hostcall_fuel(bound.result_bytes);
        self.store.set_fuel(fuel)
    }

    fn die(&mut self, kind: FaultKind) -> PolicyFault {
        self.dead = Some(kind.clone());
        self.origin.fault(kind)
    }
}
