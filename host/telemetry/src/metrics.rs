//! All metrics of one server, in one registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::{Registry, TextEncoder};
use sluice_core::view::EngineLimits;
use sluice_core::{Clock, DeviceReadings, Digest, EngineEvent, Observer, ReplicaId, Seat, Slot};

use crate::edge::EdgeMetrics;
use crate::engine::EngineMetrics;
use crate::make::Maker;
use crate::page::Family;
use crate::policy::PolicyMetrics;

pub struct Metrics {
    registry: Registry,
    engine: EngineMetrics,
    policy: PolicyMetrics,
    pub edge: EdgeMetrics,
    families: Vec<Box<dyn Family>>,
    /// Bytes of the longest scrape so far: the next one is about as long.
    longest: AtomicUsize,
}

pub struct MetricsOptions<'a> {
    /// Fixes which replicas are counted.
    pub replicas: usize,
    /// What a replica holds at the most.
    pub limits: EngineLimits,
    /// The name under which it is served.
    pub model: &'a str,
    pub version: &'a str,
    pub compat: Option<Compat>,
    /// What the cards under the replicas say. Asked by every scrape.
    pub devices: Arc<dyn DeviceReadings>,
    /// The engine's. Asked by every scrape.
    pub clock: Arc<dyn Clock>,
}

/// A server whose names appear beside our own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compat {
    Vllm,
}

/// A name or label that Prometheus does not take.
#[derive(Debug)]
pub struct MetricsError(prometheus::Error);

impl Metrics {
    pub fn new(options: &MetricsOptions<'_>) -> Result<Self, MetricsError> {
        let MetricsOptions { replicas, limits, model, version, .. } = options;
        let registry = Registry::new();
        let make = Maker(&registry);
        make.gauges("sluice_build_info", "The version that runs.", &["version"])?.with_label_values(&[version]).set(1);
        make.gauges("sluice_model_info", "The model that is served.", &["model"])?.with_label_values(&[model]).set(1);
        let engine = EngineMetrics::new(*replicas, limits.max_model_len);
        let policy = PolicyMetrics::new(&make, seats(*replicas))?;
        let edge = EdgeMetrics::new(&make)?;
        let mut families = engine.families(options);
        families.extend(policy.families());
        Ok(Self { registry, engine, policy, edge, families, longest: AtomicUsize::new(0) })
    }

    /// The text format of Prometheus. Waits for nobody who counts.
    pub fn scrape(&self) -> Result<String, MetricsError> {
        let mut text = String::with_capacity(self.longest.load(Ordering::Relaxed) + 1024);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        for family in &self.families {
            family.write(&mut text);
        }
        self.longest.fetch_max(text.len(), Ordering::Relaxed);
        Ok(text)
    }

    /// Sets a gauge on behalf of a policy. False if policies have set too many different ones.
    pub fn set_policy_gauge(&self, policy: &str, digest: Digest, name: &str, value: f64) -> bool {
        self.policy.set_gauge(policy, digest, name, value)
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &EngineEvent<'_>) {
        match *event {
            EngineEvent::Step { replica, step, roof } => self.engine.step(replica, step, roof),
            EngineEvent::Occupancy { replica, running, waiting, blocks_used, blocks_total } => {
                self.engine.occupancy(replica, (running, waiting), (blocks_used, blocks_total));
            }
            EngineEvent::FirstToken { replica, after } => self.engine.first_token(replica, after),
            EngineEvent::Token { replica, after } => self.engine.token(replica, after),
            EngineEvent::PrefixCache { replica, queried, hit } => self.engine.prefix(replica, queried, hit),
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
