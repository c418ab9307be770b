//! A run from its first question to its report.

use std::fs::OpenOptions;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper_util::client::legacy::connect::Connect;

use crate::arguments::BenchArguments;
use crate::body::BodyTemplate;
use crate::calibration::Calibration;
use crate::caller::Caller;
use crate::drive::{Driver, MAX_OUTSTANDING, Pace};
use crate::error::BenchError;
use crate::exchange::Manner;
use crate::open_files;
use crate::plan::{Plan, PromptPlan};
use crate::progress::Progress;
use crate::prompt::{Maker, Material};
use crate::pulse::Pulse;
use crate::record::Record;
use crate::report::{Facts, Report};
use crate::server::ServerFacts;
use crate::table::table;
use crate::tls;
use crate::totals::Measured;
use crate::warnings::warnings;
use crate::workload::{Prompts, Workload};

/// What is left to do for whoever asked: show the text, and say whether anything succeeded.
#[derive(Debug)]
pub struct Finished {
    pub text: String,
    pub any_succeeded: bool,
}

/// Loads a server as these arguments say. Ctrl-C ends the load early; what was measured until then is reported.
///
/// The API key of the environment is read here, and a file of results is written.
pub async fn run(arguments: BenchArguments) -> Result<Finished, BenchError> {
    let plan = Plan::of(&arguments, std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty()))?;
    writable(&arguments)?;
    open_files::allow_many();
    let connector = tls::connector(plan.ca_cert.as_deref())?;
    let caller = Arc::new(Caller::new(connector, plan.urls.clone(), plan.headers.clone()));
    let interrupted = pin!(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    bench(&arguments, plan, &caller, interrupted).await
}

pub(crate) async fn bench<C>(
    arguments: &BenchArguments,
    plan: Plan,
    caller: &Arc<Caller<C>>,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Finished, BenchError>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let server = ServerFacts::ask(caller, arguments.target.model.clone()).await?;
    let Plan { manner, pace, warm_up: left_out, .. } = plan;
    let (workload, prompts) = prepare(arguments, plan, caller, &server.model).await;
    warm_up(arguments, manner, caller, &workload).await?;
    let started_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let progress = Arc::new(progress(arguments, &workload));
    let pulse = Pulse::start();
    let driven = Driver::new(caller, manner, pace, &progress).run(workload.requests(), stop).await;
    let beats = pulse.stop().await;
    progress.clear();

    let sending = workload.ended_by_time(driven.records.len() as u64);
    let measured = Measured::after(left_out, &driven.records, sending);
    let open_loop = !workload.schedule.is_closed_loop();
    let facts = Facts { started_at, server: &server, configuration: arguments, prompts, open_loop };
    let mut report = Report::of(&facts, &measured, &beats);
    report.warnings = warnings(&report, &measured, driven.stopped);
    write(arguments, &report)?;
    let text = table(&report, &caller.urls().generate.to_string());
    Ok(Finished { text, any_succeeded: report.totals.completed > 0 })
}

/// Makes the requests' maker, for which the server may have to count what words are.
async fn prepare<C>(
    arguments: &BenchArguments,
    plan: Plan,
    caller: &Caller<C>,
    model: &str,
) -> (Workload, Option<Material>)
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let seed = arguments.load.seed;
    let template = BodyTemplate {
        endpoint: arguments.target.endpoint,
        model: model.to_owned(),
        stream: plan.manner.stream,
        ignore_eos: arguments.prompts.ignore_eos,
        extra: plan.extra_body,
    };
    let material = match &plan.prompts {
        PromptPlan::Words => Some(Material::Words(Calibration::measure(caller, &template).await)),
        PromptPlan::Ids { low, high } => Some(Material::Ids { low: *low, high: *high }),
        PromptPlan::Read(_) => None,
    };
    let prompts = match (plan.prompts, material) {
        (PromptPlan::Read(prompts), _) => Prompts::Read(prompts),
        (_, Some(material)) => {
            Prompts::Made { maker: Maker::new(material, arguments.prompts.prefix_len, seed), input: plan.input }
        }
        (_, None) => Prompts::Read(Vec::new()),
    };
    let Plan { schedule, output, count, duration, .. } = plan;
    (Workload { seed, schedule, prompts, output, template, count, duration }, material)
}

/// Sends what is measured nowhere. That all of it fails is told before a load that would fail too.
async fn warm_up<C>(
    arguments: &BenchArguments,
    manner: Manner,
    caller: &Arc<Caller<C>>,
    workload: &Workload,
) -> Result<(), BenchError>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let cap = arguments.load.max_concurrency.unwrap_or(MAX_OUTSTANDING);
    let driver = Driver::new(caller, manner, Pace { cap: Some(cap), until: None }, &Arc::new(Progress::hidden()));
    let requests = workload.warm_up(u64::from(arguments.load.num_warmups));
    let records = driver.run(requests, pin!(std::future::pending())).await.records;
    let failed = |record: &Record| record.answer.failure.clone();
    match records.first().and_then(failed) {
        Some(failure) if !records.iter().any(Record::succeeded) => Err(BenchError::WarmUp(failure)),
        _ => Ok(()),
    }
}

fn progress(arguments: &BenchArguments, workload: &Workload) -> Progress {
    if arguments.report.no_progress { Progress::hidden() } else { Progress::shown(workload.expected()) }
}

/// Finds out before the load whether its results can be kept.
fn writable(arguments: &BenchArguments) -> Result<(), BenchError> {
    let Some(path) = &arguments.report.output else { return Ok(()) };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(drop).map_err(|source| BenchError::File { flag: OUTPUT, path: path.clone(), source })
}

fn write(arguments: &BenchArguments, report: &Report<'_>) -> Result<(), BenchError> {
    let Some(path) = &arguments.report.output else { return Ok(()) };
    let json = serde_json::to_vec_pretty(report).map_err(io::Error::other);
    let written = json.and_then(|json| std::fs::write(path, json));
    written.map_err(|source| BenchError::File { flag: OUTPUT, path: path.clone(), source })
}

const OUTPUT: &str = "--output";
