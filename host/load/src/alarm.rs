//! Wakes at a time to within a tenth of a millisecond where the runtime's own timer would be one or two late.

use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// The runtime counts in whole milliseconds and rounds up, twice.
const COARSE: Duration = Duration::from_millis(3);

/// The last stretch is slept by a thread, whose timer is fine.
pub(crate) async fn wake_at(due: Instant) {
    if let Some(before) = due.checked_sub(COARSE) {
        sleep_until(before).await;
    }
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        // Only a runtime that is being shut down gives no thread, and then nobody waits any more.
        let _ = spawn_blocking(move || thread::sleep(left)).await;
    }
    // A test's clock stands still while a thread sleeps. Any other is there, and must not be rounded up once more.
    if Instant::now() < due {
        sleep_until(due).await;
    }
}
