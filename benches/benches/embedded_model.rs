//! The embedded model through the whole server: time to the first token of a short question, and tokens a second of a
//! single stream.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sluice::config::{ServeConfig, ServerSection, Settings};
use sluice::engine::MonotonicClock;
use sluice::{Listeners, Secrets, Server, load};
use sluice_core::Clock;

const TOKENS: usize = 512;
const RUNS: usize = 9;

/// When the first event came and when the last.
fn stream(address: SocketAddr, question: &str) -> std::io::Result<(Duration, Duration)> {
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{question}"}}],"max_tokens":{TOKENS},"ignore_eos":true,"stream":true,"stream_options":{{"include_usage":true}}}}"#
    );
    let length = body.len();
    let begin = Instant::now();
    let mut connection = TcpStream::connect(address)?;
    write!(
        connection,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let (mut all, mut buffer, mut first) = (Vec::new(), [0; 1 << 16], None);
    loop {
        let read = connection.read(&mut buffer)?;
        all.extend_from_slice(&buffer[..read]);
        if first.is_none() && all.windows(7).any(|window| window == b"data: {") {
            first = Some(begin.elapsed());
        }
        if read == 0 {
            break;
        }
    }
    let usage = format!(r#""completion_tokens":{TOKENS}"#);
    assert!(String::from_utf8_lossy(&all).contains(&usage), "fewer than {TOKENS} tokens came");
    Ok((first.unwrap_or_default(), begin.elapsed()))
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() -> anyhow::Result<()> {
    let server = ServerSection { port: Some(0), admin_port: Some(0), ..ServerSection::default() };
    let config = ServeConfig::of(Settings { server, ..Settings::default() })?;
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let model = load(&config.model, &config.engine, &clock)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = runtime.block_on(async {
        let listeners = Listeners::open(&config.server, &Secrets::default())?;
        Server::start(&config, model, &clock, listeners).await
    })?;
    let address = server.url.trim_start_matches("http://").parse()?;
    let mut runs = Vec::new();
    for run in 0..RUNS {
        // Another question each time, so that the prefix cache has only the template.
        let question = format!("What is Sluice, in {run} words, and what does it not do?");
        runs.push(thread::spawn(move || stream(address, &question)).join().expect("the client")?);
    }
    runtime.block_on(server.stop());
    runs.sort_unstable();
    let median = runs[RUNS / 2];
    let rate = (TOKENS - 1) as f64 / (median.1 - median.0).as_secs_f64();
    println!(
        "first token {:.1} ms, then {rate:.0} tokens/s (medians of {RUNS} runs of {TOKENS} tokens)",
        median.0.as_secs_f64() * 1e3
    );
    Ok(())
}
