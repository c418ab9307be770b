//! What answers have to keep to be good ones, and how many of all that were sent did.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::arrivals::seconds;
use crate::record::Record;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Metric {
    Ttft,
    Tpot,
    E2el,
}

/// No more than so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Goal {
    pub(crate) metric: Metric,
    pub(crate) target_ms: f64,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (metric, target) = text.split_once(':').ok_or("METRIC:MS is wanted, as in ttft:2000")?;
        let metric = match metric {
            "ttft" => Metric::Ttft,
            "tpot" => Metric::Tpot,
            "e2el" => Metric::E2el,
            _ => return Err("there are ttft, tpot and e2el".to_owned()),
        };
        let target_ms = target.parse().ok().filter(|target: &f64| target.is_finite() && *target >= 0.0);
        Ok(Self { metric, target_ms: target_ms.ok_or("milliseconds are wanted after the colon")? })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = match self.metric {
            Metric::Ttft => "ttft",
            Metric::Tpot => "tpot",
            Metric::E2el => "e2el",
        };
        write!(formatter, "{metric} ≤ {} ms", self.target_ms)
    }
}

impl Goal {
    /// An answer without any output has no first token in time. One of a single token has no time between tokens.
    fn is_kept_by(&self, record: &Record) -> bool {
        let target = seconds(self.target_ms / 1e3);
        let within = |measured: Duration| measured <= target;
        match self.metric {
            Metric::Ttft => record.ttft().is_some_and(within),
            Metric::Tpot => record.tpot().is_none_or(within),
            Metric::E2el => within(record.end_to_end()),
        }
    }

    /// Whether an answer that was cut short had missed it by then. Its time per token would have been known at its end.
    fn is_past_for(&self, record: &Record) -> bool {
        let so_far = match self.metric {
            Metric::Ttft => record.ttft().unwrap_or_else(|| record.end_to_end()),
            Metric::E2el => record.end_to_end(),
            Metric::Tpot => return false,
        };
        so_far > seconds(self.target_ms / 1e3)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Goodput {
    pub(crate) goals: Vec<Goal>,
    /// Requests that succeeded and kept all goals.
    pub(crate) within: u64,
    /// Requests of which it is known, failed ones too.
    pub(crate) offered: u64,
    /// Requests that were cut short while they could still keep all goals. They are not in `offered`.
    pub(crate) undecided: u64,
    /// `within / offered`
    pub(crate) ratio: f64,
    pub(crate) per_second: f64,
}

impl Goodput {
    pub(crate) fn of(goals: &[Goal], records: &[Record], duration: Duration) -> Self {
        let is_good = |record: &&Record| record.succeeded() && goals.iter().all(|goal| goal.is_kept_by(record));
        let is_open = |record: &&Record| record.is_cut_short() && !goals.iter().any(|goal| goal.is_past_for(record));
        let (within, undecided) = (count(records, is_good), count(records, is_open));
        let offered = records.len() as u64 - undecided;
        Self {
            goals: goals.to_vec(),
            within,
            offered,
            undecided,
            ratio: within as f64 / offered.max(1) as f64,
            per_second: per_second(within, duration),
        }
    }
}

fn count(records: &[Record], is: impl Fn(&&Record) -> bool) -> u64 {
    records.iter().filter(is).count() as u64
}

pub(crate) fn per_second(count: u64, duration: Duration) -> f64 {
    if duration.is_zero() { 0.0 } else { count as f64 / duration.as_secs_f64() }
}
