//! Hands what the engine and the policies report to whoever listens: metrics, history and log.

use std::sync::Arc;

use sluice_control::Control;
use sluice_core::{Digest, EngineEvent, Observer};
use sluice_runtime::{Level, PolicyLog};
use sluice_telemetry::Metrics;

/// Everyone who observes the engine.
pub(crate) struct Observers {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) control: Arc<Control>,
}

impl Observer for Observers {
    fn observe(&self, event: &EngineEvent<'_>) {
        self.metrics.observe(event);
        self.control.observe(event);
        log(event);
    }
}

fn log(event: &EngineEvent<'_>) {
    match event {
        EngineEvent::Fallback { fault, .. } => tracing::warn!(%fault, "the native rule decided instead"),
        EngineEvent::Quarantined { seat, digest, fault, .. } => {
            tracing::error!(slot = %seat.slot, %digest, %fault, "a policy struck out and is quarantined");
        }
        EngineEvent::ReplicaLost { replica, requeued, failed } => {
            tracing::error!(replica = replica.0, requeued, failed, "a replica was lost");
        }
        EngineEvent::Installed { seat, installed } => {
            let replica = seat.replica.map(|replica| replica.0);
            let (policy, pause_ns) = (&installed.revision.name, installed.pause);
            tracing::info!(slot = %seat.slot, replica, policy, pause_ns, "a policy took its seat");
        }
        _ => {}
    }
}

/// Where the policies' own lines and gauges go.
pub(crate) struct PolicyVoice(pub(crate) Arc<Metrics>);

impl PolicyLog for PolicyVoice {
    fn line(&self, policy: &str, digest: Digest, level: Level, message: &str) {
        let digest = digest.short();
        match level {
            Level::Error => tracing::error!(policy, digest, "{message}"),
            Level::Warn => tracing::warn!(policy, digest, "{message}"),
            Level::Info => tracing::info!(policy, digest, "{message}"),
            Level::Debug => tracing::debug!(policy, digest, "{message}"),
        }
    }

    fn gauge(&self, policy: &str, digest: Digest, name: &str, value: f64) {
        if !self.0.set_policy_gauge(policy, digest, name, value) {
            tracing::debug!(policy, name, "too many gauges: this one is not kept");
        }
    }

    fn dropped(&self, policy: &str, digest: Digest, lines: u64, gauges: u64) {
        tracing::warn!(policy, digest = digest.short(), lines, gauges, "a policy said more than it may");
    }
}
