//! The engine's numbers: each event goes to the counts of its replica, which are shown when a scrape asks for them.

use std::sync::Arc;

use sluice_core::view::LastStep;
use sluice_core::{Finished, Nanos, Rejection, ReplicaId};

use crate::counts::{Count, ReplicaCounts};
use crate::device;
use crate::metrics::{Compat, MetricsOptions};
use crate::own;
use crate::page::{Family, Kind, Read, Scalars, labels};
use crate::vllm;

pub(crate) struct EngineMetrics {
    replicas: Vec<Arc<ReplicaCounts>>,
    /// Of requests that never came to a replica. What waits here is the central queue.
    unplaced: Arc<ReplicaCounts>,
    pool: Arc<PoolCounts>,
}

#[derive(Default)]
struct PoolCounts {
    queue_tokens: Count,
    rejected_caller: Count,
    rejected_busy: Count,
}

impl EngineMetrics {
    pub(crate) fn new(replicas: usize, max_model_len: u32) -> Self {
        let counts = || Arc::new(ReplicaCounts::new(max_model_len));
        Self { replicas: (0..replicas).map(|_| counts()).collect(), unplaced: counts(), pool: Arc::default() }
    }

    pub(crate) fn families(&self, options: &MetricsOptions<'_>) -> Vec<Box<dyn Family>> {
        let MetricsOptions { model, limits, compat, devices, clock, .. } = options;
        let mut families = self.pool_families();
        families.extend(own::families(&self.replicas, &self.unplaced));
        families.extend(device::families(&self.replicas, devices, clock));
        match compat {
            None => {}
            Some(Compat::Vllm) => families.extend(vllm::families(model, limits, &self.replicas, &self.unplaced)),
        }
        families
    }

    pub(crate) fn step(&self, replica: ReplicaId, step: &LastStep, roof: Option<Nanos>) {
        self.replica(replica).inspect(|counts| counts.step(step, roof));
    }

    pub(crate) fn occupancy(&self, replica: ReplicaId, (running, waiting): (u32, u32), (used, total): (u32, u32)) {
        let Some(counts) = self.replica(replica) else { return };
        counts.running.set(running.into());
        counts.waiting.set(waiting.into());
        counts.blocks_used.set(used.into());
        counts.blocks_total.set(total.into());
    }

    pub(crate) fn first_token(&self, replica: ReplicaId, after: Nanos) {
        self.replica(replica).inspect(|counts| counts.first_token.observe(after));
    }

    pub(crate) fn token(&self, replica: ReplicaId, after: Nanos) {
        self.replica(replica).inspect(|counts| counts.inter_token.observe(after));
    }

    pub(crate) fn prefix(&self, replica: ReplicaId, queried: u32, hit: u32) {
        let Some(counts) = self.replica(replica) else { return };
        counts.prefix_queried.add(queried.into());
        counts.prefix_hit.add(hit.into());
    }

    pub(crate) fn preempted(&self, replica: ReplicaId) {
        self.replica(replica).inspect(|counts| counts.preemptions.add(1));
    }

    pub(crate) fn lost(&self, replica: ReplicaId) {
        self.replica(replica).inspect(|counts| counts.lost());
    }

    pub(crate) fn finished(&self, finished: &Finished) {
        self.replica(finished.replica).unwrap_or(&self.unplaced).finished(finished);
    }

    pub(crate) fn rejected(&self, rejection: &Rejection) {
        let count = if rejection.caller { &self.pool.rejected_caller } else { &self.pool.rejected_busy };
        count.add(1);
    }

    pub(crate) fn queue(&self, requests: u32, tokens: u64) {
        self.unplaced.waiting.set(requests.into());
        self.pool.queue_tokens.set(tokens);
    }

    fn replica(&self, replica: ReplicaId) -> Option<&ReplicaCounts> {
        self.replicas.get(replica.0 as usize).map(Arc::as_ref)
    }

    fn pool_families(&self) -> Vec<Box<dyn Family>> {
        let of_pool = |labels: String, read: fn(&PoolCounts) -> &Count| {
            let pool = Arc::clone(&self.pool);
            (labels, Box::new(move || Some(read(&pool).get() as f64)) as Read)
        };
        let unplaced = Arc::clone(&self.unplaced);
        let waiting: Read = Box::new(move || Some(unplaced.waiting.get() as f64));
        let requests = vec![(String::new(), waiting)];
        let tokens = vec![of_pool(String::new(), |pool| &pool.queue_tokens)];
        let rejected = vec![
            of_pool(labels(&[("reason", "caller")]), |pool| &pool.rejected_caller),
            of_pool(labels(&[("reason", "busy")]), |pool| &pool.rejected_busy),
        ];
        let (gauge, counter) = (Kind::Gauge, Kind::Counter);
        vec![
            Box::new(Scalars::new("sluice_queue_requests", gauge, "Requests in the central queue.", requests)),
            Box::new(Scalars::new("sluice_queue_tokens", gauge, "Prompt tokens in the central queue.", tokens)),
            Box::new(Scalars::new("sluice_requests_rejected_total", counter, "Requests not let in.", rejected)),
        ]
    }
}
