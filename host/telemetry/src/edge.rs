//! What the HTTP edge counts by itself.

use prometheus::{IntGauge, Result};

use crate::make::Maker;

#[derive(Clone)]
pub struct EdgeMetrics {
    /// Open connections of the OpenAI listener.
    pub connections: IntGauge,
    /// Answers that are being made, streaming or not.
    pub answers: IntGauge,
}

impl EdgeMetrics {
    pub(crate) fn new(make: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            connections: make.gauge("sluice_http_connections", "Open connections of the OpenAI listener.")?,
            answers: make.gauge("sluice_http_answers_in_progress", "Answers that are being made, streaming or not.")?,
        })
    }
}
