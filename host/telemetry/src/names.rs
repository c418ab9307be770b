//! Turns tables of names into families: the same counts are shown under our names and under those of another server.

use std::sync::Arc;

use crate::counts::ReplicaCounts;
use crate::distribution::{Distribution, Unit};
use crate::page::{Histograms, Kind, Read, Scalars};

/// A counter or a gauge.
pub(crate) struct Number {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) value: Value,
}

/// How a number follows from the counts of the replicas that a series stands for.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Sum(fn(&ReplicaCounts) -> u64),
    /// Nanoseconds, shown in seconds.
    Seconds(fn(&ReplicaCounts) -> u64),
    /// The first sum as a part of the second: 0 to 1.
    Share(fn(&ReplicaCounts) -> u64, fn(&ReplicaCounts) -> u64),
}

pub(crate) struct Spread {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) unit: Unit,
    pub(crate) of: fn(&ReplicaCounts) -> &Arc<Distribution>,
}

/// The replicas that one series stands for.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) labels: String,
    pub(crate) members: Vec<Arc<ReplicaCounts>>,
}

impl Number {
    pub(crate) fn family(&self, groups: &[Group]) -> Scalars {
        let series = groups.iter().map(|group| {
            let (value, members) = (self.value, group.members.clone());
            (group.labels.clone(), Box::new(move || Some(value.read(&members))) as Read)
        });
        Scalars::new(self.name, self.kind, self.help, series.collect())
    }
}

impl Value {
    fn read(self, members: &[Arc<ReplicaCounts>]) -> f64 {
        let sum = |of: fn(&ReplicaCounts) -> u64| members.iter().map(|member| of(member)).sum::<u64>() as f64;
        match self {
            Self::Sum(of) => sum(of),
            Self::Seconds(of) => sum(of) / 1e9,
            Self::Share(part, whole) => sum(part) / sum(whole).max(1.0),
        }
    }
}

impl Spread {
    pub(crate) fn family(&self, bounds: &[f64], groups: &[Group]) -> Histograms {
        let family = Histograms::new(self.name, self.help, self.unit, bounds);
        for group in groups {
            let sources = group.members.iter().map(|member| Arc::clone((self.of)(member))).collect();
            family.show(group.labels.clone(), sources);
        }
        family
    }
}

/// A counter per reason that a request can have ended with; the reasons are in the order of their numbers.
pub(crate) fn by_reason(name: &str, help: &str, label: &str, reasons: [&'static str; 4], groups: &[Group]) -> Scalars {
    let series = groups.iter().flat_map(|group| {
        reasons.into_iter().enumerate().map(move |(index, reason)| {
            let comma = if group.labels.is_empty() { "" } else { "," };
            let (labels, members) = (format!("{}{comma}{label}=\"{reason}\"", group.labels), group.members.clone());
            let read: Read =
                Box::new(move || Some(members.iter().map(|of| of.finished[index].get()).sum::<u64>() as f64));
            (labels, read)
        })
    });
    Scalars::new(name, Kind::Counter, help, series.collect())
}
