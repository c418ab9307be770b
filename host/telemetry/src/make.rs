//! Makes metrics and registers them in one go.

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result};

/// What metrics are registered in that change seldom. What the engine counts is written by `page`.
pub(crate) struct Maker<'a>(pub(crate) &'a Registry);

impl Maker<'_> {
    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.kept(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.kept(IntGauge::new(name, help)?)
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.kept(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(crate) fn values(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        self.kept(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn kept<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}
