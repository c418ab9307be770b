//! How far loading has come, for whoever draws a bar.

use std::sync::atomic::{AtomicU64, Ordering};

/// Told of bytes read from the files, of all bytes of tensors in them. Called at most a few hundred times per model,
/// from the thread that loads, and not at all where weights are random. The end stays short of the total where a model
/// leaves tensors unread.
pub trait Progress: Send + Sync {
    fn advanced(&self, bytes: u64, total: u64);
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn advanced(&self, _bytes: u64, _total: u64) {}
}

/// A bar of so many steps is finer than any terminal.
const STEPS: u64 = 200;

/// Counts what was read and tells of it where a step is full.
pub(crate) struct Meter {
    progress: Box<dyn Progress>,
    total: u64,
    read: AtomicU64,
}

impl Meter {
    pub(crate) fn new(progress: Box<dyn Progress>, total: u64) -> Self {
        Self { progress, total, read: AtomicU64::new(0) }
    }

    pub(crate) fn read(&self, bytes: u64) {
        let before = self.read.fetch_add(bytes, Ordering::Relaxed);
        let after = before.saturating_add(bytes).min(self.total);
        let step = |bytes: u64| u128::from(bytes) * u128::from(STEPS) / u128::from(self.total.max(1));
        if step(after) > step(before) {
            self.progress.advanced(after, self.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Heard(Arc<Mutex<Vec<(u64, u64)>>>);

    impl Progress for Heard {
        fn advanced(&self, bytes: u64, total: u64) {
            self.0.lock().unwrap().push((bytes, total));
        }
    }

    #[test]
    fn it_speaks_seldom_and_of_the_end() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let meter = Meter::new(Box::new(Heard(Arc::clone(&heard))), 10_000_000);
        (0..1_000_000).for_each(|_| meter.read(10));
        // A tensor that is read twice, such as a tied one, goes past no end.
        meter.read(10);
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 200);
        assert_eq!(heard.last(), Some(&(10_000_000, 10_000_000)));
        assert!(heard.is_sorted());
    }
}
