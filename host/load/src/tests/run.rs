//! One run of the generator, as the command line would start it, and its report as it is written.

use std::pin::pin;
use std::sync::Arc;

use clap::Parser;
use serde_json::Value;

use super::fake::Fake;
use crate::arguments::BenchArguments;
use crate::bench::bench;
use crate::caller::Caller;
use crate::error::BenchError;
use crate::plan::Plan;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    bench: BenchArguments,
}

pub(crate) fn parse(arguments: &str) -> Result<BenchArguments, clap::Error> {
    let words = std::iter::once("bench").chain(arguments.split_whitespace());
    Program::try_parse_from(words).map(|program| program.bench)
}

/// Token ids to /v1/completions unless told otherwise, no warm-up, and every request in the report.
pub(super) async fn report(fake: &Fake, arguments: &str) -> Value {
    stopped_report(fake, arguments, std::future::pending()).await
}

pub(super) async fn stopped_report(fake: &Fake, arguments: &str, stop: impl Future<Output = ()>) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let all = with_defaults(
        &format!("--output {} --save-detailed {arguments}", file.display()),
        &["--endpoint completions", "--num-warmups 0", "--input-len 8"],
    );
    let finished = run(fake, &all, stop).await.unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(finished.any_succeeded, report["totals"]["completed"] != 0);
    report
}

pub(super) async fn run(
    fake: &Fake,
    arguments: &str,
    stop: impl Future<Output = ()>,
) -> Result<crate::Finished, BenchError> {
    let arguments = parse(&with_defaults(arguments, &["--no-progress", "--output-len 64"])).unwrap();
    let plan = Plan::of(&arguments, None)?;
    let caller = Arc::new(Caller::new(fake.clone(), plan.urls.clone(), plan.headers.clone()));
    bench(&arguments, plan, &caller, pin!(stop)).await
}

/// With each of these whose flag was not given.
fn with_defaults(arguments: &str, defaults: &[&str]) -> String {
    let flag = |default: &str| default.split(' ').next().unwrap().to_owned();
    let missing = defaults.iter().filter(|default| !arguments.contains(&flag(default)));
    missing.fold(arguments.to_owned(), |all, default| format!("{all} {default}"))
}

/// A number of the report, by the names that lead to it.
pub(super) fn number(report: &Value, path: &str) -> f64 {
    let found = path.split('.').fold(report, |value, name| &value[name]);
    found.as_f64().unwrap_or_else(|| panic!("{path} is {found}"))
}

/// To a microsecond, or a millionth.
pub(super) fn check(report: &Value, expected: &[(&str, f64)]) {
    for (path, expected) in expected {
        let found = number(report, path);
        assert!((found - expected).abs() < 1e-3_f64.max(expected.abs() * 1e-6), "{path}: {found}, not {expected}");
    }
}

pub(super) fn warned(report: &Value, words: &str) -> bool {
    report["warnings"].as_array().unwrap().iter().any(|warning| warning.as_str().unwrap().contains(words))
}
