//! Admission's native rule: everything within the host's bounds comes in; the flow whose head waits longest is next.

use sluice_core::view::FlowTable;
use sluice_core::{Nanos, SECOND};

/// What a client is told to wait: never nothing, and never so long that it stops retrying.
const RETRY_AFTER: std::ops::RangeInclusive<Nanos> = SECOND..=120 * SECOND;

/// Of these flows, the one with the most urgent head; among equals the one that waits longest.
pub(crate) fn first_come(flows: &FlowTable) -> Option<u64> {
    (0..flows.len())
        .max_by_key(|&row| (flows.head_priority[row], flows.head_wait[row], std::cmp::Reverse(flows.tenant[row])))
        .map(|row| flows.tenant[row])
}

/// How long a queue of this length takes to drain at this rate.
pub(crate) fn retry_after(queued: usize, completions_per_second: f64) -> Nanos {
    let seconds = (queued as f64 + 1.0) / completions_per_second.max(1e-3);
    ((seconds * SECOND as f64) as Nanos).clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgency_goes_before_waiting() {
        let flows = FlowTable {
            tenant: vec![1, 2, 3],
            head_priority: vec![0, 5, 5],
            head_wait: vec![900, 10, 20],
            ..Default::default()
        };
        assert_eq!(first_come(&flows), Some(3));
        assert_eq!(first_come(&FlowTable::default()), None);
    }

    #[test]
    fn retry_after_is_measured_and_bounded() {
        assert_eq!(retry_after(19, 2.0), 10 * SECOND);
        assert_eq!(retry_after(0, 1000.0), SECOND);
        assert_eq!(retry_after(1000, 0.0), 120 * SECOND);
    }
}
