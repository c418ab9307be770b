//! The whole server with an executor that computes nothing, its clients on the same cores: the host's own time per
//! step, and how many streamed tokens a second reach the clients.
//!
//! The executor is paced, as a device is: a step is finished an interval after it was submitted. At each rate all
//! streams must arrive whole, or the rate does not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluice::config::{EngineSection, ServeConfig, ServerSection, Settings};
use sluice::engine::MonotonicClock;
use sluice::{Listeners, Secrets, Server, load};
use sluice_benches::idle::{HostTimes, IdleExecutor};
use sluice_core::{Clock, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const TOKENS: u64 = 1200;

struct Outcome {
    whole: u64,
    tokens_per_second: f64,
    host: Vec<Duration>,
}

/// So many streams at once, a step every `interval`.
fn measure(streams: usize, interval: Duration) -> anyhow::Result<Outcome> {
    let engine = EngineSection {
        max_num_seqs: Some(256),
        max_num_batched_tokens: Some(8192),
        kv_blocks: Some(256 * 128),
        ..EngineSection::default()
    };
    let server = ServerSection { port: Some(0), admin_port: Some(0), ..ServerSection::default() };
    let config = ServeConfig::of(Settings { engine, server, ..Settings::default() })?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let mut model = load(&config.model, &config.engine, &clock)?;
    let times = Arc::new(HostTimes::default());
    let kept = Arc::clone(&times);
    model.computed.executor =
        Arc::new(move |_| Ok(Box::new(IdleExecutor::paced(interval, Arc::clone(&kept))) as Box<dyn Executor>));
    let name = model.name.clone();

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = runtime.block_on(async {
        let listeners = Listeners::open(&config.server, &Secrets::default())?;
        Server::start(&config, model, &clock, listeners).await
    })?;
    let address = server.url.trim_start_matches("http://").parse()?;
    let (whole, elapsed) = thread::spawn(move || run_clients(address, &name, streams)).join().expect("the clients")?;
    runtime.block_on(server.stop());
    Ok(Outcome { whole, tokens_per_second: (whole * TOKENS) as f64 / elapsed.as_secs_f64(), host: times.of(streams) })
}

/// How many streams arrived whole, and how long it took from the first token on.
fn run_clients(address: std::net::SocketAddr, model: &str, streams: usize) -> anyhow::Result<(u64, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = format!(
        r#"{{"model":"{model}","prompt":"Sluice","max_tokens":{TOKENS},"ignore_eos":true,"stream":true,"temperature":0}}"#
    );
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let whole = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..streams {
            let (request, whole) = (request.clone(), Arc::clone(&whole));
            clients.spawn(async move {
                let events = read_events(address, &request).await.unwrap_or(0);
                whole.fetch_add(u64::from(events >= TOKENS), Ordering::Relaxed);
            });
        }
        clients.join_all().await;
    });
    Ok((whole.load(Ordering::Relaxed), begin.elapsed()))
}

/// Events with a choice up to `[DONE]`.
async fn read_events(address: std::net::SocketAddr, request: &str) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let (mut buffer, mut kept, mut events) = (vec![0; 1 << 16], 0, 0);
    loop {
        let read = stream.read(&mut buffer[kept..]).await?;
        let seen = &buffer[..kept + read];
        // Of what was kept, only what is shorter than a mark can begin one that was not counted yet.
        let fresh = &seen[kept.saturating_sub(6)..];
        events += fresh.windows(7).filter(|window| window == b"data: {").count() as u64;
        if read == 0 || seen.windows(12).any(|window| window == b"data: [DONE]") {
            return Ok(events);
        }
        kept = seen.len().min(11);
        let from = seen.len() - kept;
        buffer.copy_within(from..from + kept, 0);
    }
}

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() -> anyhow::Result<()> {
    println!("streams  step ms  host µs p50    p99   streams whole   tokens/s");
    for (streams, interval) in [
        (1, 1000),
        (32, 5000),
        (32, 1000),
        (128, 5000),
        (128, 2000),
        (256, 8000),
        (256, 5000),
        (256, 3200),
        (256, 2560),
        (256, 2000),
    ] {
        let interval = Duration::from_micros(interval);
        let outcome = measure(streams, interval)?;
        println!(
            "{streams:>7}  {:>7.2}  {:>11.0} {:>6.0}   {:>7}/{streams:<5}   {:>8.0}",
            interval.as_secs_f64() * 1e3,
            quantile(&outcome.host, 0.5),
            quantile(&outcome.host, 0.99),
            outcome.whole,
            outcome.tokens_per_second,
        );
    }
    Ok(())
}
