//! The engine's threads: one dispatcher for the pool, one per replica. The loops are here; what they drive is not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluice_core::view::BatchingView;
use sluice_core::{
    BatchingPolicy, Clock, DeviceReadings, Executor, ExecutorError, Instantiate, Nanos, Observer, ReplicaId,
};
use sluice_engine::handle::{PoolCommand, PoolHandle};
use sluice_engine::link::{ReplicaInlet, ReplicaPort, ToReplica, link};
use sluice_engine::order::{OrderSender, Prepared, Seats, Stopped};
use sluice_engine::pool::{Pool, PoolConfig, PoolOrder};
use sluice_engine::replica::{Replica, ReplicaConfig};

use crate::mailbox::{Closed, Mailbox};

/// Makes a replica's executor, on the replica's own thread.
pub type MakeExecutor = Arc<dyn Fn(ReplicaId) -> Result<Box<dyn Executor>, ExecutorError> + Send + Sync>;

/// The batching revision that a restarted replica takes up.
pub type Committed = Arc<dyn Fn() -> Option<Arc<dyn Instantiate<dyn BatchingPolicy>>> + Send + Sync>;

/// What the threads are made of.
pub struct EngineParts {
    pub pool: PoolConfig,
    /// One per replica.
    pub replicas: Vec<ReplicaConfig>,
    pub executor: MakeExecutor,
    pub committed: Committed,
    pub observer: Arc<dyn Observer>,
    /// What the cards under the replicas say.
    pub devices: Arc<dyn DeviceReadings>,
}

/// The running threads. Dropping it stops them.
pub struct Engine {
    handle: PoolHandle,
    seats: Seats,
    stop: Arc<AtomicBool>,
    readiness: Readiness,
    pool_mail: Arc<Mailbox<PoolMail>>,
    bells: Vec<Arc<Mailbox<()>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Whether requests are taken: cheap enough for everybody who asks.
pub type Readiness = Arc<dyn Fn() -> bool + Send + Sync>;

/// The pool's end of a replica's link, which a restart replaces.
type CurrentPort = Arc<Mutex<ReplicaPort>>;

enum PoolMail {
    Command(PoolCommand),
    Order(PoolOrder),
    Replace(ReplicaId, ReplicaPort),
}

/// How long after a loss a replica comes back, at first and at the most.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Time since the engine was started.
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the engine's threads cannot be started")]
    Threads(#[from] std::io::Error),
    #[error("replica {replica} cannot be started: {error}")]
    Executor { replica: u32, error: ExecutorError },
    #[error("a replica cannot be started: making its executor panicked")]
    Panicked,
}

/// Hears once per replica how its first executor was made.
type FirstExecutor = Sender<(ReplicaId, Result<(), ExecutorError>)>;

impl Engine {
    /// Returns when every replica has its executor.
    pub fn start(parts: EngineParts, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (made, executors) = channel();
        let pool_mail = Arc::new(Mailbox::default());
        let mut threads = Vec::new();
        let (mut ports, mut bells, mut currents) = (Vec::new(), Vec::new(), Vec::new());
        for config in &parts.replicas {
            let runner = Runner {
                config: *config,
                executor: Arc::clone(&parts.executor),
                committed: Arc::clone(&parts.committed),
                observer: Arc::clone(&parts.observer),
                devices: Arc::clone(&parts.devices),
                clock: Arc::clone(clock),
                bell: Arc::new(Mailbox::default()),
                pool_mail: Arc::clone(&pool_mail),
                stop: Arc::clone(&stop),
            };
            let (port, inlet) = runner.link();
            let current = Arc::new(Mutex::new(port.clone()));
            ports.push(port);
            bells.push(Arc::clone(&runner.bell));
            currents.push(Arc::clone(&current));
            let name = format!("replica-{}", config.id.0);
            let made = made.clone();
            threads.push(thread::Builder::new().name(name).spawn(move || runner.run(inlet, &current, made))?);
        }
        drop(made);
        let pool = Pool::new(parts.pool, ports, parts.observer);
        let dispatcher =
            Dispatcher { pool, mail: Arc::clone(&pool_mail), clock: Arc::clone(clock), stop: Arc::clone(&stop) };
        threads.push(thread::Builder::new().name("dispatcher".into()).spawn(move || dispatcher.run())?);
        let (handle, seats) = (pool_handle(&pool_mail, clock), all_seats(&pool_mail, &currents));
        let readiness = readiness(&pool_mail, currents);
        let engine = Self { handle, seats, readiness, stop, pool_mail, bells, threads };
        for _ in &engine.bells {
            let (ReplicaId(replica), made) = executors.recv().map_err(|_| StartError::Panicked)?;
            made.map_err(|error| StartError::Executor { replica, error })?;
        }
        Ok(engine)
    }

    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    pub fn seats(&self) -> Seats {
        self.seats.clone()
    }

    /// The dispatcher is there, and a replica that was not lost. No thread that steps is asked.
    pub fn readiness(&self) -> Readiness {
        Arc::clone(&self.readiness)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.pool_mail.wake();
        self.bells.iter().for_each(|bell| bell.wake());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread had panicked");
            }
        }
    }
}

struct Dispatcher {
    pool: Pool,
    mail: Arc<Mailbox<PoolMail>>,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
}

impl Dispatcher {
    fn run(mut self) {
        let mut letters = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            self.mail.take(&mut letters);
            for letter in letters.drain(..) {
                self.read(letter);
            }
            let now = self.clock.now();
            self.pool.events(now);
            let wake = self.pool.tick(now);
            self.mail.wait(wake.map(|at| Duration::from_nanos(at.saturating_sub(self.clock.now()))));
        }
    }

    fn read(&mut self, letter: PoolMail) {
        let now = self.clock.now();
        match letter {
            PoolMail::Command(PoolCommand::Offer(requests)) => self.pool.offer(&requests, now),
            PoolMail::Command(PoolCommand::Finish(id, reason)) => self.pool.finish(id, reason, now),
            PoolMail::Order(order) => self.pool.order(order, &*self.clock),
            PoolMail::Replace(id, port) => {
                self.pool.events(now);
                self.pool.replace(id, port);
            }
        }
    }
}

/// However the dispatcher ends, nobody waits for it: what it held and what it was sent are dropped, which ends the
/// requests among them, and nothing more is taken.
impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.mail.close();
        if thread::panicking() {
            tracing::error!("the dispatcher panicked: no request is served until the server is restarted");
        }
    }
}

/// One replica's thread, over all its lives.
struct Runner {
    config: ReplicaConfig,
    executor: MakeExecutor,
    committed: Committed,
    observer: Arc<dyn Observer>,
    devices: Arc<dyn DeviceReadings>,
    clock: Arc<dyn Clock>,
    bell: Arc<Mailbox<()>>,
    pool_mail: Arc<Mailbox<PoolMail>>,
    stop: Arc<AtomicBool>,
}

impl Runner {
    fn link(&self) -> (ReplicaPort, ReplicaInlet) {
        let (bell, pool) = (Arc::clone(&self.bell), Arc::clone(&self.pool_mail));
        link(self.config.first_report(), Arc::new(move || bell.wake()), Arc::new(move || pool.wake()))
    }

    fn run(self, mut inlet: ReplicaInlet, current: &Mutex<ReplicaPort>, made: FirstExecutor) {
        let mut made = Some(made);
        let mut pause = RESTART_AFTER.0;
        loop {
            let begin = Instant::now();
            // A panic in here is one replica's loss, not the server's.
            let life = catch_unwind(AssertUnwindSafe(|| self.live(inlet, made.take())));
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let replica = self.config.id.0;
            match life {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(replica, %error, "replica lost; it restarts"),
                Err(_) => tracing::error!(replica, "replica panicked; it restarts"),
            }
            if begin.elapsed() > RESTART_AFTER.1 {
                pause = RESTART_AFTER.0;
            }
            self.bell.wait_unless(&self.stop, pause);
            pause = (pause * 2).min(RESTART_AFTER.1);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let (port, fresh) = self.link();
            *hold(current) = port.clone();
            if let Err(Closed) = self.pool_mail.put(PoolMail::Replace(self.config.id, port)) {
                return;
            }
            inlet = fresh;
        }
    }

    /// From a fresh executor to its end. The inlet is dropped with the replica: that is how the pool learns of a loss.
    /// A first executor that cannot be made is not tried again: whoever starts the engine hears why.
    fn live(&self, inlet: ReplicaInlet, first: Option<FirstExecutor>) -> Result<(), ExecutorError> {
        let executor = (self.executor)(self.config.id);
        if let Some(first) = first {
            // Nobody listens any more where another replica has failed.
            drop(first.send((self.config.id, executor.as_ref().map(drop).map_err(Clone::clone))));
            if executor.is_err() {
                return Ok(());
            }
        }
        let executor = executor?;
        let observer = Arc::clone(&self.observer);
        let replica = Replica::new(self.config, executor, inlet, observer, self.clock.now());
        let mut replica = replica.with_devices(Arc::clone(&self.devices));
        if let Some(source) = (self.committed)() {
            match source.instantiate() {
                Ok(instance) => drop(replica.guard_mut().install(Prepared { source, instance }, &*self.clock)),
                Err(fault) => tracing::error!(%fault, "the committed policy could not be restored"),
            }
        }
        while !self.stop.load(Ordering::Acquire) {
            self.turn(&mut replica)?;
        }
        Ok(())
    }

    /// Plans and submits as deep as the executor goes, then collects what has finished, or sleeps.
    fn turn(&self, replica: &mut Replica) -> Result<(), ExecutorError> {
        while replica.can_submit() {
            let Some(planned) = replica.plan(&*self.clock) else { break };
            replica.submit(planned, &*self.clock)?;
        }
        if replica.steps_in_flight() > 0 {
            replica.wait()?;
            replica.collect(&*self.clock)?;
            return Ok(());
        }
        let now = self.clock.now();
        self.bell.wait(replica.wake_at(now).map(|at| Duration::from_nanos(at.saturating_sub(now))));
        Ok(())
    }
}

fn pool_handle(mail: &Arc<Mailbox<PoolMail>>, clock: &Arc<dyn Clock>) -> PoolHandle {
    let (mail, clock) = (Arc::clone(mail), Arc::clone(clock));
    PoolHandle::new(Arc::new(move |command| put(&mail, PoolMail::Command(command))), Arc::new(move || clock.now()))
}

fn all_seats(mail: &Arc<Mailbox<PoolMail>>, replicas: &[CurrentPort]) -> Seats {
    let (first, second) = (Arc::clone(mail), Arc::clone(mail));
    Seats {
        admission: Arc::new(move |order| put(&first, PoolMail::Order(PoolOrder::Admission(order)))),
        routing: Arc::new(move |order| put(&second, PoolMail::Order(PoolOrder::Routing(order)))),
        batching: replicas.iter().map(|current| batching_orders(Arc::clone(current))).collect(),
    }
}

fn batching_orders(current: CurrentPort) -> OrderSender<dyn BatchingPolicy, BatchingView> {
    Arc::new(move |order| {
        let port = hold(&current);
        if port.is_lost() {
            return Err(Stopped);
        }
        port.send(ToReplica::Order(order));
        Ok(())
    })
}

fn readiness(mail: &Arc<Mailbox<PoolMail>>, replicas: Vec<CurrentPort>) -> Readiness {
    let mail = Arc::clone(mail);
    Arc::new(move || !mail.is_closed() && replicas.iter().any(|current| !hold(current).is_lost()))
}

fn put(mail: &Mailbox<PoolMail>, letter: PoolMail) -> Result<(), Stopped> {
    mail.put(letter).map_err(|Closed| Stopped)
}

/// Nothing panics while it holds a port, so what a poisoned lock guards is whole.
fn hold(port: &Mutex<ReplicaPort>) -> MutexGuard<'_, ReplicaPort> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
