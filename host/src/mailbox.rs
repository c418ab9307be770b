//! A box that many put letters in and one thread empties, sleeping while there is nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    letters: Vec<T>,
    woken: bool,
    closed: bool,
}

/// Nobody reads this box any more; the letter was dropped.
#[derive(Debug)]
pub(crate) struct Closed;

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { letters: Vec::new(), woken: false, closed: false }), changed: Condvar::new() }
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn put(&self, letter: T) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.letters.push(letter);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// For good: what was not read is dropped, and so is what comes later.
    pub(crate) fn close(&self) {
        let unread = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.letters)
        };
        // Not under the lock: whoever waits for what a letter asks is told by its end.
        drop(unread);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the next wait, or the one that is going on.
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_one();
    }

    /// Moves the letters to the end of `into`.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        into.append(&mut self.lock().letters);
    }

    /// Sleeps until there is a letter or a wake, at most so long.
    pub(crate) fn wait(&self, at_most: Option<Duration>) {
        let idle = |state: &mut State<T>| state.letters.is_empty() && !state.woken;
        let state = self.lock();
        let mut state = match at_most {
            Some(time) => self.changed.wait_timeout_while(state, time, idle).unwrap_or_else(PoisonError::into_inner).0,
            None => self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
        };
        state.woken = false;
    }

    /// Sleeps so long, whatever comes, unless `stop` is set.
    pub(crate) fn wait_unless(&self, stop: &AtomicBool, time: Duration) {
        let going_on = |_: &mut State<T>| !stop.load(Ordering::Acquire);
        let state = self.lock();
        drop(self.changed.wait_timeout_while(state, time, going_on));
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
