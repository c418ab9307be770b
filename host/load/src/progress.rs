//! Shows on a terminal how far the load is; says nothing anywhere else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two drawings.
const REDRAW: Duration = Duration::from_millis(200);

pub(crate) struct Progress {
    bar: ProgressBar,
    in_flight: AtomicU64,
    failed: AtomicU64,
}

impl Progress {
    pub(crate) fn hidden() -> Self {
        Self::on(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()))
    }

    /// On standard error. `total` is unknown where only time ends the load.
    pub(crate) fn shown(total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{bar:30} {pos} of {len} requests, {msg}, {per_sec}, {eta} left",
            None => "{spinner} {pos} requests, {msg}, {per_sec}, {elapsed}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style);
        bar.enable_steady_tick(REDRAW);
        Self::on(bar)
    }

    fn on(bar: ProgressBar) -> Self {
        Self { bar, in_flight: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    pub(crate) fn sent(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn ended(&self, succeeded: bool) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(!succeeded), Ordering::Relaxed);
        self.bar.inc(1);
        self.tell();
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        if !self.bar.is_hidden() {
            let (in_flight, failed) = (self.in_flight.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
            self.bar.set_message(format!("{in_flight} in flight, {failed} failed"));
        }
    }
}
