//! All metrics of one server, in one registry.

use prometheus::{Registry, TextEncoder};
use sluice_core::{Digest, EngineEvent, Observer, ReplicaId, Seat, Slot};

use crate::edge::EdgeMetrics;
use crate::engine::EngineMetrics;
use crate::make::Maker;
use crate::policy::PolicyMetrics;

pub struct Metrics {
    registry: Registry,
    engine: EngineMetrics,
    policy: PolicyMetrics,
    pub edge: EdgeMetrics,
}

/// A name or label that Prometheus does not take.
#[derive(Debug)]
pub struct MetricsError(prometheus::Error);

impl Metrics {
    /// `replicas` fixes which replicas are counted; `model` is the name under which it is served.
    pub fn new(replicas: usize, model: &str, version: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let make = Maker(&registry);
        make.gauges("sluice_build_info", "The version that runs.", &["version"])?.with_label_values(&[version]).set(1);
        make.gauges("sluice_model_info", "The model that is served.", &["model"])?.with_label_values(&[model]).set(1);
        let engine = EngineMetrics::new(&make, replicas)?;
        let policy = PolicyMetrics::new(&make, seats(replicas))?;
        let edge = EdgeMetrics::new(&make)?;
        Ok(Self { engine, policy, edge, registry })
    }

    /// The text format of Prometheus.
    pub fn scrape(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    /// Sets a gauge on behalf of a policy. False if policies have set too many different ones.
    pub fn set_policy_gauge(&self, policy: &str, digest: Digest, name: &str, value: f64) -> bool {
        self.policy.set_gauge(policy, digest, name, value)
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &EngineEvent<'_>) {
        match *event {
            EngineEvent::Step { replica, step } => self.engine.step(replica, step),
            EngineEvent::Occupancy { replica, running, waiting, blocks_used, blocks_total } => {
                self.engine.occupancy(replica, (running, waiting), (blocks_used, blocks_total));
            }
            EngineEvent::FirstToken { after, .. } => self.engine.first_token(after),
            EngineEvent::Token { after, .. } => self.engine.token(after),
            EngineEvent::PrefixCache { queried, hit, .. } => self.engine.prefix(queried, hit),
            EngineEvent::Preempted { replica, .. } => self.engine.preempted(replica),
            EngineEvent::Finished(finished) => self.engine.finished(finished),
            EngineEvent::Rejected { rejection } => self.engine.rejected(rejection),
            EngineEvent::Queue { requests, tokens } => self.engine.queue(requests, tokens),
            EngineEvent::ReplicaLost { replica, .. } => self.engine.lost(replica),
            EngineEvent::Decision { seat, cost } => self.policy.decided(seat, cost),
            EngineEvent::Fallback { seat, fault } => self.policy.fell_back(seat, fault),
            EngineEvent::Override { seat, rule } => self.policy.overridden(seat, rule),
            EngineEvent::Installed { seat, installed } => self.policy.installed(seat, installed),
            EngineEvent::Quarantined { seat, digest, .. } => self.policy.quarantined(seat, digest),
        }
    }
}

impl From<prometheus::Error> for MetricsError {
    fn from(error: prometheus::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for MetricsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "metrics cannot be kept: {}", self.0)
    }
}

impl std::error::Error for MetricsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn seats(replicas: usize) -> Vec<Seat> {
    let replica = |id| Seat { slot: Slot::Batching, replica: u32::try_from(id).ok().map(ReplicaId) };
    let pool = [Slot::Admission, Slot::Routing].map(|slot| Seat { slot, replica: None });
    pool.into_iter().chain((0..replicas).map(replica)).collect()
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
