//! The seam between the pool and a replica: offers and cancellations go in, a report and what ended come out.
//!
//! All that the pool knows of a replica passes here, so that a remote process can stand behind it later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_core::view::BatchingView;
use sluice_core::{BatchingPolicy, FinishReason, Finished, Nanos, Request, RequestId};

use crate::blocks::PrefixChange;
use crate::order::Order;

/// A request that admission let in, with what it changed about it.
#[derive(Debug)]
pub struct Admitted {
    pub request: Request,
    pub priority: i32,
    pub max_new_tokens: u32,
    /// When it came into the central queue, for the first time or after its replica was lost.
    pub queued: Nanos,
    /// How long it may wait for its first step, in the central queue and on a replica together.
    pub patience: Nanos,
    /// Set when it first is part of a step.
    pub scheduled: AtomicBool,
    /// Set with the first that is sent of its answer or of its prompt's scores: from then on it cannot be offered to another replica.
    pub started: AtomicBool,
}

pub enum ToReplica {
    Offer(Arc<Admitted>),
    Finish(RequestId, FinishReason),
    Order(Order<dyn BatchingPolicy, BatchingView>),
}

pub enum FromReplica {
    Finished(Finished),
    /// It waited beyond its patience, and the replica never had room for it. Whoever asked is still to be told.
    Expired(RequestId),
    Prefix(PrefixChange),
}

/// What a replica says of itself after each step.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Report {
    pub at: Nanos,
    pub running: u32,
    pub waiting: u32,
    pub waiting_uncached_tokens: u64,
    /// The limit in force: how many sequences may run.
    pub max_running: u32,
    pub blocks_total: u32,
    pub blocks_held: u32,
    pub block_tokens: u32,
    pub tokens_per_second: f64,
    pub ttft_average: Option<Nanos>,
    pub tpot_average: Option<Nanos>,
    pub error_rate: f64,
}

/// Wakes a thread that waits; called after something was put in its box.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    inbox: Mutex<Vec<ToReplica>>,
    outbox: Mutex<Vec<FromReplica>>,
    report: Mutex<Report>,
    lost: AtomicBool,
    wake_replica: Wake,
    wake_pool: Wake,
}

/// The pool's end.
#[derive(Clone)]
pub struct ReplicaPort {
    shared: Arc<Shared>,
}

/// The replica's end. Dropping it means that the replica is lost.
pub struct ReplicaInlet {
    shared: Arc<Shared>,
}

/// A link with both ends; the replica's limits are known from the start.
pub fn link(first_report: Report, wake_replica: Wake, wake_pool: Wake) -> (ReplicaPort, ReplicaInlet) {
    let shared = Arc::new(Shared {
        inbox: Mutex::default(),
        outbox: Mutex::default(),
        report: Mutex::new(first_report),
        lost: AtomicBool::new(false),
        wake_replica,
        wake_pool,
    });
    (ReplicaPort { shared: Arc::clone(&shared) }, ReplicaInlet { shared })
}

impl ReplicaPort {
    pub fn send(&self, message: ToReplica) {
        {
            let mut inbox = hold(&self.shared.inbox);
            // The replica sets this before it empties the box for the last time.
            if self.is_lost() {
                return;
            }
            inbox.push(message);
        }
        (self.shared.wake_replica)();
    }

    pub fn report(&self) -> Report {
        *hold(&self.shared.report)
    }

    pub fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }

    /// Moves what the replica sent to the end of `into`.
    pub fn receive(&self, into: &mut Vec<FromReplica>) {
        into.append(&mut hold(&self.shared.outbox));
    }
}

impl ReplicaInlet {
    /// Moves what the pool sent to the end of `into`.
    pub fn receive(&self, into: &mut Vec<ToReplica>) {
        into.append(&mut hold(&self.shared.inbox));
    }

    pub fn has_mail(&self) -> bool {
        !hold(&self.shared.inbox).is_empty()
    }

    /// Publishes a step's results; the pool is woken only for what it has to act on.
    pub fn publish(&self, report: Report, events: &mut Vec<FromReplica>) {
        let before = std::mem::replace(&mut *hold(&self.shared.report), report);
        let left = events.iter().any(|event| matches!(event, FromReplica::Finished(_) | FromReplica::Expired(_)));
        let wake = left || report.max_running > before.max_running;
        self.hand_over(events);
        if wake {
            (self.shared.wake_pool)();
        }
    }

    /// Leaves events for the pool to find when it looks next.
    pub fn hand_over(&self, events: &mut Vec<FromReplica>) {
        hold(&self.shared.outbox).append(events);
    }
}

impl Drop for ReplicaInlet {
    fn drop(&mut self) {
        self.shared.lost.store(true, Ordering::Release);
        // Orders that nobody will carry out: dropping them tells whoever waits for an answer.
        hold(&self.shared.inbox).clear();
        (self.shared.wake_pool)();
    }
}

/// Nothing here panics while it holds a lock, so what a poisoned one guards is whole.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
