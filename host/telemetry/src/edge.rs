//! What the HTTP edge counts by itself.

use prometheus::{IntGauge, Result};

use crate::make::Maker;

#[derive(Clone)]
pub struct EdgeMetrics {
    connections: IntGauge,
    answers: IntGauge,
}

/// Counts as one as long as it lives.
pub struct Counted(IntGauge);

impl EdgeMetrics {
    pub(crate) fn new(make: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            connections: make.gauge("sluice_http_connections", "Open connections of the OpenAI listener.")?,
            answers: make.gauge("sluice_http_answers_in_progress", "Answers that are being made, streaming or not.")?,
        })
    }

    pub fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub fn answer(&self) -> Counted {
        Counted::new(&self.answers)
    }
}

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
