//! Sends requests when they are due and keeps what came of each.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::Connect;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::alarm::wake_at;
use crate::answer::{Answer, Origin};
use crate::caller::Caller;
use crate::exchange::{Manner, exchange};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::record::{Asked, Record};
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
    /// One of each request, those that were cut short too, in the order of the plan.
    pub(crate) records: Vec<Record>,
    /// By the user, who had seen enough.
    pub(crate) stopped: bool,
}

/// When a request is sent, and the room that it takes up.
struct Turn {
    planned: Duration,
    place: OwnedSemaphorePermit,
}

/// A request on its way, with what is known of it should its task be lost.
struct Running {
    index: u64,
    asked: Asked,
    planned: Duration,
    task: JoinHandle<Record>,
}

impl Running {
    async fn record(self) -> Record {
        let Self { index, asked, planned, task } = self;
        let held = Duration::ZERO;
        let lost = || Answer::none(Failure::Generator, planned);
        task.await.unwrap_or_else(|_| Record { index, asked, planned, held, sent: planned, answer: lost() })
    }
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
    running: Vec<Running>,
    /// Set once, when everything is to end where it is.
    cut: watch::Sender<bool>,
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
            running: Vec::new(),
            cut: watch::Sender::new(false),
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
        self.finish(&mut driven, stop).await;
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
        let (progress, mut cut) = (Arc::clone(&self.progress), self.cut.subscribe());
        let PlannedRequest { index, body, asked, .. } = request;
        let Turn { planned, place } = turn;
        let task = tokio::spawn(async move {
            let (slot, held) = match slots {
                Some(slots) => slot(slots, origin, &mut cut).await,
                None => (None, Duration::ZERO),
            };
            let sent = origin.elapsed();
            if *cut.borrow() {
                return Record { index, asked, planned, held, sent, answer: Answer::none(Failure::CutShort, sent) };
            }
            progress.sent();
            let answer = exchange(&caller, manner, origin, body, &asked, end(&mut cut)).await;
            progress.ended(answer.failure.is_none());
            drop((slot, place));
            Record { index, asked, planned, held, sent, answer }
        });
        self.running.push(Running { index, asked, planned, task });
    }

    /// Waits for the last answer. Once it is stopped, every answer ends as far as it came.
    async fn finish(self, driven: &mut Driven, mut stop: Pin<&mut impl Future<Output = ()>>) {
        self.cut.send_replace(driven.stopped);
        for running in self.running {
            let mut record = pin!(running.record());
            let over = tokio::select! {
                biased;
                () = &mut stop, if !driven.stopped => None,
                record = &mut record => Some(record),
            };
            driven.records.push(match over {
                Some(record) => record,
                None => {
                    driven.stopped = true;
                    self.cut.send_replace(true);
                    record.await
                }
            });
        }
    }
}

/// Ready when the load is to end, or its driver is gone.
async fn end(cut: &mut watch::Receiver<bool>) {
    // A driver that is gone is an error, and there is no other.
    let _ = cut.wait_for(|cut| *cut).await;
}

/// Waits for room under the cap or for the end, and says how long. Where there is room, it takes no time at all.
async fn slot(
    slots: Arc<Semaphore>,
    origin: Origin,
    cut: &mut watch::Receiver<bool>,
) -> (Option<OwnedSemaphorePermit>, Duration) {
    if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
        return (Some(slot), Duration::ZERO);
    }
    let began = origin.elapsed();
    let slot = tokio::select! {
        biased;
        () = end(cut) => None,
        slot = slots.acquire_owned() => slot.ok(),
    };
    (slot, origin.elapsed().saturating_sub(began))
}
