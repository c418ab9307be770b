//! Takes the waking of connections off the step threads: a step wakes one task, and that task wakes the connections.
//!
//! To wake a task from outside the runtime costs a step thread microseconds, and a step has a token for every
//! sequence; handing over what is to be woken costs it a tenth of one.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The task that wakes; it ends with this.
pub(crate) struct Wakes {
    handover: Arc<Handover>,
    task: AbortHandle,
}

/// What is still to be woken.
#[derive(Default)]
pub(crate) struct Handover {
    pending: Mutex<Vec<Waker>>,
    filled: Notify,
}

impl Wakes {
    /// Within a runtime.
    pub(crate) fn start() -> Self {
        let handover = Arc::<Handover>::default();
        let task = tokio::spawn(Arc::clone(&handover).run()).abort_handle();
        Self { handover, task }
    }

    pub(crate) fn handover(&self) -> Arc<Handover> {
        Arc::clone(&self.handover)
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Handover {
    pub(crate) fn wake(&self, waker: Waker) {
        let first = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.push(waker);
            pending.len() == 1
        };
        if first {
            self.filled.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut wakers = Vec::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut wakers, &mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
            wakers.drain(..).for_each(Waker::wake);
        }
    }
}
