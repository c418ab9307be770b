//! Deployments against an engine of two replicas whose seats are threads.

use std::time::Instant;

use sluice_core::{FaultKind, PolicyFault};
use sluice_engine::order::Prepared;
use sluice_engine::recorder::Recording;

use super::*;
use crate::audit::tests::FullDisk;
use crate::fake::{Gate, TextLoader, engine};

fn control(answer_ms: u64) -> (Arc<Control>, [Gate; 3]) {
    let limits = ControlLimits {
        answer: Duration::from_millis(answer_ms),
        status: Duration::from_millis(20),
        history: 100,
        configuration_bytes: 64,
    };
    let control = Control::new(parts(limits, None));
    let (seats, gates) = engine();
    control.connect(seats);
    (Arc::new(control), gates)
}

fn parts(limits: ControlLimits, audit: Option<Audit>) -> ControlParts {
    ControlParts { loader: Arc::new(TextLoader), clock: Arc::new(|| 42), limits, versions: versions(), audit }
}

fn versions() -> HostVersions {
    HostVersions { host: "1".to_owned(), wasmtime: "2".to_owned(), interface: "3".to_owned() }
}

fn request(component: &str) -> DeployRequest<'_> {
    DeployRequest {
        component: component.as_bytes(),
        config: None,
        class: DeploymentClass::Standard,
        slot: None,
        by: "test",
    }
}

fn source(component: &str) -> Source<Batching> {
    let loaded = TextLoader.load(component.as_bytes(), DeploymentClass::Standard).unwrap();
    Batching::source(&loaded.revision("{}")).unwrap()
}

fn slot(control: &Control, slot: Slot) -> SlotReport {
    control.status().into_iter().find(|report| report.slot == slot.as_str()).unwrap()
}

fn active(control: &Control) -> Vec<Option<String>> {
    slot(control, Slot::Batching).seats.into_iter().map(|seat| seat.active).collect()
}

fn stages(report: &SlotReport) -> Vec<Stage> {
    report.committed.as_ref().unwrap().stages.iter().map(|stage| stage.stage).collect()
}

#[test]
fn a_deployment_takes_every_seat_of_its_slot() {
    let (control, _gates) = control(5000);
    for component in ["admission open 1.0", "routing even 1.0", "batching calm 1.0"] {
        let done = control.deploy(&request(component)).unwrap();
        assert!(!done.mixed);
        let seats = if done.slot == "batching" { 2 } else { 1 };
        assert_eq!(done.seats.len(), seats);
        assert!(done.seats.iter().all(|(_, outcome)| matches!(
            outcome,
            Outcome::Committed { handover, pause_ns: 1000, .. } if handover == "imported"
        )));
        let report = slot(&control, done.slot.parse().unwrap());
        assert_eq!((report.mixed, report.committed_seats), (false, seats));
        assert_eq!(stages(&report), [Stage::Verified, Stage::Compiled, Stage::Probed, Stage::Active]);
    }
    assert_eq!(control.committed(Slot::Routing).unwrap().id().name, "even");
    assert_eq!(control.history().len(), 3);
}

#[test]
fn what_cannot_be_prepared_changes_nothing() {
    let (control, gates) = control(200);
    control.deploy(&request("batching calm 1.0")).unwrap();
    let before = (slot(&control, Slot::Batching), active(&control));
    let long = format!("{{\"key\": \"{}\"}}", "x".repeat(64));
    let cases: [(DeployRequest<'_>, &str); 7] = [
        (request("nonsense"), "not a WebAssembly component"),
        (request("steering calm 1.0"), "implement one of the worlds"),
        (request("batching refuses 1.0"), "unknown key `speed`"),
        (request("batching traps 1.0"), "failed its probe on batching/0"),
        (DeployRequest { config: Some("[]"), ..request("batching calm 2.0") }, "not a JSON object"),
        (DeployRequest { config: Some(&long), ..request("batching calm 2.0") }, "at most 64"),
        (DeployRequest { slot: Some(Slot::Routing), ..request("batching calm 2.0") }, "is a policy for batching"),
    ];
    for (request, message) in &cases {
        let error = control.deploy(request).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    // A replica in a step that does not end: the other one must not change either.
    let error = gates[1].hold(|| control.deploy(&request("batching calm 2.0"))).unwrap_err();
    assert!(error.to_string().contains("batching/1 did not answer"), "{error}");

    assert_eq!((slot(&control, Slot::Batching), active(&control)), before);
    let refused = control.history().iter().filter(|entry| entry.outcome == "refused").count();
    assert_eq!(refused, cases.len() + 1);
}

#[test]
fn the_status_is_mixed_until_the_last_seat_has_committed() {
    let (control, gates) = control(5000);
    control.deploy(&request("batching calm 1.0")).unwrap();
    // The second replica answers its snapshot, then sits in a step until the status was asked.
    let source = source("batching calm 2.0");
    let candidate = TextLoader.load(b"batching calm 2.0", DeploymentClass::Standard).unwrap();
    let known = control.known(candidate.as_ref(), "{}", 17, 0);
    assert!(control.seating.ledger().commit(Slot::Batching, known).is_ok());
    let seats = control.seating.seats().unwrap();
    gates[1].hold(|| {
        for sender in &seats.batching {
            let prepared = Prepared { source: Arc::clone(&source), instance: source.instantiate().unwrap() };
            let _answer = ask(sender, |reply| Order::Install { prepared, reply }).unwrap();
        }
        let report = slot(&control, Slot::Batching);
        assert_eq!((report.mixed, report.committed_seats), (true, 1));
        assert_eq!(report.seats[1].decisions, None);
        assert_eq!(report.committed.unwrap().version, "2.0");
    });
    let report = slot(&control, Slot::Batching);
    assert_eq!((report.mixed, report.committed_seats), (false, 2));
}

#[test]
fn a_seat_that_commits_late_is_reported_as_pending() {
    let (control, gates) = control(100);
    let source = source("batching calm 1.0");
    let outcomes = gates[0].hold(|| {
        let seats = Batching::seats(control.seating.seats().unwrap());
        control.seating.install(Seating::prepare::<Batching>(&source, seats).unwrap())
    });
    assert_eq!(outcomes[0].1, Outcome::Pending);
    assert!(matches!(outcomes[1].1, Outcome::Committed { .. }));
}

#[test]
fn rollback_goes_there_and_back() {
    let (control, _gates) = control(5000);
    assert_eq!(control.rollback(Slot::Batching, "test"), Err(RollbackError::NoPrevious(Slot::Batching)));
    control.deploy(&request("batching calm 1.0")).unwrap();
    assert_eq!(control.rollback(Slot::Batching, "test"), Err(RollbackError::NoPrevious(Slot::Batching)));
    control.deploy(&request("batching calm 2.0")).unwrap();
    for version in ["1.0", "2.0", "1.0"] {
        let done = control.rollback(Slot::Batching, "test").unwrap();
        assert_eq!(done.revision.version, version);
        assert!(
            active(&control).iter().all(|active| active.as_deref().unwrap().starts_with(&format!("calm@{version}")))
        );
        assert!(!slot(&control, Slot::Batching).mixed);
    }
    for _ in 0..100 {
        control.rollback(Slot::Batching, "test").unwrap();
    }
    assert!(stages(&slot(&control, Slot::Batching)).len() <= 32);
    assert_eq!(stages(&slot(&control, Slot::Batching))[0], Stage::Verified);
}

fn strike_out(control: &Control, replica: u32, component: &str, returned: Option<&RevisionId>) {
    let digest = Digest::of(component.as_bytes());
    let fault = PolicyFault { policy: "wild".to_owned(), digest, kind: FaultKind::Deadline };
    let seat = Seat { slot: Slot::Batching, replica: Some(sluice_core::ReplicaId(replica)) };
    control.observe(&EngineEvent::Fallback { seat, fault: &fault });
    control.observe(&EngineEvent::Quarantined { seat, digest, returned, fault: &fault });
}

/// Waits until each replica's active and previous revisions begin like these, and the status is not mixed.
fn check_seats(control: &Control, expected: [[Option<&str>; 2]; 2]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let report = slot(control, Slot::Batching);
        let begins = |id: &Option<String>, expected: Option<&str>| match (id, expected) {
            (Some(id), Some(expected)) => id.starts_with(expected),
            (id, expected) => id.is_none() && expected.is_none(),
        };
        let seats = report.seats.iter().zip(expected);
        let right = |(seat, [active, previous]): (&SeatReport, [Option<&str>; 2])| {
            begins(&seat.active, active) && begins(&seat.previous, previous)
        };
        if seats.into_iter().all(right) && !report.mixed {
            return;
        }
        assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", report.seats);
        std::thread::yield_now();
    }
}

/// What a guard does before it tells control.
fn evict(control: &Control, replica: usize, component: &str) {
    let digest = Digest::of(component.as_bytes());
    let seats = control.seating.seats().unwrap();
    wait(ask(&seats.batching[replica], |reply| Order::Evict { digest, reply }), Duration::from_secs(5)).unwrap();
}

const CALM: &str = "batching calm 1.0";
const WILD: &str = "batching wild 1.0";

#[test]
fn what_struck_out_on_one_replica_leaves_the_others_and_does_not_come_back() {
    let (control, _gates) = control(5000);
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    evict(&control, 0, WILD);
    strike_out(&control, 0, WILD, Some(&calm));

    check_seats(&control, [[Some("calm@1.0"), None], [Some("calm@1.0"), None]]);
    let report = slot(&control, Slot::Batching);
    assert_eq!(report.previous.unwrap().stages.last().unwrap().stage, Stage::Quarantined);
    assert_eq!(control.committed(Slot::Batching).unwrap().id(), &calm);
    assert!(matches!(control.deploy(&request(WILD)), Err(DeployError::Quarantined { .. })));
    assert!(matches!(control.rollback(Slot::Batching, "test"), Err(RollbackError::Quarantined { .. })));
    let actions: Vec<_> = control.history().into_iter().map(|entry| entry.action).collect();
    assert_eq!(actions, ["deploy", "deploy", "fault", "quarantine", "deploy", "rollback"]);
}

#[test]
fn when_both_revisions_have_struck_out_the_native_rule_decides_everywhere() {
    let (control, _gates) = control(5000);
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    evict(&control, 0, WILD);
    strike_out(&control, 0, WILD, Some(&calm));
    check_seats(&control, [[Some("calm@1.0"), None], [Some("calm@1.0"), None]]);
    evict(&control, 1, CALM);
    strike_out(&control, 1, CALM, None);
    check_seats(&control, [[None, None], [None, None]]);
    assert!(control.committed(Slot::Batching).is_none());
}

#[test]
fn a_revision_that_the_ledger_does_not_know_does_not_stay_in_force() {
    let (control, _gates) = control(5000);
    let seats = Batching::seats(control.seating.seats().unwrap()).split_off(1);
    control.seating.install(Seating::prepare::<Batching>(&source(CALM), seats).unwrap());
    control.deploy(&request(WILD)).unwrap();
    check_seats(&control, [[Some("wild"), None], [Some("wild"), Some("calm")]]);
    evict(&control, 0, WILD);
    strike_out(&control, 0, WILD, None);
    check_seats(&control, [[None, None], [None, None]]);
}

#[test]
fn a_replica_that_had_restarted_takes_what_returns_elsewhere() {
    let (control, gates) = control(5000);
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    gates[1].restart();
    assert!(slot(&control, Slot::Batching).seats[1].decisions.is_none());
    evict(&control, 0, WILD);
    strike_out(&control, 0, WILD, Some(&calm));
    check_seats(&control, [[Some("calm@1.0"), None], [Some("calm@1.0"), None]]);
}

#[test]
fn a_replica_in_a_long_step_obeys_when_that_is_over() {
    let (control, gates) = control(50);
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    evict(&control, 0, WILD);
    gates[1].hold(|| {
        strike_out(&control, 0, WILD, Some(&calm));
        std::thread::sleep(Duration::from_millis(150));
    });
    let seats = [[Some("calm@1.0"), None], [Some("calm@1.0"), Some("calm@1.0")]];
    check_seats(&control, seats);
}

#[test]
fn a_deployment_that_slips_in_before_a_recall_stays() {
    let (control, _gates) = control(5000);
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    let known = |component: &str| {
        let loaded = TextLoader.load(component.as_bytes(), DeploymentClass::Standard).unwrap();
        control.known(loaded.as_ref(), "{}", component.len(), 0)
    };
    let (wild, newer) = (known(WILD), known("batching calm 2.0"));
    {
        let _turn = control.seating.turn();
        evict(&control, 0, WILD);
        strike_out(&control, 0, WILD, Some(&calm));
        let mut ledger = control.seating.ledger();
        assert!(ledger.commit(Slot::Batching, wild).is_err());
        assert!(ledger.commit(Slot::Batching, newer).is_ok());
        drop(ledger);
        let seats = Batching::seats(control.seating.seats().unwrap());
        control.seating.install(Seating::prepare::<Batching>(&source("batching calm 2.0"), seats).unwrap());
    }
    check_seats(&control, [[Some("calm@2.0"), Some("calm@1.0")], [Some("calm@2.0"), None]]);
    assert_eq!(control.rollback(Slot::Batching, "test").map(|done| done.mixed), Ok(false));
    check_seats(&control, [[Some("calm@1.0"), Some("calm@2.0")]; 2]);
}

#[test]
fn a_lost_replica_does_not_hold_up_a_deployment_and_a_dead_engine_refuses_it() {
    let (control, gates) = control(5000);
    gates[1].stop();
    let done = control.deploy(&request(CALM)).unwrap();
    assert!(matches!(done.seats[0].1, Outcome::Committed { .. }));
    assert_eq!((done.mixed, &done.seats[1].1), (true, &Outcome::Stopped));
    assert!(slot(&control, Slot::Batching).mixed);
    gates[0].stop();
    assert_eq!(control.deploy(&request("batching calm 2.0")), Err(DeployError::Stopped(Stopped)));
    assert_eq!(control.committed(Slot::Batching).unwrap().id().version, "1.0");
    assert!(control.rollback(Slot::Batching, "test").is_err());
}

#[test]
fn a_replica_that_restarts_before_the_commit_is_given_the_new_revision_too() {
    let (control, gates) = control(5000);
    control.deploy(&request(CALM)).unwrap();
    gates[1].restart();
    let done = control.deploy(&request("batching calm 2.0")).unwrap();
    assert_eq!((done.mixed, done.seats.len()), (false, 2));
    check_seats(&control, [[Some("calm@2.0"), Some("calm@1.0")], [Some("calm@2.0"), None]]);
    // It has nothing to go back to, so the revision before is installed there.
    assert_eq!(control.rollback(Slot::Batching, "test").map(|done| done.mixed), Ok(false));
    check_seats(&control, [[Some("calm@1.0"), Some("calm@2.0")]; 2]);
}

#[test]
fn one_deployment_at_a_time() {
    let (control, gates) = control(5000);
    gates[0]
        .hold(|| {
            let first = Arc::clone(&control);
            let first = std::thread::spawn(move || first.deploy(&request("batching calm 1.0")).map(drop));
            while control.deploying.try_lock().is_ok() {
                std::thread::yield_now();
            }
            assert_eq!(control.deploy(&request("routing even 1.0")), Err(DeployError::InProgress));
            assert_eq!(control.rollback(Slot::Routing, "test"), Err(RollbackError::InProgress));
            first
        })
        .join()
        .unwrap()
        .unwrap();
}

#[test]
fn a_recording_is_of_one_seat_and_names_the_host() {
    let (control, gates) = control(100);
    let nothing = control.recording(Slot::Routing, None).unwrap_err().to_string();
    assert!(nothing.contains("nothing is recorded on routing"), "{nothing}");
    for component in ["routing even 1.0", "batching calm 1.0"] {
        control.deploy(&request(component)).unwrap();
    }
    for (slot, replica) in [(Slot::Routing, None), (Slot::Batching, None), (Slot::Batching, Some(ReplicaId(1)))] {
        let recording = Recording::from_bytes(&control.recording(slot, replica).unwrap()).unwrap();
        assert_eq!(recording.versions, versions());
        assert!(recording.revisions().next().is_some());
    }
    let absent = RecordError::NoReplica { slot: Slot::Batching, replica: ReplicaId(2), last: 1 };
    assert_eq!(control.recording(Slot::Batching, Some(ReplicaId(2))), Err(absent));
    assert_eq!(control.recording(Slot::Routing, Some(ReplicaId(0))), Err(RecordError::OneSeat(Slot::Routing)));
    let late = gates[0].hold(|| control.recording(Slot::Batching, None));
    assert!(matches!(late, Err(RecordError::NoAnswer { seat, .. }) if seat == "batching/0"));
    gates[1].stop();
    let gone = control.recording(Slot::Batching, Some(ReplicaId(1)));
    assert_eq!(gone, Err(RecordError::Stopped { seat: "batching/1".to_owned() }));
}

/// A control whose audit log is on a disk that can be filled.
fn audited() -> (Arc<Control>, FullDisk, [Gate; 3]) {
    let disk = FullDisk::default();
    let audit = Audit::on(Box::new(disk.clone()));
    let control = Control::new(parts(ControlLimits::default(), Some(audit)));
    let (seats, gates) = engine();
    control.connect(seats);
    (Arc::new(control), disk, gates)
}

fn outcomes(entries: &[Entry]) -> Vec<(&str, &str)> {
    entries.iter().map(|entry| (entry.action.as_str(), entry.outcome.as_str())).collect()
}

#[test]
fn a_deployment_is_on_the_disk_before_a_seat_is_touched_and_before_it_is_done() {
    let (control, disk, _gates) = audited();
    assert!(control.rollback(Slot::Batching, "test").is_err());
    let request = DeployRequest { config: Some(r#"{"a": 1}"#), ..request(CALM) };
    control.deploy(&request).unwrap();
    let entries = disk.entries();
    assert_eq!(outcomes(&entries), [("rollback", "refused"), ("deploy", "begun"), ("deploy", "done")]);
    let digests = (Some(Digest::of(CALM.as_bytes()).to_string()), Some(Digest::of(br#"{"a": 1}"#).to_string()));
    for entry in &entries[1..] {
        assert_eq!((entry.digest.clone(), entry.config_digest.clone()), digests);
    }
    assert_eq!(entries, control.history());
    assert_eq!(control.audit_head().unwrap().sequence, 3);
}

#[test]
fn what_cannot_be_audited_is_refused_and_what_the_engine_does_goes_on() {
    let (control, disk, _gates) = audited();
    control.deploy(&request(CALM)).unwrap();
    let calm = control.committed(Slot::Batching).unwrap().id().clone();
    control.deploy(&request(WILD)).unwrap();
    disk.take(0);

    let error = control.deploy(&request("batching calm 2.0")).unwrap_err();
    assert!(matches!(error, DeployError::Audit(_)), "{error}");
    assert!(matches!(control.rollback(Slot::Batching, "test"), Err(RollbackError::Audit(_))));
    assert!(active(&control).iter().all(|active| active.as_deref().unwrap().starts_with("wild@1.0")));
    evict(&control, 0, WILD);
    strike_out(&control, 0, WILD, Some(&calm));
    check_seats(&control, [[Some("calm@1.0"), None], [Some("calm@1.0"), None]]);
    assert_eq!(disk.bytes.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 4);

    disk.take(usize::MAX);
    control.flush_audit().unwrap();
    let entries = disk.entries();
    let expected = [
        ("deploy", "begun"),
        ("deploy", "done"),
        ("deploy", "begun"),
        ("deploy", "done"),
        ("deploy", "begun"),
        ("deploy", "refused"),
        ("rollback", "begun"),
        ("rollback", "refused"),
        ("quarantine", "seen"),
    ];
    assert_eq!(outcomes(&entries), expected);
    assert_eq!(control.deploy(&request("batching calm 2.0")).map(|done| done.mixed), Ok(false));
}

#[test]
fn a_disk_that_fills_up_in_the_middle_leaves_what_began_on_it() {
    let (control, disk, _gates) = audited();
    disk.take(1);
    let error = control.deploy(&request(CALM)).unwrap_err();
    assert!(matches!(error, DeployError::Unrecorded(_)), "{error}");
    assert!(error.to_string().starts_with("deployed, but the audit log says only that it began"), "{error}");
    assert!(active(&control).iter().all(|active| active.as_deref().unwrap().starts_with("calm@1.0")));
    assert!(disk.bytes.lock().unwrap().starts_with(b"{\"sequence\":1,"));
    disk.take(usize::MAX);
    control.flush_audit().unwrap();
    assert_eq!(outcomes(&disk.entries()), [("deploy", "begun"), ("deploy", "done")]);

    control.deploy(&request(WILD)).unwrap();
    disk.take(1);
    assert!(matches!(control.rollback(Slot::Batching, "test"), Err(RollbackError::Unrecorded(_))));
    assert!(active(&control).iter().all(|active| active.as_deref().unwrap().starts_with("calm@1.0")));
}

#[test]
fn more_than_waits_for_a_full_disk_is_counted() {
    let (control, disk, _gates) = audited();
    disk.take(0);
    for _ in 0..1199 {
        control.seating.ledger().append(seen("quarantine", "batching/0".to_owned(), "wild".to_owned()));
    }
    control.deploy(&request("nonsense")).unwrap_err();
    disk.take(usize::MAX);
    control.flush_audit().unwrap();
    let entries = disk.entries();
    assert_eq!(entries.len(), 1001);
    let last = entries.last().unwrap();
    assert_eq!((last.action.as_str(), last.outcome.as_str()), ("audit", "failed"));
    assert!(last.evidence.starts_with("200 entries were lost"), "{}", last.evidence);
}

#[test]
fn whoever_deploys_at_the_same_time_the_log_is_in_the_order_of_the_history() {
    let (control, disk, _gates) = audited();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let control = &control;
            scope.spawn(move || {
                for version in 0..10 {
                    let component = format!("batching calm {thread}.{version}");
                    let deployed = control.deploy(&request(&component));
                    assert!(matches!(deployed, Ok(_) | Err(DeployError::InProgress)), "{deployed:?}");
                    strike_out(control, 0, &format!("batching other {thread}.{version}"), None);
                }
            });
        }
    });
    control.flush_audit().unwrap();
    let audited = |entry: &Entry| entry.action != "fault";
    let history: Vec<Entry> = control.history().into_iter().filter(audited).collect();
    assert_eq!(disk.entries(), history);
    let took_place = history.iter().filter(|entry| entry.action == "deploy" && entry.outcome != "refused");
    let took_place: Vec<_> = took_place.map(|entry| (entry.outcome.as_str(), &entry.digest)).collect();
    assert!(!took_place.is_empty());
    for pair in took_place.chunks(2) {
        assert_eq!(pair.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>(), ["begun", "done"]);
        assert_eq!(pair[0].1, pair[1].1);
    }
}

#[test]
fn the_history_goes_on_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut before = Vec::new();
    for _ in 0..2 {
        let control = Control::new(parts(ControlLimits::default(), Some(Audit::open(&path).unwrap())));
        assert_eq!(control.history(), before);
        control.connect(engine().0);
        control.deploy(&request(CALM)).unwrap();
        before = control.history();
    }
    assert_eq!(before.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
}
