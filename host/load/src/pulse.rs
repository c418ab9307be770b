//! Watches the generator itself: a task that wants to run every few milliseconds, and how late it gets to.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Between two beats.
const PERIOD: Duration = Duration::from_millis(20);

/// Every timestamp is as late as the task that takes it, and that is about as late as this one.
pub(crate) struct Pulse {
    stop: oneshot::Sender<()>,
    beats: JoinHandle<Vec<Duration>>,
}

impl Pulse {
    pub(crate) fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, beats: tokio::spawn(beat(stopped)) }
    }

    /// How late each beat was.
    pub(crate) async fn stop(self) -> Vec<Duration> {
        let Self { stop, beats } = self;
        drop(stop);
        beats.await.unwrap_or_default()
    }
}

async fn beat(mut stopped: oneshot::Receiver<()>) -> Vec<Duration> {
    let mut late = Vec::new();
    loop {
        let due = Instant::now() + PERIOD;
        tokio::select! {
            biased;
            _ = &mut stopped => return late,
            () = sleep_until(due) => late.push(due.elapsed()),
        }
    }
}
