//! Hostile policies against a live server: whatever they do, every stream ends with the right answer.
//!
//! What one guest does to one call is tested beside the runtime; here it is what becomes of the server.

use sluice_tests::{ADMISSION, BATCHING, DESCRIBE, Guest, ROUTING};

use crate::server::{Server, content, join_all};

/// What becomes of a guest.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    /// It is never let in: the probe, or the loading, shows what it is.
    Refused,
    /// It comes in, faults, and is thrown out: the revision before returns.
    Quarantined,
    /// It comes in and stays: what it does is bad, not forbidden.
    Tolerated,
}

/// So many faults within a minute throw a policy out.
const STRIKES: usize = 3;

async fn check(guest: &Guest, mode: &str, fate: Fate) {
    let server = Server::start(&["--max-num-seqs", "8"]);
    let question = "What is a policy?";
    let right = server.ask(question, 12).await;
    let before = server.active(guest.slot).await;

    let (status, body) = server.deploy(guest.component, &[("config", &Guest::config(mode))]).await;
    assert_eq!(status.is_success(), fate != Fate::Refused, "{mode}: {status} {body}");

    for _ in 0..STRIKES + 1 {
        let answers = join_all((0..4).map(|_| server.stream(question, 12))).await;
        for answer in answers {
            assert_eq!((answer.error, answer.text.as_str()), (None, content(&right)), "{mode}");
        }
        if fate == Fate::Quarantined {
            // A checkpoint, which some guests trap in, comes every few seconds.
            tokio::time::sleep(std::time::Duration::from_millis(5100)).await;
        }
    }
    server.assert_idle_and_empty().await;
    let stayed = server.active(guest.slot).await != before;
    assert_eq!(stayed, fate == Fate::Tolerated, "{mode}: {}", server.active(guest.slot).await);
    let quarantined = server.slot(guest.slot).await["quarantined"].as_array().unwrap().len();
    assert_eq!(quarantined > 0, fate == Fate::Quarantined, "{mode}");
}

macro_rules! guests {
    ($($name:ident: $guest:ident, $mode:literal, $fate:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            check(&$guest, $mode, Fate::$fate).await;
        }
    )*};
}

guests! {
    describing_with_a_trap: DESCRIBE, "honest", Refused;

    batching_trap_in_configure: BATCHING, "trap-configure", Refused;
    batching_endless_configure: BATCHING, "endless-configure", Refused;
    batching_trap_in_plan: BATCHING, "trap-plan", Refused;
    batching_endless_loop: BATCHING, "endless-loop", Refused;
    batching_memory_hog: BATCHING, "memory-hog", Refused;
    batching_stack_overflow: BATCHING, "stack-overflow", Refused;
    batching_giant_result: BATCHING, "giant-result", Refused;
    batching_unknown_ids: BATCHING, "unknown-ids", Refused;
    batching_duplicate_ids: BATCHING, "duplicate-ids", Quarantined;
    batching_trap_in_observe: BATCHING, "trap-observe", Quarantined;
    batching_trap_in_export_state: BATCHING, "trap-export-state", Quarantined;
    batching_gigabyte_of_state: BATCHING, "gigabyte-state", Quarantined;
    batching_that_starts_nothing: BATCHING, "never-schedule", Tolerated;
    batching_huge_budgets: BATCHING, "huge-budgets", Tolerated;
    batching_preempting_everything: BATCHING, "preempt-all", Tolerated;
    batching_log_flood: BATCHING, "log-flood", Tolerated;
    batching_metric_flood: BATCHING, "metric-flood", Tolerated;

    admission_trap_in_admit: ADMISSION, "trap-admit", Refused;
    admission_degrading_to_nothing: ADMISSION, "degrade-to-nothing", Refused;
    admission_giant_reason: ADMISSION, "giant-reason", Refused;

    routing_trap_in_rank: ROUTING, "trap-rank", Refused;
    routing_unknown_ids: ROUTING, "unknown-ids", Refused;
    routing_nothing: ROUTING, "nothing", Refused;
    routing_nan_costs: ROUTING, "nan-costs", Refused;
}

#[tokio::test]
async fn a_budget_of_nothing_costs_a_second_a_step_and_no_more() {
    let server = Server::start(&[]);
    server.install(BATCHING.component, &Guest::config("zero-budgets")).await;
    let answer = server.stream("What is a policy?", 3).await;
    assert_eq!((answer.error, answer.finish_reason.as_deref()), (None, Some("length")));
    assert!(server.metric("sluice_policy_overrides_total", "work-conservation").await >= 3.0);
}

#[tokio::test]
async fn an_admission_policy_may_turn_everybody_away_until_it_is_taken_back() {
    let server = Server::start(&[]);
    server.install(ADMISSION.component, &Guest::config("reject-all")).await;
    let response = server.post("/v1/chat/completions", &crate::server::chat("hello", 4)).await;
    assert!(matches!(response.status().as_u16(), 429 | 503) && response.headers().contains_key("retry-after"));
    server.rollback("admission").await;
    assert!(!content(&server.ask("hello", 4).await).is_empty());
}

#[tokio::test]
async fn a_quarantined_digest_does_not_come_back() {
    let server = Server::start(&[]);
    server.install(BATCHING.component, &Guest::config("trap-observe")).await;
    for _ in 0..8 {
        server.ask("hello", 4).await;
    }
    let (status, body) = server.deploy(BATCHING.component, &[("config", &Guest::config("honest"))]).await;
    assert_eq!((status.as_u16(), body["error"]["code"].as_str()), (409, Some("quarantined")), "{body}");
}
