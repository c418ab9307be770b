//! How many requests were in flight at the same time.

use std::time::Duration;

use crate::record::Record;

/// The most at any moment. One that ends when another is sent was not beside it.
pub(crate) fn peak(records: &[Record]) -> u64 {
    let mut changes: Vec<(Duration, i64)> =
        records.iter().flat_map(|record| [(record.sent, 1), (record.ended(), -1)]).collect();
    changes.sort_unstable();
    let now = changes.iter().scan(0, |now, (_, change)| {
        *now += change;
        Some(*now)
    });
    now.max().unwrap_or(0).unsigned_abs()
}

/// Over this time, by the area under it.
pub(crate) fn mean(records: &[Record], duration: Duration) -> f64 {
    let in_flight: f64 = records.iter().map(|record| record.ended().saturating_sub(record.sent).as_secs_f64()).sum();
    if duration.is_zero() { 0.0 } else { in_flight / duration.as_secs_f64() }
}
