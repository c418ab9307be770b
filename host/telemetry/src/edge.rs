//! What the HTTP edge counts by itself.

use prometheus::{IntCounter, IntGauge, Result};

use crate::make::Maker;

#[derive(Clone)]
pub struct EdgeMetrics {
    /// `None` for a listener whose connections are not those that are shown.
    connections: Option<IntGauge>,
    answers: IntGauge,
    /// In the order of `Timeout::ALL`.
    timeouts: [IntCounter; Timeout::ALL.len()],
}

/// What took longer than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timeout {
    /// The TLS handshake of a connection.
    Handshake,
    Header,
    /// The next request on a connection.
    Idle,
    Body,
    /// The client, to take what was written for it.
    WriteStall,
    /// The request, to leave the queue.
    Queue,
    FirstToken,
    /// The token after another one.
    Stall,
    /// The whole answer.
    Total,
}

/// Counts as one as long as it lives.
pub struct Counted(IntGauge);

impl EdgeMetrics {
    pub(crate) fn new(make: &Maker<'_>) -> Result<Self> {
        let help = "Connections, requests and answers that were ended because something took too long.";
        let timeouts = make.counters("sluice_timeouts_total", help, &["kind"])?;
        Ok(Self {
            timeouts: Timeout::ALL.map(|kind| timeouts.with_label_values(&[kind.as_str()])),
            connections: Some(make.gauge("sluice_http_connections", "Open connections of the OpenAI listener.")?),
            answers: make.gauge("sluice_http_answers_in_progress", "Answers that are being made, streaming or not.")?,
        })
    }

    /// For another listener than OpenAI's: what took too long there counts, its connections do not.
    #[must_use]
    pub fn of_time_outs(&self) -> Self {
        Self { connections: None, ..self.clone() }
    }

    pub fn timed_out(&self, what: Timeout) {
        self.timeouts[what as usize].inc();
    }

    pub fn connection(&self) -> Option<Counted> {
        self.connections.as_ref().map(Counted::new)
    }

    pub fn answer(&self) -> Counted {
        Counted::new(&self.answers)
    }
}

impl Timeout {
    const ALL: [Self; 9] = [
        Self::Handshake,
        Self::Header,
        Self::Idle,
        Self::Body,
        Self::WriteStall,
        Self::Queue,
        Self::FirstToken,
        Self::Stall,
        Self::Total,
    ];

    /// The label, and the stem of the error's code where there is an answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Header => "header",
            Self::Idle => "idle",
            Self::Body => "body",
            Self::WriteStall => "write_stall",
            Self::Queue => "queue",
            Self::FirstToken => "first_token",
            Self::Stall => "stall",
            Self::Total => "total",
        }
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
