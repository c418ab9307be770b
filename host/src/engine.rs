//! The engine's threads: one dispatcher for the pool, one per replica. The loops are here; what they drive is not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluice_core::{BatchingPolicy, Clock, Executor, ExecutorError, Instantiate, Nanos, Observer, ReplicaId};
use sluice_engine::handle::{PoolCommand, PoolHandle};
use sluice_engine::link::{ReplicaInlet, ReplicaPort, ToReplica, link};
use sluice_engine::order::{OrderSender, Prepared, Seats, Stopped};
use sluice_engine::pool::{Pool, PoolConfig, PoolOrder};
use sluice_engine::replica::{Replica, ReplicaConfig};

use crate::mailbox::Mailbox;

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
}

/// The running threads. Dropping it stops them.
pub struct Engine {
    handle: PoolHandle,
    seats: Seats,
    stop: Arc<AtomicBool>,
    pool_mail: Arc<Mailbox<PoolMail>>,
    bells: Vec<Arc<Mailbox<()>>>,
    threads: Vec<JoinHandle<()>>,
}

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

impl Engine {
    pub fn start(parts: EngineParts, clock: &Arc<dyn Clock>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let pool_mail = Arc::new(Mailbox::default());
        let mut threads = Vec::new();
        let (mut ports, mut bells, mut batching) = (Vec::new(), Vec::new(), Vec::new());
        for config in &parts.replicas {
            let runner = Runner {
                config: *config,
                executor: Arc::clone(&parts.executor),
                committed: Arc::clone(&parts.committed),
                observer: Arc::clone(&parts.observer),
                clock: Arc::clone(clock),
                bell: Arc::new(Mailbox::default()),
                pool_mail: Arc::clone(&pool_mail),
                stop: Arc::clone(&stop),
            };
            let (port, inlet) = runner.link();
            let current = Arc::new(Mutex::new(port.clone()));
            ports.push(port);
            bells.push(Arc::clone(&runner.bell));
            batching.push(batching_orders(Arc::clone(&current)));
            let name = format!("replica-{}", config.id.0);
            threads.push(thread::Builder::new().name(name).spawn(move || runner.run(inlet, &current))?);
        }
        let pool = Pool::new(parts.pool, ports, parts.observer);
        let dispatcher =
            Dispatcher { pool, mail: Arc::clone(&pool_mail), clock: Arc::clone(clock), stop: Arc::clone(&stop) };
        threads.push(thread::Builder::new().name("dispatcher".into()).spawn(move || dispatcher.run())?);
        let (handle, seats) = (pool_handle(&pool_mail, &stop, clock), pool_seats(&pool_mail, &stop, batching));
        Ok(Self { handle, seats, stop, pool_mail, bells, threads })
    }

    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    pub fn seats(&self) -> Seats {
        self.seats.clone()
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
            PoolMail::Command(PoolCommand::Offer(request)) => self.pool.offer(request, now),
            PoolMail::Command(PoolCommand::Finish(id, reason)) => self.pool.finish(id, reason, now),
            PoolMail::Order(order) => self.pool.order(order, &*self.clock),
            PoolMail::Replace(id, port) => {
                self.pool.events(now);
                self.pool.replace(id, port);
            }
        }
    }
}

/// One replica's thread, over all its lives.
struct Runner {
    config: ReplicaConfig,
    executor: MakeExecutor,
    committed: Committed,
    observer: Arc<dyn Observer>,
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

    fn run(self, inlet: ReplicaInlet, current: &Mutex<ReplicaPort>) {
        let mut inlet = inlet;
        let mut pause = RESTART_AFTER.0;
        loop {
            let begin = Instant::now();
            // A panic in here is one replica's loss, not the server's.
            let life = catch_unwind(AssertUnwindSafe(|| self.live(inlet)));
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let replica = self.config.id.0;
            match life {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(replica, %error, "replica lost; it restarts"),
                Err(_) => tracing::error!(replica, "replica panicked; it restarts"),
            }
            pause = if begin.elapsed() > RESTART_AFTER.1 { RESTART_AFTER.0 } else { (pause * 2).min(RESTART_AFTER.1) };
            self.bell.wait_unless(&self.stop, pause);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let (port, fresh) = self.link();
            *current.lock().unwrap_or_else(PoisonError::into_inner) = port.clone();
            self.pool_mail.put(PoolMail::Replace(self.config.id, port));
            inlet = fresh;
        }
    }

    /// From a fresh executor to its end. The inlet is dropped with the replica: that is how the pool learns of a loss.
    fn live(&self, inlet: ReplicaInlet) -> Result<(), ExecutorError> {
        let executor = (self.executor)(self.config.id)?;
        let observer = Arc::clone(&self.observer);
        let mut replica = Replica::new(self.config, executor, inlet, observer, self.clock.now());
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

fn pool_handle(mail: &Arc<Mailbox<PoolMail>>, stop: &Arc<AtomicBool>, clock: &Arc<dyn Clock>) -> PoolHandle {
    let (mail, stop, clock) = (Arc::clone(mail), Arc::clone(stop), Arc::clone(clock));
    PoolHandle::new(
        Arc::new(move |command| put(&mail, &stop, PoolMail::Command(command))),
        Arc::new(move || clock.now()),
    )
}

fn pool_seats(
    mail: &Arc<Mailbox<PoolMail>>,
    stop: &Arc<AtomicBool>,
    batching: Vec<OrderSender<dyn BatchingPolicy, sluice_core::view::BatchingView>>,
) -> Seats {
    let (first, second) = ((Arc::clone(mail), Arc::clone(stop)), (Arc::clone(mail), Arc::clone(stop)));
    Seats {
        admission: Arc::new(move |order| put(&first.0, &first.1, PoolMail::Order(PoolOrder::Admission(order)))),
        routing: Arc::new(move |order| put(&second.0, &second.1, PoolMail::Order(PoolOrder::Routing(order)))),
        batching,
    }
}

fn batching_orders(
    current: Arc<Mutex<ReplicaPort>>,
) -> OrderSender<dyn BatchingPolicy, sluice_core::view::BatchingView> {
    Arc::new(move |order| {
        let port = current.lock().unwrap_or_else(PoisonError::into_inner);
        if port.is_lost() {
            return Err(Stopped);
        }
        port.send(ToReplica::Order(order));
        Ok(())
    })
}

fn put(mail: &Mailbox<PoolMail>, stop: &AtomicBool, letter: PoolMail) -> Result<(), Stopped> {
    if stop.load(Ordering::Acquire) {
        return Err(Stopped);
    }
    mail.put(letter);
    Ok(())
}
