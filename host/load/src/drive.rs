//! Sends requests when they are due and keeps what came of each.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::Connect;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::alarm::wake_at;
use crate::answer::Origin;
use crate::caller::Caller;
use crate::exchange::{Manner, exchange};
use crate::progress::Progress;
use crate::record::Record;
use crate::workload::PlannedRequest;

/// Requests that are sent or held back at the same time. A machine has as many ports to one address.
pub(crate) const MAX_OUTSTANDING: u32 = 65_536;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Requests in flight at most.
    pub(crate) cap: Option<u32>,
    /// Where requests have no time of their own, nothing is sent after this.
    pub(crate) until: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Driven {
    pub(crate) records: Vec<Record>,
    /// In flight, or held back, when the user had seen enough.
    pub(crate) cut_short: u64,
    pub(crate) stopped: bool,
}

/// When a request is sent, and the room that it takes up.
struct Turn {
    planned: Duration,
    place: OwnedSemaphorePermit,
}

pub(crate) struct Driver<C> {
    caller: Arc<Caller<C>>,
    manner: Manner,
    pace: Pace,
    progress: Arc<Progress>,
    origin: Origin,
    /// Of requests in flight.
    slots: Arc<Semaphore>,
    /// Of requests whose time has come.
    outstanding: Arc<Semaphore>,
    running: JoinSet<Record>,
}

impl<C> Driver<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    /// The load begins now.
    pub(crate) fn new(caller: &Arc<Caller<C>>, manner: Manner, pace: Pace, progress: &Arc<Progress>) -> Self {
        let permits = |count: u32| Arc::new(Semaphore::new(count as usize));
        Self {
            caller: Arc::clone(caller),
            manner,
            pace,
            progress: Arc::clone(progress),
            origin: Origin::now(),
            slots: permits(pace.cap.unwrap_or(MAX_OUTSTANDING)),
            outstanding: permits(MAX_OUTSTANDING),
            running: JoinSet::new(),
        }
    }

    /// To the last answer, or until `stop` is ready.
    pub(crate) async fn run(
        mut self,
        requests: impl Iterator<Item = PlannedRequest>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Driven {
        let mut driven = Driven::default();
        // A request is made before it is due, so that making it delays nothing.
        for request in requests {
            tokio::select! {
                biased;
                () = &mut stop => driven.stopped = true,
                turn = self.turn(request.at) => match turn {
                    Some(turn) => self.send(request, turn),
                    None => break,
                },
            }
            if driven.stopped {
                break;
            }
        }
        if !driven.stopped {
            driven.stopped = self.join(&mut driven.records, stop).await;
        }
        self.cut(&mut driven).await;
        driven.records.sort_unstable_by_key(|record| record.index);
        driven
    }

    /// Waits until a request is due, or until there is room for one without a time. None if there is none in time.
    async fn turn(&self, at: Option<Duration>) -> Option<Turn> {
        match at {
            Some(planned) => {
                wake_at(self.origin.at(planned)).await;
                let place = Arc::clone(&self.outstanding).acquire_owned().await.ok()?;
                Some(Turn { planned, place })
            }
            None => {
                let place = self.room().await?;
                Some(Turn { planned: self.origin.elapsed(), place })
            }
        }
    }

    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.slots).acquire_owned();
        match self.pace.until {
            Some(end) if self.origin.elapsed() >= end => None,
            Some(end) => timeout_at(self.origin.at(end), room).await.ok()?.ok(),
            None => room.await.ok(),
        }
    }

    fn send(&mut self, request: PlannedRequest, turn: Turn) {
        let (caller, manner, origin) = (Arc::clone(&self.caller), self.manner, self.origin);
        let slots = request.at.map(|_| Arc::clone(&self.slots));
        let progress = Arc::clone(&self.progress);
        self.running.spawn(async move {
            let (slot, held) = match slots {
                Some(slots) => slot(slots, origin).await,
                None => (None, Duration::ZERO),
            };
            let PlannedRequest { index, body, asked, .. } = request;
            progress.sent();
            let sent = origin.elapsed();
            let answer = exchange(&caller, manner, origin, body, &asked).await;
            progress.ended(answer.failure.is_none());
            drop((slot, turn.place));
            Record { index, asked, planned: turn.planned, held, sent, answer }
        });
    }

    /// Whether it was stopped before the last answer.
    async fn join(&mut self, records: &mut Vec<Record>, mut stop: Pin<&mut impl Future<Output = ()>>) -> bool {
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return true,
                joined = self.running.join_next() => match joined {
                    Some(joined) => records.extend(joined),
                    None => return false,
                },
            }
        }
    }

    /// Ends what is left, and keeps of it what was over.
    async fn cut(&mut self, driven: &mut Driven) {
        self.running.abort_all();
        while let Some(joined) = self.running.join_next().await {
            match joined {
                Ok(record) => driven.records.push(record),
                Err(_) => driven.cut_short += 1,
            }
        }
    }
}

/// Waits for room under the cap, and says how long. Where there is room, it takes no time at all.
async fn slot(slots: Arc<Semaphore>, origin: Origin) -> (Option<OwnedSemaphorePermit>, Duration) {
    if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
        return (Some(slot), Duration::ZERO);
    }
    let began = origin.elapsed();
    let slot = slots.acquire_owned().await.ok();
    (slot, origin.elapsed().saturating_sub(began))
}
