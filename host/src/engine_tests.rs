//! The real threads over an executor that fails: what becomes of requests, policy and blocks when a thread is lost.

#[path = "squeezed_tests.rs"]
mod squeezed;

use std::sync::atomic::AtomicU32;

use sluice_core::view::EngineLimits;
use sluice_core::{
    Batch, BatchingDecision, CallCost, Digest, EndOfStream, EngineEvent, Events, FinishReason, HashChain, NoDevices,
    Policy, PolicyFault, Request, RequestId, RevisionId, Sampled, SampledToken, SamplingParams, SinkClosed, Slot,
    State, StepOutput, StepTimes, TenantId, Ticket, TokenEvent, TokenSink,
};
use sluice_engine::order::{Order, Reply, SeatStatus};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCKS: u32 = 64;

#[derive(Clone, Copy, Debug)]
enum Failure {
    Error,
    Panic,
}

/// Draws the same token for every row. One step, counted over all replicas and lives, fails.
struct Failing {
    steps: Arc<AtomicU32>,
    fails_at: u32,
    failure: Failure,
    drawn: Option<(Ticket, StepOutput)>,
}

impl Executor for Failing {
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        if self.steps.fetch_add(1, Ordering::SeqCst) == self.fails_at {
            match self.failure {
                Failure::Error => return Err(ExecutorError { message: "lost for a test".into() }),
                Failure::Panic => panic!("lost for a test"),
            }
        }
        let rows = batch.rows.iter().filter(|row| row.draw.is_some());
        let sampled = rows.map(|row| (row.sequence, Sampled::Token(SampledToken::plain(7)))).collect();
        let times = StepTimes { submitted: now, finished: now, ..StepTimes::default() };
        self.drawn = Some((Ticket(batch.step), StepOutput { sampled, times, ..StepOutput::default() }));
        Ok(Ticket(batch.step))
    }

    fn collect(&mut self, _: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        Ok(self.drawn.take())
    }
}

/// What is committed: lets everything run.
struct Calm(RevisionId);

struct CalmInstance;

impl Calm {
    fn new() -> Self {
        Self(RevisionId {
            slot: Slot::Batching,
            name: "calm".into(),
            version: "1".into(),
            digest: Digest::of(b"calm"),
            config: "{}".into(),
        })
    }
}

impl Instantiate<dyn BatchingPolicy> for Calm {
    fn revision(&self) -> &RevisionId {
        &self.0
    }

    fn instantiate(&self) -> Result<Box<dyn BatchingPolicy>, PolicyFault> {
        Ok(Box::new(CalmInstance))
    }
}

impl Policy for CalmInstance {
    fn observe(&mut self, _: &Events) -> Result<(), PolicyFault> {
        Ok(())
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        Ok(State::default())
    }

    fn import_state(&mut self, _: &State) -> Result<bool, PolicyFault> {
        Ok(false)
    }

    fn last_cost(&self) -> CallCost {
        CallCost::default()
    }
}

impl BatchingPolicy for CalmInstance {
    fn plan(&mut self, view: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        let EngineLimits { max_sequences: max_running, max_batched_tokens: token_budget, .. } = view.limits;
        Ok(BatchingDecision { max_running, token_budget, ..BatchingDecision::default() })
    }
}

/// Panics on the dispatcher's thread, if it is told to, when a request comes in.
struct Watcher {
    panics: bool,
}

impl Observer for Watcher {
    fn observe(&self, event: &EngineEvent<'_>) {
        // An empty queue is told of, too, as soon as the dispatcher runs.
        assert!(!self.panics || !matches!(event, EngineEvent::Queue { requests: 1.., .. }), "panics for a test");
    }
}

#[derive(Default)]
struct Sink(Mutex<Vec<TokenEvent>>);

impl TokenSink for Sink {
    fn send(&self, event: TokenEvent) -> Result<(), SinkClosed> {
        self.0.lock().unwrap().push(event);
        Ok(())
    }
}

impl Sink {
    /// How many tokens came, and how it ended, once it has.
    fn answer(&self) -> (usize, Option<FinishReason>) {
        let events = self.0.lock().unwrap();
        let tokens = events.iter().filter(|event| matches!(event, TokenEvent::Token(_))).count();
        assert!(!events.iter().any(|event| matches!(event, TokenEvent::Rejected(_))), "{events:?}");
        match events.last() {
            Some(TokenEvent::End(EndOfStream { reason, .. })) => (tokens, Some(*reason)),
            _ => (tokens, None),
        }
    }
}

fn start(replicas: u32, fails_at: u32, failure: Failure, panics: bool) -> Engine {
    let steps = Arc::new(AtomicU32::new(0));
    let make: MakeExecutor =
        Arc::new(move |_| Ok(Box::new(Failing { steps: Arc::clone(&steps), fails_at, failure, drawn: None })));
    start_with(replicas, make, panics).unwrap()
}

fn start_with(replicas: u32, executor: MakeExecutor, panics: bool) -> Result<Engine, StartError> {
    let limits = EngineLimits {
        max_sequences: 4,
        max_batched_tokens: 64,
        block_tokens: 16,
        blocks_total: BLOCKS,
        kv_bytes_per_token: 1,
        max_model_len: 64,
    };
    let parts = EngineParts {
        pool: PoolConfig { max_model_len: 64, ..PoolConfig::default() },
        replicas: (0..replicas).map(|id| ReplicaConfig::new(ReplicaId(id), limits)).collect(),
        executor,
        committed: Arc::new(|| Some(Arc::new(Calm::new()))),
        observer: Arc::new(Watcher { panics }),
        devices: Arc::new(NoDevices),
    };
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    Engine::start(parts, &clock)
}

fn request(id: u64, sink: &Arc<Sink>) -> Request {
    Request {
        id: RequestId(id),
        tenant: TenantId(id),
        tenant_weight: 1.0,
        session: None,
        priority: 0,
        arrival: 0,
        deadline: None,
        ttft_target: None,
        tpot_target: None,
        prompt: Arc::from([1, 2, 3]),
        hashes: Arc::new(HashChain::new(b"", &[1, 2, 3], 16)),
        max_new_tokens: 5,
        stop_tokens: Arc::from([]),
        min_new_tokens: 0,
        sampling: SamplingParams::greedy(),
        prompt_logprobs: None,
        attempt: 1,
        sink: Arc::clone(sink) as Arc<dyn TokenSink>,
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A seat's answer, asked again while its replica is away.
fn ask<T: Send + 'static>(
    seat: &OrderSender<dyn BatchingPolicy, BatchingView>,
    order: impl Fn(Reply<T>) -> Order<dyn BatchingPolicy, BatchingView>,
) -> T {
    let mut answer = None;
    eventually("a seat answers", || {
        let (sender, receiver) = std::sync::mpsc::channel();
        let reply = Box::new(move |found| drop(sender.send(found)));
        answer = seat(order(reply)).ok().and_then(|()| receiver.recv_timeout(PATIENCE).ok());
        answer.is_some()
    });
    answer.unwrap()
}

fn check(replicas: u32, fails_at: u32, failure: Failure) {
    let engine = start(replicas, fails_at, failure, false);
    let ready = engine.readiness();
    assert!(ready());
    let sinks: Vec<Arc<Sink>> = (0..8).map(|_| Arc::default()).collect();
    // Together: while the only replica is away, whoever comes is turned away.
    engine.handle().offer_all((0..).zip(&sinks).map(|(id, sink)| request(id, sink)).collect()).unwrap();
    let mut was_unready = false;
    eventually("all requests end", || {
        was_unready |= !ready();
        sinks.iter().all(|sink| sink.answer().1.is_some())
    });
    assert_eq!(was_unready, replicas == 1, "{replicas} replicas, {failure:?}");
    for sink in &sinks {
        match sink.answer() {
            (5, Some(FinishReason::Length)) => {}
            // What it had sent cannot be taken back, so it is not served again.
            (tokens, Some(FinishReason::Failed)) => assert!(tokens > 0 && fails_at > 0, "{failure:?}"),
            other => panic!("{other:?} with {replicas} replicas, {failure:?} at {fails_at}"),
        }
    }
    eventually("the server is ready again", || ready());
    for seat in &engine.seats().batching {
        let status: SeatStatus = ask(seat, Order::Status);
        assert_eq!(status.active.as_ref(), Some(Calm::new().revision()));
        assert_eq!(ask(seat, Order::Snapshot).engine.blocks_free, BLOCKS);
    }
    let sink = Arc::default();
    engine.handle().offer_all(vec![request(100, &sink)]).unwrap();
    eventually("it serves as before", || sink.answer() == (5, Some(FinishReason::Length)));
}

#[test]
fn an_executor_that_cannot_be_made_is_what_the_start_says() {
    let error: MakeExecutor = Arc::new(|id| match id {
        ReplicaId(1) => Err(ExecutorError { message: "no memory for a test".into() }),
        _ => Ok(Box::new(Failing { steps: Arc::default(), fails_at: 0, failure: Failure::Error, drawn: None })),
    });
    let said = start_with(2, error, false).err().unwrap().to_string();
    assert_eq!(said, "replica 1 cannot be started: the executor failed: no memory for a test");
    let panic: MakeExecutor = Arc::new(|_| panic!("no executor for a test"));
    assert!(matches!(start_with(1, panic, false).err(), Some(StartError::Panicked)));
}

#[test]
fn a_lost_replica_comes_back_with_its_policy_and_what_had_sent_nothing_is_answered() {
    for failure in [Failure::Error, Failure::Panic] {
        for replicas in [1, 2] {
            for fails_at in [0, 2] {
                check(replicas, fails_at, failure);
            }
        }
    }
}

#[test]
fn when_the_dispatcher_is_lost_nobody_waits_and_the_server_is_not_ready() {
    let engine = start(1, u32::MAX, Failure::Error, true);
    let (handle, ready) = (engine.handle(), engine.readiness());
    assert!(ready());
    let sink = Arc::default();
    handle.offer_all(vec![request(1, &sink)]).unwrap();
    eventually("the loss shows", || !ready());
    eventually("the request is dropped", || Arc::strong_count(&sink) == 1);
    assert_eq!(handle.offer_all(vec![request(2, &sink)]), Err(Stopped));
    assert_eq!(Arc::strong_count(&sink), 1);
}

#[test]
fn what_a_stopped_engine_did_not_read_is_dropped() {
    let engine = start(1, u32::MAX, Failure::Error, false);
    let (handle, ready) = (engine.handle(), engine.readiness());
    drop(engine);
    let sink = Arc::default();
    assert_eq!(handle.offer_all(vec![request(1, &sink)]), Err(Stopped));
    assert!(!ready());
}
