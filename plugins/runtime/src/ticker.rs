//! The clock behind the deadlines: advances the engine's epoch while calls are made, and sleeps while none are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

/// Half a millisecond, so that the shortest deadline of 2 ms is kept to within one.
pub(crate) const TICK: Duration = Duration::from_micros(500);

/// The thread goes on ticking so long after the last call: waking it costs more than a call, ticking next to nothing.
const IDLE_TICKS: u32 = 200;

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Calls in progress.
    active: AtomicU32,
    /// A call began since the last tick.
    called: AtomicBool,
    parked: AtomicBool,
    stopped: AtomicBool,
}

/// Keeps the ticker going while a call is in progress.
pub(crate) struct Ticking<'a>(&'a Shared);

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (engine, theirs) = (engine.weak(), Arc::clone(&shared));
        let join = std::thread::Builder::new().name("sluice-epoch".to_owned()).spawn(move || tick(&engine, &theirs))?;
        Ok(Self { thread: join.thread().clone(), shared, join: Some(join) })
    }

    /// To be held during a call.
    pub(crate) fn enter(&self) -> Ticking<'_> {
        self.shared.active.fetch_add(1, Ordering::SeqCst);
        self.shared.called.store(true, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(&self.shared)
    }

    /// The ticks of a first deadline; the second, two ticks later, is the one that counts.
    pub(crate) fn ticks(deadline: Duration) -> u64 {
        let ticks = deadline.as_nanos() / TICK.as_nanos();
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_sub(1).max(1)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            // A ticker that panicked has nothing left to stop.
            let _ = join.join();
        }
    }
}

fn tick(engine: &EngineWeak, shared: &Shared) {
    let mut idle = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        std::thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        let busy = shared.called.swap(false, Ordering::SeqCst) || shared.active.load(Ordering::SeqCst) > 0;
        idle = if busy { 0 } else { idle + 1 };
        if idle >= IDLE_TICKS {
            park(shared);
            idle = 0;
        }
    }
}

/// Says that it sleeps before it looks for calls a last time, so that no call is missed.
fn park(shared: &Shared) {
    shared.parked.store(true, Ordering::SeqCst);
    while !shared.called.load(Ordering::SeqCst) && !shared.stopped.load(Ordering::SeqCst) {
        std::thread::park();
    }
    shared.parked.store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticker_parks_when_idle_and_wakes_for_a_call() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).unwrap();
        let ticker = Ticker::start(&engine).unwrap();
        let parked = || ticker.shared.parked.load(Ordering::SeqCst);
        let wait = |wanted: bool| {
            (0..2000).any(|_| {
                std::thread::sleep(Duration::from_millis(1));
                parked() == wanted
            })
        };
        assert!(wait(true), "never parks");
        let call = ticker.enter();
        assert!(wait(false), "never wakes");
        drop(call);
        assert!(wait(true), "never parks again");
    }
}
