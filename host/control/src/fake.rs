//! A loader whose components are lines of text, and seats that are threads: for the tests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView, replica_state};
use sluice_core::{
    AdmissionPolicy, BatchingDecision, BatchingPolicy, CallCost, Choice, DeploymentClass, Descriptor, Digest, Events,
    FaultKind, Handover, Installed, Instantiate, LoadError, LoadedPolicy, NextFlow, Policy, PolicyFault, PolicyLoader,
    Revision, RevisionId, Route, RoutingPolicy, Slot, State, Verdict,
};
use sluice_engine::order::{NoPrevious, Order, OrderSender, Prepared, SeatStatus, Seats, Stopped};
use sluice_engine::recorder::Recorder;

/// Takes components like `batching calm 1.0`; the name decides how it behaves.
pub(crate) struct TextLoader;

/// `traps` traps when it decides, `refuses` refuses its configuration.
struct TextPolicy {
    revision: RevisionId,
}

struct Loaded {
    id: RevisionId,
    class: DeploymentClass,
    descriptor: Descriptor,
}

struct Source(RevisionId);

impl PolicyLoader for TextLoader {
    fn load(&self, component: &[u8], class: DeploymentClass) -> Result<Arc<dyn LoadedPolicy>, LoadError> {
        let text = std::str::from_utf8(component).unwrap_or("");
        let words: Vec<&str> = text.split(' ').collect();
        let [slot, name, version] = words[..] else {
            return Err(LoadError::NotAComponent { reason: "three words".into(), remedy: "Write three.".into() });
        };
        let id = RevisionId {
            slot: slot.parse().map_err(|_| LoadError::WrongWorld { exports: slot.to_owned() })?,
            name: name.to_owned(),
            version: version.to_owned(),
            digest: Digest::of(component),
            config: String::new(),
        };
        let descriptor = Descriptor { name: id.name.clone(), version: id.version.clone(), ..Descriptor::default() };
        Ok(Arc::new(Loaded { id, class, descriptor }))
    }
}

impl LoadedPolicy for Loaded {
    fn slot(&self) -> Slot {
        self.id.slot
    }

    fn digest(&self) -> Digest {
        self.id.digest
    }

    fn class(&self) -> DeploymentClass {
        self.class
    }

    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn revision(&self, config: &str) -> Revision {
        let source = Arc::new(Source(RevisionId { config: config.to_owned(), ..self.id.clone() }));
        match self.id.slot {
            Slot::Admission => Revision::Admission(source),
            Slot::Routing => Revision::Routing(source),
            Slot::Batching => Revision::Batching(source),
        }
    }
}

impl TextPolicy {
    fn fault(&self, kind: FaultKind) -> PolicyFault {
        PolicyFault { policy: self.revision.name.clone(), digest: self.revision.digest, kind }
    }

    fn decide<T>(&self, decision: T) -> Result<T, PolicyFault> {
        match self.revision.name.as_str() {
            "traps" => Err(self.fault(FaultKind::Trap("unreachable".to_owned()))),
            _ => Ok(decision),
        }
    }

    fn built(revision: &RevisionId) -> Result<Box<Self>, PolicyFault> {
        let policy = Self { revision: revision.clone() };
        match revision.name.as_str() {
            "refuses" => Err(policy.fault(FaultKind::Configuration("unknown key `speed`".to_owned()))),
            _ => Ok(Box::new(policy)),
        }
    }
}

macro_rules! source_of {
    ($($policy:ty),*) => {$(
        impl Instantiate<$policy> for Source {
            fn revision(&self) -> &RevisionId {
                &self.0
            }

            fn instantiate(&self) -> Result<Box<$policy>, PolicyFault> {
                Ok(TextPolicy::built(&self.0)?)
            }
        }
    )*};
}

source_of!(dyn AdmissionPolicy, dyn RoutingPolicy, dyn BatchingPolicy);

impl Policy for TextPolicy {
    fn observe(&mut self, _: &Events) -> Result<(), PolicyFault> {
        Ok(())
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        Ok(State::default())
    }

    fn import_state(&mut self, _: &State) -> Result<bool, PolicyFault> {
        Ok(true)
    }

    fn last_cost(&self) -> CallCost {
        CallCost::default()
    }
}

impl AdmissionPolicy for TextPolicy {
    fn admit(&mut self, _: &ArrivalView) -> Result<Verdict, PolicyFault> {
        self.decide(Verdict::Accept { priority: 0 })
    }

    fn next(&mut self, view: &FlowView) -> Result<NextFlow, PolicyFault> {
        self.decide(NextFlow::Serve { tenant: view.flows.tenant[0] })
    }
}

impl RoutingPolicy for TextPolicy {
    fn rank(&mut self, view: &RoutingView) -> Result<Route, PolicyFault> {
        self.decide(Route::Ranked(view.replicas.id.iter().map(|&replica| Choice { replica, cost: 0.0 }).collect()))
    }
}

impl BatchingPolicy for TextPolicy {
    fn plan(&mut self, _: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        self.decide(BatchingDecision { max_running: 1, token_budget: 1, ..BatchingDecision::default() })
    }
}

/// Lets the seats of a fake engine work, or holds them up as a long step would.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    stopped: Arc<AtomicBool>,
    restarts: Arc<AtomicBool>,
    step: Arc<Mutex<()>>,
}

impl Gate {
    pub(crate) fn hold<T>(&self, work: impl FnOnce() -> T) -> T {
        let _held = self.step.lock().unwrap();
        work()
    }

    /// The threads end at their next order.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// The next order is lost with everything that the seat held.
    pub(crate) fn restart(&self) {
        self.restarts.store(true, Ordering::SeqCst);
    }
}

/// Answers orders as the engine would, each in its own time.
struct FakeSeat<P: Policy + ?Sized> {
    active: Option<(Arc<dyn Instantiate<P>>, Box<P>)>,
    previous: Option<(Arc<dyn Instantiate<P>>, Box<P>)>,
}

impl<P: Policy + ?Sized + 'static> FakeSeat<P> {
    fn installed(&self) -> Installed {
        let (source, _) = self.active.as_ref().unwrap();
        Installed { revision: source.revision().clone(), handover: Handover::Imported { bytes: 5 }, pause: 1000 }
    }

    fn serve<V: Clone>(mut self, orders: &Receiver<Order<P, V>>, gate: &Gate, view: &V) {
        for order in orders {
            let _boundary = gate.step.lock().unwrap();
            if gate.stopped.load(Ordering::SeqCst) {
                return;
            }
            if gate.restarts.swap(false, Ordering::SeqCst) {
                self = FakeSeat { active: None, previous: None };
                continue;
            }
            match order {
                Order::Snapshot(reply) => reply(view.clone()),
                Order::Install { prepared: Prepared { source, instance }, reply } => {
                    self.previous = self.active.replace((source, instance));
                    reply(self.installed());
                }
                Order::Rollback(reply) => match self.previous.take() {
                    None => reply(Err(NoPrevious)),
                    Some(previous) => {
                        self.previous = self.active.replace(previous);
                        reply(Ok(self.installed()));
                    }
                },
                Order::Evict { digest, reply } => {
                    let is_evicted = |held: &mut (Arc<dyn Instantiate<P>>, Box<P>)| held.0.revision().digest == digest;
                    self.previous.take_if(is_evicted);
                    if self.active.take_if(is_evicted).is_some() {
                        self.active = self.previous.take();
                    }
                    reply(self.active.as_ref().map(|(source, _)| source.revision().clone()));
                }
                Order::Status(reply) => reply(SeatStatus {
                    active: self.active.as_ref().map(|(source, _)| source.revision().clone()),
                    previous: self.previous.as_ref().map(|(source, _)| source.revision().clone()),
                    decisions: 7,
                    fallbacks: 0,
                    strikes: 0,
                    quarantined: Vec::new(),
                }),
                Order::Record(reply) => {
                    let mut recorder = Recorder::new(1000);
                    if let Some((source, _)) = &self.active {
                        recorder.started(0, source.revision(), None);
                    }
                    reply(recorder.ring());
                }
            }
        }
    }
}

fn seat<P, V>(gate: &Gate, view: V) -> OrderSender<P, V>
where
    P: Policy + ?Sized + 'static,
    V: Clone + Send + 'static,
{
    let (sender, orders) = channel::<Order<P, V>>();
    let (gate, sender) = (gate.clone(), Mutex::new(sender));
    thread::spawn(move || FakeSeat { active: None, previous: None }.serve(&orders, &gate, &view));
    Arc::new(move |order| sender.lock().unwrap().send(order).map_err(|_| Stopped))
}

/// An engine of two replicas: one gate for each, and one for the dispatcher's two seats.
pub(crate) fn engine() -> (Seats, [Gate; 3]) {
    let gates = [Gate::default(), Gate::default(), Gate::default()];
    let mut view = RoutingView::default();
    view.replicas.id = vec![0, 1];
    view.replicas.state = vec![replica_state::READY; 2];
    let seats = Seats {
        admission: seat(&gates[2], (ArrivalView::default(), FlowView::default())),
        routing: seat(&gates[2], view),
        batching: gates[..2].iter().map(|gate| seat(gate, BatchingView::default())).collect(),
    };
    (seats, gates)
}
