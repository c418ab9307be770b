//! What the policies cost and did wrong, and the gauges that they set themselves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Result};
use sluice_core::{CallCost, Digest, Installed, PolicyFault, Seat};

use crate::distribution::{Distribution, Unit};
use crate::make::Maker;
use crate::page::{Family, Histograms, labels};

/// Gauges that policies may have set, over the life of the process: more are not taken.
const GAUGES: usize = 256;

/// Seconds that a policy holds something up: from a microsecond to its deadline and beyond.
const DECISION: &[f64] =
    &[1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1];

pub(crate) struct PolicyMetrics {
    decision: Arc<Histograms>,
    fallbacks: IntCounterVec,
    overrides: IntCounterVec,
    swaps: IntCounterVec,
    pause: Arc<Histograms>,
    quarantines: IntCounterVec,
    info: IntGaugeVec,
    gauges: GaugeVec,
    known_gauges: Mutex<BTreeSet<(Digest, String)>>,
    seats: Vec<SeatMetrics>,
}

/// The handle of the revision that sits there; replaced at a swap, so that a decision looks nothing up.
struct SeatMetrics {
    seat: Seat,
    active: RwLock<Option<Active>>,
}

struct Active {
    decision: Arc<Distribution>,
    /// Slot, name, version and digest.
    labels: [String; 4],
}

impl PolicyMetrics {
    pub(crate) fn new(make: &Maker<'_>, seats: Vec<Seat>) -> Result<Self> {
        Ok(Self {
            decision: Arc::new(Histograms::new(
                "sluice_policy_decision_seconds",
                "Time a policy took to decide.",
                Unit::Time,
                DECISION,
            )),
            fallbacks: make.counters(
                "sluice_policy_fallbacks_total",
                "Decisions that the native rule took instead.",
                &["slot", "policy", "digest", "fault"],
            )?,
            overrides: make.counters(
                "sluice_policy_overrides_total",
                "Times the host overrode a policy that let something starve.",
                &["slot", "rule"],
            )?,
            swaps: make.counters("sluice_policy_swaps_total", "Revisions that took a seat.", &["slot"])?,
            pause: Arc::new(Histograms::new(
                "sluice_policy_swap_pause_seconds",
                "How long a step boundary was held up by a swap.",
                Unit::Time,
                DECISION,
            )),
            quarantines: make.counters("sluice_policy_quarantines_total", "Digests that struck out.", &["slot"])?,
            info: make.gauges(
                "sluice_policy_info",
                "Seats on which this revision decides.",
                &["slot", "policy", "version", "digest"],
            )?,
            gauges: make.values(
                "sluice_policy_metric",
                "Set by the policy itself through its `metric` import.",
                &["policy", "digest", "name"],
            )?,
            known_gauges: Mutex::new(BTreeSet::new()),
            seats: seats.into_iter().map(|seat| SeatMetrics { seat, active: RwLock::new(None) }).collect(),
        })
    }

    pub(crate) fn families(&self) -> [Box<dyn Family>; 2] {
        [&self.decision, &self.pause].map(|family| Box::new(Arc::clone(family)) as Box<dyn Family>)
    }

    pub(crate) fn decided(&self, seat: Seat, cost: CallCost) {
        let Some(seat) = self.seat(seat) else { return };
        if let Some(active) = &*seat.active.read().unwrap_or_else(PoisonError::into_inner) {
            active.decision.observe(cost.nanos);
        }
    }

    pub(crate) fn fell_back(&self, seat: Seat, fault: &PolicyFault) {
        let digest = fault.digest.short();
        let labels = [seat.slot.as_str(), &fault.policy, &digest, fault.kind.label()];
        self.fallbacks.with_label_values(&labels).inc();
    }

    pub(crate) fn overridden(&self, seat: Seat, rule: &str) {
        self.overrides.with_label_values(&[seat.slot.as_str(), rule]).inc();
    }

    pub(crate) fn installed(&self, seat: Seat, installed: &Installed) {
        let slot = seat.slot.as_str();
        self.swaps.with_label_values(&[slot]).inc();
        self.pause.get(labels(&[("slot", slot)])).observe(installed.pause);
        let revision = &installed.revision;
        let digest = revision.digest.short();
        let active = Active {
            decision: self.decision.get(decision_labels(slot, &revision.name, &digest)),
            labels: [slot.to_owned(), revision.name.clone(), revision.version.clone(), digest],
        };
        self.info.with_label_values(&active.labels).inc();
        self.replace(seat, Some(active));
    }

    pub(crate) fn quarantined(&self, seat: Seat, digest: Digest) {
        self.quarantines.with_label_values(&[seat.slot.as_str()]).inc();
        let holds = |active: &Active| active.labels[3] == digest.short();
        let struck = self
            .seat(seat)
            .is_some_and(|seat| seat.active.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(holds));
        if struck {
            self.replace(seat, None);
        }
    }

    /// False if there are too many gauges already.
    pub(crate) fn set_gauge(&self, policy: &str, digest: Digest, name: &str, value: f64) -> bool {
        let mut known = self.known_gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (digest, name.to_owned());
        if !known.contains(&key) {
            if known.len() == GAUGES {
                return false;
            }
            known.insert(key);
        }
        self.gauges.with_label_values(&[policy, &digest.short(), name]).set(value);
        true
    }

    fn replace(&self, seat: Seat, active: Option<Active>) {
        let Some(seat) = self.seat(seat) else { return };
        let mut place = seat.active.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *place, active) {
            let seats = self.info.with_label_values(&before.labels);
            seats.dec();
            // Otherwise every revision ever deployed would stay in each scrape.
            if seats.get() <= 0 {
                let [slot, policy, _, digest] = &before.labels;
                self.decision.remove(&decision_labels(slot, policy, digest));
                let _gone = self.info.remove_label_values(&before.labels);
            }
        }
    }

    fn seat(&self, seat: Seat) -> Option<&SeatMetrics> {
        self.seats.iter().find(|known| known.seat == seat)
    }
}

fn decision_labels(slot: &str, policy: &str, digest: &str) -> String {
    labels(&[("digest", digest), ("policy", policy), ("slot", slot)])
}
