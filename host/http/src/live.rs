//! The answers that are being made: counted, and cut short when the server has to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use sluice_core::{Failure, RequestId};
use tokio::sync::Notify;

use crate::channel::Shared;

#[derive(Default)]
pub(crate) struct Live {
    state: Mutex<State>,
    emptied: Notify,
}

#[derive(Default)]
struct State {
    answers: HashMap<RequestId, Arc<Shared>>,
    closing: bool,
}

/// The server takes no more requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closing;

/// An answer counts as long as this lives.
pub(crate) struct LiveAnswer {
    live: Arc<Live>,
    id: RequestId,
}

/// The end of answers that count until it is written.
struct Unwritten {
    bytes: Bytes,
    _answers: Vec<Arc<LiveAnswer>>,
}

/// Bytes that keep these answers counted until the connection has written them and let go: the body that they come
/// from goes as soon as they wait to be written.
pub(crate) fn until_written(bytes: Bytes, answers: Vec<Arc<LiveAnswer>>) -> Bytes {
    Bytes::from_owner(Unwritten { bytes, _answers: answers })
}

impl AsRef<[u8]> for Unwritten {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Live {
    pub(crate) fn enter(self: &Arc<Self>, id: RequestId, channel: Arc<Shared>) -> Result<Arc<LiveAnswer>, Closing> {
        let mut state = self.state();
        if state.closing {
            return Err(Closing);
        }
        state.answers.insert(id, channel);
        Ok(Arc::new(LiveAnswer { live: Arc::clone(self), id }))
    }

    pub(crate) fn close(&self) {
        self.state().closing = true;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing
    }

    pub(crate) fn count(&self) -> usize {
        self.state().answers.len()
    }

    /// Until no answer is left.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.count() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Ends every answer that is left with an error.
    pub(crate) fn fail_all(&self, failure: &Failure) {
        let left: Vec<_> = self.state().answers.values().cloned().collect();
        left.iter().for_each(|channel| channel.fail(failure.clone()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveAnswer {
    fn drop(&mut self) {
        let mut state = self.live.state();
        state.answers.remove(&self.id);
        if state.answers.is_empty() {
            self.live.emptied.notify_waiters();
        }
    }
}
