//! How many tokens a second the edge can stream with the client on the same cores; the engine makes them for nothing.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sluice_core::{FinishReason, Request, SampledToken, TokenEvent};
use sluice_engine::handle::{PoolCommand, PoolHandle};
use sluice_engine::order::Stopped;
use tokio::io::AsyncReadExt;

use super::client::{chat, connect};
use super::engine::{config, end, start};
use crate::config::EdgeConfig;

const CONNECTIONS: usize = 256;
const TOKENS: u32 = 400;

/// Gives every request one token a round, in rounds as close as `pause` allows.
fn engine(commands: &std::sync::mpsc::Receiver<PoolCommand>, pause: Duration) {
    let mut running: Vec<(Request, u32)> = Vec::new();
    loop {
        match commands.recv_timeout(pause) {
            Ok(PoolCommand::Offer(requests)) => running.extend(requests.into_iter().map(|request| (request, 0))),
            Ok(PoolCommand::Finish(..)) => panic!("an answer was cut short"),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if running.len() < CONNECTIONS => {}
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    for _ in 0..TOKENS {
        for (request, made) in &mut running {
            request.sink.send(TokenEvent::Token(SampledToken::plain(97 + *made % 26))).unwrap();
            *made += 1;
        }
        std::thread::sleep(pause);
    }
    running.iter().for_each(|(request, _)| end(request, FinishReason::Length, None));
    // Until the edge has let go of its handle.
    while commands.recv().is_ok() {}
}

async fn read_stream(address: std::net::SocketAddr) -> usize {
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":400}"#;
    let mut stream = connect(address, &chat(body)).await;
    let mut buffer = vec![0; 64 * 1024];
    let mut chunks = 0;
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            return chunks;
        }
        // Every event ends with an empty line; only the ends of the body's own chunks have a carriage return.
        chunks += buffer[..read].windows(2).filter(|pair| pair == b"\n\n").count();
    }
}

#[test]
fn every_stream_gets_every_token_under_load() {
    let rounds = Duration::from_micros(500);
    let (sender, commands) = channel();
    let engine = std::thread::spawn(move || engine(&commands, rounds));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (took, chunks) = runtime.block_on(async {
        let pool = PoolHandle::new(Arc::new(move |command| sender.send(command).map_err(|_| Stopped)), Arc::new(|| 0));
        let mut config: EdgeConfig = config();
        config.model.max_model_len = 1000;
        let (address, _edge, _phase) = start(config, pool).await;
        let began = Instant::now();
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(read_stream(address))).collect();
        let mut chunks = Vec::new();
        for client in clients {
            chunks.push(client.await.unwrap());
        }
        (began.elapsed(), chunks)
    });
    drop(runtime);
    engine.join().unwrap();
    // One chunk a token, one for the reason, and the end; a boundary that falls between two reads is not seen.
    let expected = TOKENS as usize + 2;
    assert!(chunks.iter().all(|&seen| seen <= expected && seen * 10 >= expected * 8), "{chunks:?}");
    let rate = (CONNECTIONS * TOKENS as usize) as f64 / took.as_secs_f64();
    eprintln!("{rate:.0} streamed tokens/s over {CONNECTIONS} connections");
}
