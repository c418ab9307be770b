//! The batching policies side by side: the same arrivals, the same card, the same admission.
//!
//! With `--nocapture` they are shown as tables. A goodput of 30 % says that 30 of 100 requests that were offered had
//! their first token within 2 s and the others within 50 ms each on average; a refusal is a miss.

use bounded_queue::BoundedQueue;
use first_come::FirstCome;
use step_time::StepTime;
use utilization_band::UtilizationBand;

use crate::arrivals::{Arrival, poisson, trace};
use crate::card::{Card, LARGE, SMALL};
use crate::outcome::Outcome;
use crate::server::{Batching, Server, admission, batching};

/// Milliseconds to the first token and from one token to the next that a client is content with.
const TTFT: f64 = 2000.0;
const TPOT: f64 = 50.0;

/// Nobody is let in who would miss the first target by waiting alone.
const ADMISSION: &str = r#"{"max_wait_s": 2}"#;

/// What came of one load under each policy.
struct Compared {
    first_come: Outcome,
    /// With steps of 256 tokens at most, so that no prompt holds up an answer for long.
    small_steps: Outcome,
    utilization_band: Outcome,
    step_time: Outcome,
}

fn compare(card: Card, load: &str, arrivals: &[Arrival]) -> Compared {
    let row = |name, policy: &Batching| {
        let outcome = Server::new(card, &admission::<BoundedQueue>(ADMISSION), policy).serve(arrivals);
        assert_eq!(outcome.failed(), 0, "{load}, {name}: who was let in was answered");
        print_row(load, name, &outcome);
        outcome
    };
    Compared {
        first_come: row("`first-come`", &batching::<FirstCome>("{}")),
        small_steps: row("`first-come`, 256 tokens a step", &batching::<FirstCome>(r#"{"token_budget": 256}"#)),
        utilization_band: row("`utilization-band`", &batching::<UtilizationBand>("{}")),
        step_time: row("`step-time`", &batching::<StepTime>("{}")),
    }
}

#[allow(clippy::print_stdout, reason = "a table for whoever asks for it with --nocapture")]
fn print_head(card: &Card) {
    println!(
        "\n{}\n| load | policy | TTFT ms p50 / p95 / p99 | TPOT ms p50 / p95 / p99 | gap ms p99 | goodput | refused | \
         preemptions | tokens/s |\n|---|---|---|---|---|---|---|---|---|",
        card.name
    );
}

#[allow(clippy::print_stdout, reason = "a table for whoever asks for it with --nocapture")]
fn print_row(load: &str, name: &str, outcome: &Outcome) {
    let at = [0.5, 0.95, 0.99];
    let ([ttft50, ttft95, ttft99], [tpot50, tpot95, tpot99]) = (outcome.ttft(at), outcome.tpot(at));
    let [gap] = outcome.gap([0.99]);
    let (goodput, refused) = (100.0 * good(outcome), 100.0 * outcome.refused());
    let (preempted, tokens) = (outcome.preempted, outcome.throughput());
    println!(
        "| {load} | {name} | {ttft50:.0} / {ttft95:.0} / {ttft99:.0} | {tpot50:.0} / {tpot95:.0} / {tpot99:.0} | \
         {gap:.0} | {goodput:.1} % | {refused:.1} % | {preempted} | {tokens:.0} |",
    );
}

fn good(outcome: &Outcome) -> f64 {
    outcome.goodput(TTFT, TPOT)
}

impl Compared {
    /// `step-time` serves so much more of what was offered within the targets than any other.
    fn assert_step_time_leads_by(&self, margin: f64) {
        for other in [&self.first_come, &self.small_steps, &self.utilization_band] {
            assert!(good(&self.step_time) >= good(other) + margin, "{} and {}", good(&self.step_time), good(other));
        }
        self.assert_step_time_holds();
    }

    /// Whatever the load, hardly an answer comes out above the target, and nothing is computed twice.
    fn assert_step_time_holds(&self) {
        let [tpot99] = self.step_time.tpot([0.99]);
        assert!(tpot99 <= TPOT * 1.1, "{tpot99} ms");
        assert!(self.step_time.preempted <= self.first_come.preempted / 10, "{} preemptions", self.step_time.preempted);
    }
}

#[test]
fn under_load_step_time_serves_more_within_the_targets_on_a_small_card() {
    print_head(&SMALL);
    for seed in 1..=2 {
        compare(SMALL, "Poisson 2.5/s", &poisson(seed, 2.5, 300)).assert_step_time_leads_by(0.3);
    }
    compare(SMALL, "trace, half as fast", &trace(0.5)).assert_step_time_leads_by(0.25);
}

#[test]
fn under_load_step_time_serves_more_within_the_targets_on_a_large_card() {
    print_head(&LARGE);
    compare(LARGE, "Poisson 14/s", &poisson(1, 14.0, 200)).assert_step_time_leads_by(0.2);
}

#[test]
fn where_there_is_room_step_time_costs_next_to_nothing_and_the_utilisation_rule_most_of_it() {
    print_head(&SMALL);
    for (load, arrivals) in [("Poisson 1/s", poisson(1, 1.0, 300)), ("Poisson 1.5/s", poisson(1, 1.5, 300))] {
        let compared = compare(SMALL, load, &arrivals);
        assert!(good(&compared.step_time) >= good(&compared.first_come) - 0.05);
        assert!(good(&compared.step_time) >= good(&compared.utilization_band) + 0.25);
        compared.assert_step_time_holds();
    }
}
