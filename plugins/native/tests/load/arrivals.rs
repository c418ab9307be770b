//! Who comes when, and with what: Poisson arrivals from a seed, and a recorded trace at any speed.

use sluice_core::{MILLISECOND, Nanos, SECOND, split_mix};

/// See the file's head for where it comes from.
const TRACE: &str = include_str!("conversation.csv");

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Nanos,
    pub(crate) tenant: u64,
    pub(crate) priority: i32,
    pub(crate) prompt_tokens: u32,
    /// How long the answer will be. No policy may see it.
    pub(crate) output_tokens: u32,
}

/// The trace, so many times as fast as it was recorded.
pub(crate) fn trace(speed: f64) -> Vec<Arrival> {
    let lines = TRACE.lines().filter(|line| !line.starts_with('#'));
    let arrival = |line: &str| {
        let mut fields = line.split(',').map(|field| field.parse::<u32>().unwrap());
        let mut next = || fields.next().unwrap();
        let at = (f64::from(next()) / speed * MILLISECOND as f64) as Nanos;
        Arrival { at, tenant: 1, priority: 0, prompt_tokens: next(), output_tokens: next() }
    };
    lines.map(arrival).collect()
}

/// So many a second for so long, at random times, with prompts and answers drawn from the trace.
pub(crate) fn poisson(seed: u64, per_second: f64, seconds: u64) -> Vec<Arrival> {
    let (mut state, shapes) = (seed, trace(1.0));
    let mut uniform = || (split_mix(&mut state) >> 11) as f64 / (1_u64 << 53) as f64;
    let (mut at, mut arrivals) = (0.0, Vec::new());
    loop {
        at -= (1.0 - uniform()).ln() / per_second;
        if at >= seconds as f64 {
            return arrivals;
        }
        let shape = shapes[(uniform() * shapes.len() as f64) as usize];
        arrivals.push(Arrival { at: (at * SECOND as f64) as Nanos, ..shape });
    }
}

/// Several streams as one.
pub(crate) fn together(streams: impl IntoIterator<Item = Vec<Arrival>>) -> Vec<Arrival> {
    let mut arrivals: Vec<Arrival> = streams.into_iter().flatten().collect();
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// The same stream from another tenant.
pub(crate) fn of_tenant(tenant: u64, arrivals: Vec<Arrival>) -> Vec<Arrival> {
    arrivals.into_iter().map(|arrival| Arrival { tenant, ..arrival }).collect()
}
