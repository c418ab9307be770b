//! The thread that reads the cards, and where it leaves what they said.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvml_wrapper::Nvml;
use sluice_core::{Clock, DeviceReading, DeviceReadings, ReplicaId};

use super::library::{Answer, Library};
use super::reader::Reader;

const PERIOD: Duration = Duration::from_secs(1);

/// The thread. Dropping it ends the thread, once the cards have answered what they were asked.
pub struct CardSampler {
    readings: Arc<Readings>,
    /// With what the thread listens to, which is never told anything: its end is all there is to hear.
    thread: Option<(JoinHandle<()>, Sender<Infallible>)>,
}

struct Readings {
    /// Of the card under each replica. Replicas may share one.
    uuids: Vec<Option<String>>,
    /// What each card said last. A lock is held only while a reading is copied.
    cards: BTreeMap<String, Mutex<Option<DeviceReading>>>,
}

impl CardSampler {
    /// `uuids`: of the card under each replica, as NVML and `nvidia-smi -L` write it (`GPU-…`, `MIG-…`); `None` for a
    /// replica without one. Where no replica has a card there is no thread. Where there is no NVML the log says so, and
    /// nothing is read. `clock` is the engine's.
    pub fn start(uuids: Vec<Option<String>>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::over(Nvml::init, uuids, clock)
    }

    fn over<L: Library>(
        open: impl FnOnce() -> Answer<L> + Send + 'static,
        uuids: Vec<Option<String>>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let cards = uuids.iter().flatten().map(|uuid| (uuid.clone(), Mutex::default())).collect();
        let readings = Arc::new(Readings { uuids, cards });
        let mut sampler = Self { readings: Arc::clone(&readings), thread: None };
        if readings.cards.is_empty() {
            return Ok(sampler);
        }
        let (alive, until) = channel();
        let thread = thread::Builder::new().name("cards".into()).spawn(move || match open() {
            Ok(library) => readings.renew(&library, &*clock, &until),
            Err(error) => tracing::info!("no NVML, so nothing is known of what the cards do: {error}"),
        })?;
        sampler.thread = Some((thread, alive));
        Ok(sampler)
    }

    /// What the cards say, for whoever wants to know; it may outlive the thread.
    pub fn readings(&self) -> Arc<dyn DeviceReadings> {
        Arc::clone(&self.readings) as Arc<dyn DeviceReadings>
    }
}

impl Drop for CardSampler {
    fn drop(&mut self) {
        let Some((thread, alive)) = self.thread.take() else { return };
        drop(alive);
        if thread.join().is_err() {
            tracing::error!("the thread that reads the cards had panicked");
        }
    }
}

impl Readings {
    /// Reads every card once a second until the other end of the channel is gone.
    fn renew<L: Library>(&self, library: &L, clock: &dyn Clock, until: &Receiver<Infallible>) {
        let known = self.cards.iter().filter_map(|(uuid, cell)| match library.card(uuid) {
            Ok(card) => Some((Reader::new(card), cell)),
            Err(error) => {
                tracing::warn!("NVML does not know the card {uuid}: {error}; it is not read");
                None
            }
        });
        let mut readers: Vec<_> = known.collect();
        loop {
            for (reader, cell) in &mut readers {
                let reading = reader.read(clock.now());
                *hold(cell) = Some(reading);
            }
            if !matches!(until.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }
}

impl DeviceReadings for Readings {
    fn latest(&self, replica: ReplicaId) -> Option<DeviceReading> {
        let uuid = self.uuids.get(replica.0 as usize)?.as_deref()?;
        *hold(self.cards.get(uuid)?)
    }
}

/// Nothing panics while it holds a reading, so what a poisoned lock guards is whole.
fn hold(cell: &Mutex<Option<DeviceReading>>) -> MutexGuard<'_, Option<DeviceReading>> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
