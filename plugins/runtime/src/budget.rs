//! What a policy says to the outside, bounded: log lines by bytes a line and a second, gauges by number of names.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sluice_core::Digest;

use crate::Limits;

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Where policies' lines and gauges go. Called on the threads that step: it must return at once.
pub trait PolicyLog: Send + Sync {
    fn line(&self, policy: &str, digest: Digest, level: Level, message: &str);

    /// `name` is `[a-z_][a-z0-9_]*`, and a policy has at most `Limits::metric_names` of them.
    fn gauge(&self, policy: &str, digest: Digest, name: &str, value: f64);

    /// So many lines, and so many gauges with new or wrong names, went beyond the budget since the last call.
    fn dropped(&self, policy: &str, digest: Digest, lines: u64, gauges: u64);
}

/// Listens to nobody.
pub struct Silent;

impl PolicyLog for Silent {
    fn line(&self, _: &str, _: Digest, _: Level, _: &str) {}
    fn gauge(&self, _: &str, _: Digest, _: &str, _: f64) {}
    fn dropped(&self, _: &str, _: Digest, _: u64, _: u64) {}
}

/// One per component and not per instance: whoever traps and starts afresh has no new budget.
pub(crate) struct Voice {
    log: Arc<dyn PolicyLog>,
    digest: Digest,
    /// Known once the component has described itself.
    name: OnceLock<String>,
    limits: Limits,
    spent: Mutex<Spent>,
}

struct Spent {
    since: Instant,
    bytes: usize,
    gauges: BTreeSet<String>,
    lines_dropped: u64,
    gauges_dropped: u64,
}

impl Voice {
    pub(crate) fn new(log: Arc<dyn PolicyLog>, digest: Digest, limits: Limits) -> Self {
        let spent =
            Spent { since: Instant::now(), bytes: 0, gauges: BTreeSet::new(), lines_dropped: 0, gauges_dropped: 0 };
        Self { log, digest, name: OnceLock::new(), limits, spent: Mutex::new(spent) }
    }

    pub(crate) fn call_it(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    pub(crate) fn line(&self, level: u8, message: &str) {
        let mut spent = self.spent();
        let end = message.floor_char_boundary(self.limits.log_line_bytes);
        // An empty line costs something, too.
        let cost = end.max(1);
        if spent.bytes + cost > self.limits.log_bytes_per_second {
            spent.lines_dropped += 1;
            return;
        }
        spent.bytes += cost;
        drop(spent);
        let level = [Level::Error, Level::Warn, Level::Info].get(usize::from(level)).copied().unwrap_or(Level::Debug);
        self.log.line(self.name(), self.digest, level, &message[..end]);
    }

    pub(crate) fn gauge(&self, name: &str, value: f64) {
        let mut spent = self.spent();
        let known = spent.gauges.contains(name);
        if !known && (spent.gauges.len() >= self.limits.metric_names || !is_gauge_name(name)) {
            spent.gauges_dropped += 1;
            return;
        }
        if !known {
            spent.gauges.insert(name.to_owned());
        }
        drop(spent);
        self.log.gauge(self.name(), self.digest, name, value);
    }

    fn name(&self) -> &str {
        self.name.get().map_or("unnamed", String::as_str)
    }

    /// The account of the second that runs; what the last one dropped is reported when it is over.
    fn spent(&self) -> std::sync::MutexGuard<'_, Spent> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(spent.since) >= Duration::from_secs(1) {
            let (lines, gauges) = (spent.lines_dropped, spent.gauges_dropped);
            (spent.since, spent.bytes, spent.lines_dropped, spent.gauges_dropped) = (now, 0, 0, 0);
            if lines + gauges > 0 {
                self.log.dropped(self.name(), self.digest, lines, gauges);
            }
        }
        spent
    }
}

fn is_gauge_name(name: &str) -> bool {
    let head = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let mut bytes = name.bytes();
    name.len() <= 64 && bytes.next().is_some_and(head) && bytes.all(|byte| head(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::DeploymentClass;

    #[derive(Default)]
    struct Listener {
        bytes: Mutex<Vec<usize>>,
        gauges: Mutex<Vec<String>>,
    }

    impl PolicyLog for Listener {
        fn line(&self, _: &str, _: Digest, _: Level, message: &str) {
            self.bytes.lock().unwrap().push(message.len());
        }

        fn gauge(&self, _: &str, _: Digest, name: &str, _: f64) {
            self.gauges.lock().unwrap().push(name.to_owned());
        }

        fn dropped(&self, _: &str, _: Digest, _: u64, _: u64) {}
    }

    fn voice() -> (Arc<Listener>, Voice) {
        let listener = Arc::new(Listener::default());
        let limits = Limits::of(DeploymentClass::Standard);
        (Arc::clone(&listener), Voice::new(listener, Digest::NATIVE, limits))
    }

    #[test]
    fn a_line_is_cut_at_a_kibibyte_and_a_second_holds_sixteen() {
        let (listener, voice) = voice();
        let line = "ü".repeat(5000);
        (0..100).for_each(|_| voice.line(2, &line));
        assert_eq!(*listener.bytes.lock().unwrap(), [1024; 16]);
        voice.line(2, "");
        assert_eq!(voice.spent.lock().unwrap().lines_dropped, 85);
    }

    #[test]
    fn gauges_are_bounded_in_number_and_checked_in_name() {
        let (listener, voice) = voice();
        for name in ["", "9lives", "Upper", "a-b", "x".repeat(65).as_str()] {
            voice.gauge(name, 1.0);
        }
        (0..100).for_each(|number| voice.gauge(&format!("gauge_{number}"), 1.0));
        voice.gauge("gauge_0", 2.0);
        assert_eq!(listener.gauges.lock().unwrap().len(), 65);
        assert_eq!(voice.spent.lock().unwrap().gauges_dropped, 41);
    }
}
