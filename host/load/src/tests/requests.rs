//! What requests say, and that a seed says all of it.

use serde_json::{Value, json};

use super::fake::{Fake, Heard, Stream, tokens};
use super::run::{check, report, warned};

fn quick() -> Fake {
    Fake::new(|_, body| Stream::of(1, 1, 2).steps(body))
}

async fn heard(arguments: &str) -> Vec<Heard> {
    let fake = quick();
    report(&fake, arguments).await;
    fake.heard()
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_sends_the_same_requests_at_the_same_times() {
    let arguments = |seed: u32| format!("--request-rate 20 --num-requests 50 --range-ratio 0.5 --seed {seed}");
    let (one, again, other) = (heard(&arguments(1)).await, heard(&arguments(1)).await, heard(&arguments(2)).await);
    assert_eq!(one, again);
    let bodies = |heard: &[Heard]| heard.iter().map(|heard| heard.body.clone()).collect::<Vec<_>>();
    assert_ne!(bodies(&one), bodies(&other));
    let times = |heard: &[Heard]| heard.iter().map(|heard| heard.at).collect::<Vec<_>>();
    assert_ne!(times(&one), times(&other));
    // A request is the same whenever it is sent.
    assert_eq!(bodies(&one), bodies(&heard("--max-concurrency 1 --num-requests 50 --range-ratio 0.5 --seed 1").await));
}

#[tokio::test(start_paused = true)]
async fn token_ids_of_the_lengths_that_were_asked_for() {
    let arguments = "--num-requests 20 --range-ratio 0.5 --token-ids 5-6 --prefix-len 3 --ignore-eos";
    let heard = heard(&format!("{arguments} --header x-tenant:a --api-key k")).await;
    let prompts: Vec<Vec<u64>> =
        heard.iter().map(|heard| serde_json::from_value(heard.body["prompt"].clone()).unwrap()).collect();
    assert!(prompts.iter().flatten().all(|id| (5..=6).contains(id)));
    assert!(prompts.iter().all(|prompt| (7..=15).contains(&prompt.len()) && prompt[..3] == prompts[0][..3]));
    for heard in &heard {
        let body = &heard.body;
        assert_eq!(
            (&body["model"], &body["ignore_eos"], &body["stream"]),
            (&json!("fake"), &json!(true), &json!(true))
        );
        assert!((32..=96).contains(&body["max_tokens"].as_u64().unwrap()));
        assert!(heard.head.contains("authorization: Bearer k\r\n") && heard.head.contains("x-tenant: a\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn words_are_calibrated_by_tokenize_or_by_the_usage() {
    for (fake, asked_before, counter) in [(quick().tokenizing(), 0, "tokenize"), (quick_usage(), 2, "usage")] {
        let report = report(&fake, "--endpoint chat --input-len 200 --prefix-len 100 --num-requests 20").await;
        assert_eq!(report["prompts"]["counted_by"], counter);
        check(
            &report,
            &[
                ("prompts.tokens_per_word", 2.0),
                ("prompts.overhead", 10.0),
                ("prompt_lengths.asked_mean", 300.0),
                ("prompt_lengths.counted_mean", 300.0),
                ("prompt_lengths.furthest_apart", 0.0),
            ],
        );
        let heard = fake.heard().split_off(asked_before);
        let text = |heard: &Heard| heard.body["messages"][0]["content"].as_str().unwrap().to_owned();
        let first: Vec<String> = text(&heard[0]).split(' ').map(str::to_owned).collect();
        let second: Vec<String> = text(&heard[1]).split(' ').map(str::to_owned).collect();
        assert_eq!(first[..50], second[..50]);
        assert_ne!(first[50..], second[50..]);
    }
}

/// Answers in one piece where that is asked for, as the calibration does.
fn quick_usage() -> Fake {
    Fake::new(|_, body| match body["stream"] == false {
        true => vec![super::fake::whole(200, &json!({ "usage": { "prompt_tokens": tokens(body) } }))],
        false => Stream::of(1, 1, 2).steps(body),
    })
}

#[tokio::test(start_paused = true)]
async fn a_server_that_counts_nothing_is_told_of() {
    let fake = Fake::new(|_, body| Stream { usage: false, ..Stream::of(1, 1, 2) }.steps(body));
    let report = report(&fake, "--endpoint chat --num-requests 2").await;
    assert_eq!(report["prompts"]["counted_by"], "nobody");
    assert!(warned(&report, "a word was taken for a token"));
}

#[tokio::test(start_paused = true)]
async fn prompts_of_a_file_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    std::fs::write(
        &file,
        "{\"prompt\": \"a b\", \"output_tokens\": 7}\n{\"messages\": [{\"role\": \"user\", \"content\": \"c\"}]}\n",
    )
    .unwrap();
    let fake = quick();
    let arguments = format!("--endpoint chat --prompts {} --max-concurrency 1 --num-requests 3", file.display());
    let report = report(&fake, &arguments).await;
    let seen: Vec<(Value, Value)> = (fake.heard().iter())
        .map(|heard| (heard.body["messages"][0]["content"].clone(), heard.body["max_tokens"].clone()))
        .collect();
    assert_eq!(seen, [(json!("a b"), json!(7)), (json!("c"), json!(64)), (json!("a b"), json!(7))]);
    assert!(report["prompts"].is_null() && report["prompt_lengths"].is_null());
}

#[tokio::test(start_paused = true)]
async fn answers_shorter_than_ignore_eos_promises_and_prompts_too_long_are_told_of() {
    let report = report(&quick(), "--num-requests 2 --ignore-eos --input-len 4090").await;
    assert!(warned(&report, "shorter than asked for"), "{}", report["warnings"]);
    assert!(warned(&report, "and the model's length is 4096"));
}

#[tokio::test(start_paused = true)]
async fn prompts_that_a_cache_knows_are_told_of_unless_they_share_a_prefix() {
    let stream = Stream { cached: 3, ..Stream::of(1, 1, 2) };
    let fake = Fake::new(move |_, body| stream.steps(body));
    let new = report(&fake, "--num-requests 2").await;
    check(&new, &[("totals.cached_tokens", 6.0)]);
    assert!(warned(&new, "38 % of the prompts' tokens were in the server's cache"), "{}", new["warnings"]);
    let shared = report(&fake, "--num-requests 2 --prefix-len 3").await;
    assert_eq!(shared["warnings"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn what_an_extra_body_changes_is_not_held_against_the_server() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a b\n").unwrap();
    let stream = Stream::of(1, 1, 9);
    for (extra, failed) in [("{}", 2.0), (r#"{"max_tokens":20}"#, 0.0), (r#"{"max_tokens":null,"n":1}"#, 0.0)] {
        let fake = Fake::new(move |_, body| stream.steps(body));
        let arguments =
            format!("--num-requests 2 --output-len 4 --prompts {} --extra-body {extra}", file.path().display());
        let report = report(&fake, &arguments).await;
        check(&report, &[("totals.failed", failed)]);
    }
}
