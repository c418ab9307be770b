//! What was typed becomes what is meant, once: files are read, and what contradicts itself is refused.

use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde_json::{Map, Value};

use crate::arguments::{BenchArguments, Form, LoadArguments, TargetArguments};
use crate::arrivals::{Arrivals, seconds};
use crate::drive::Pace;
use crate::error::BenchError;
use crate::exchange::Manner;
use crate::goodput::Metric;
use crate::lengths::{Fit, Spread};
use crate::prompt_file::{self, FilePrompt};
use crate::schedule::{Replay, Schedule};
use crate::server::{Endpoint, Urls};
use crate::trace;

/// Where nothing else ends the load.
const DEFAULT_REQUESTS: u64 = 1000;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) urls: Urls,
    pub(crate) headers: HeaderMap,
    pub(crate) ca_cert: Option<PathBuf>,
    pub(crate) manner: Manner,
    pub(crate) extra_body: Map<String, Value>,
    pub(crate) schedule: Schedule,
    pub(crate) pace: Pace,
    pub(crate) count: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) warm_up: Duration,
    pub(crate) prompts: PromptPlan,
    pub(crate) input: Spread,
    pub(crate) output: Spread,
}

#[derive(Debug)]
pub(crate) enum PromptPlan {
    Words,
    Ids { low: u32, high: u32 },
    Read(Vec<FilePrompt>),
}

impl Plan {
    /// `environment_key` stands where no key was typed.
    pub(crate) fn of(arguments: &BenchArguments, environment_key: Option<String>) -> Result<Self, BenchError> {
        let BenchArguments { target, load, prompts, report } = arguments;
        let timed = report.goodput.iter().any(|goal| goal.metric != Metric::E2el);
        if target.no_stream && timed {
            return Err(BenchError::usage("--goodput", "with --no-stream there is no first token: only e2el is known"));
        }
        let schedule = schedule(arguments)?;
        let bounded = load.duration.is_some() || load.trace.is_some();
        let duration = load.duration.map(seconds);
        Ok(Self {
            urls: Urls::of(&target.base_url, target.endpoint)?,
            headers: headers(target.api_key.clone().or(environment_key), &target.header)?,
            ca_cert: target.ca_cert.clone(),
            manner: Manner { stream: !target.no_stream, timeout: seconds(target.timeout) },
            extra_body: extra_body(target)?,
            pace: Pace { cap: load.max_concurrency, until: duration.filter(|_| schedule.is_closed_loop()) },
            schedule,
            count: load.num_requests.or((!bounded).then_some(DEFAULT_REQUESTS)),
            duration,
            warm_up: seconds(load.warmup_seconds),
            prompts: prompt_plan(arguments)?,
            input: Spread::around(prompts.input_len, prompts.range_ratio),
            output: Spread::around(prompts.output_len, prompts.range_ratio),
        })
    }
}

fn schedule(arguments: &BenchArguments) -> Result<Schedule, BenchError> {
    let load = &arguments.load;
    let Some(path) = &load.trace else { return Ok(Schedule::Generated(arrivals(load)?)) };
    let fit = Fit {
        scale: load.length_scale,
        max_input: arguments.prompts.max_input_len,
        max_output: arguments.prompts.max_output_len,
    };
    let (rows, start) = (trace::read(path)?, seconds(load.start));
    if rows.last().is_none_or(|last| last.at < start) {
        return Err(BenchError::NoRequests(format!("{} has none after --start", path.display())));
    }
    Ok(Schedule::Recorded(Replay { rows, start, time_scale: load.time_scale, fit }))
}

fn arrivals(load: &LoadArguments) -> Result<Arrivals, BenchError> {
    let rate = load.request_rate.filter(|rate| rate.is_finite());
    Ok(match (rate, load.max_concurrency) {
        (Some(rate), _) if load.constant => Arrivals::Constant { rate },
        (Some(rate), _) => Arrivals::Random { rate, burstiness: load.burstiness },
        (None, Some(_)) => Arrivals::ClosedLoop,
        (None, None) if load.duration.is_some() && load.num_requests.is_none() => {
            let remedy = "how many at a time? Give --request-rate, --max-concurrency or --num-requests too";
            return Err(BenchError::usage("--duration", remedy));
        }
        (None, None) => Arrivals::AtOnce,
    })
}

fn prompt_plan(arguments: &BenchArguments) -> Result<PromptPlan, BenchError> {
    let (prompts, endpoint) = (&arguments.prompts, arguments.target.endpoint);
    if let Some(path) = &prompts.prompts {
        return Ok(PromptPlan::Read(prompt_file::read(path, endpoint)?));
    }
    let (low, high) = prompts.token_ids;
    match (prompts.prompt_form, endpoint) {
        (Some(Form::Text), _) | (None, Endpoint::Chat) => Ok(PromptPlan::Words),
        (Some(Form::Tokens) | None, Endpoint::Completions) => Ok(PromptPlan::Ids { low, high }),
        (Some(Form::Tokens), Endpoint::Chat) => {
            Err(BenchError::usage("--prompt-form", "token ids are for --endpoint completions"))
        }
    }
}

fn extra_body(target: &TargetArguments) -> Result<Map<String, Value>, BenchError> {
    let Some(text) = &target.extra_body else { return Ok(Map::new()) };
    let bad = |problem: String| BenchError::usage("--extra-body", problem);
    let fields = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(bad("a JSON object is wanted".to_owned())),
        Err(error) => return Err(bad(error.to_string())),
    };
    match fields.get("n").and_then(Value::as_u64) {
        Some(n @ 2..) if !target.no_stream => Err(bad(format!(
            "with an n of {n} a stream mixes {n} answers, and no time between its chunks is of any of them; take n away \
             or give --no-stream"
        ))),
        _ => Ok(fields),
    }
}

fn headers(key: Option<String>, typed: &[String]) -> Result<HeaderMap, BenchError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("sluice-bench/", env!("CARGO_PKG_VERSION"))));
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.map_err(|_| BenchError::usage("--api-key", "it has bytes that no header can hold"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for header in typed {
        let bad = || BenchError::usage("--header", "NAME:VALUE is wanted, as in x-tenant:a");
        let (name, value) = header.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| bad())?;
        headers.insert(name, HeaderValue::try_from(value.trim()).map_err(|_| bad())?);
    }
    Ok(headers)
}
