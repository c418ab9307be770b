//! A server of known rates, spoken to through memory: under a clock that stands still while anything can run, what it
//! does takes exactly the time that its script says.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};

/// What is done for one request, in order. A script that ends leaves the connection open for the next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Wait(u64),
    /// As it is, head and chunk sizes included.
    Send(String),
    Hang,
    Close,
}

/// A request as it came in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard {
    /// In milliseconds since the server began.
    pub(super) at: f64,
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Value,
}

type Script = dyn Fn(usize, &Value) -> Vec<Step> + Send + Sync;

/// Also the connector that leads to it.
#[derive(Clone)]
pub(super) struct Fake {
    script: Arc<Script>,
    /// Requests for an answer, in the order they came.
    heard: Arc<Mutex<Vec<Heard>>>,
    connections: Arc<Mutex<usize>>,
    /// Of connections, counted from 0: those that are refused.
    refused: fn(usize) -> bool,
    tokenizes: bool,
    began: Instant,
}

impl Fake {
    /// The script of each request is told by its number and its body.
    pub(super) fn new(script: impl Fn(usize, &Value) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            heard: Arc::default(),
            connections: Arc::default(),
            refused: |_| false,
            tokenizes: false,
            began: Instant::now(),
        }
    }

    pub(super) fn refusing(self, refused: fn(usize) -> bool) -> Self {
        Self { refused, ..self }
    }

    pub(super) fn tokenizing(self) -> Self {
        Self { tokenizes: true, ..self }
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    pub(super) async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(heard) = self.hear(&mut stream).await {
            let steps = self.answer(heard);
            for step in steps {
                match step {
                    Step::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
                    Step::Hang => std::future::pending().await,
                    Step::Close => return,
                    Step::Send(text) => {
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn answer(&self, heard: Heard) -> Vec<Step> {
        match heard.path.as_str() {
            "/v1/models" => vec![whole(200, &json!({ "data": [{ "id": "fake", "max_model_len": 4096 }] }))],
            "/version" => vec![whole(200, &json!({ "version": "7" }))],
            "/tokenize" if self.tokenizes => vec![whole(200, &json!({ "count": tokens(&heard.body) }))],
            "/v1/chat/completions" | "/v1/completions" => {
                let body = heard.body.clone();
                let index = {
                    let mut all = self.heard.lock().unwrap();
                    all.push(heard);
                    all.len() - 1
                };
                (self.script)(index, &body)
            }
            _ => vec![whole(404, &json!({ "error": { "message": "no such path", "code": "not_found" } }))],
        }
    }

    async fn hear(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Heard> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let mut body = bytes.split_off(end);
        let missing = length - body.len();
        let read = body.len();
        body.resize(read + missing, 0);
        stream.read_exact(&mut body[read..]).await.ok()?;
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Some(Heard { at: self.began.elapsed().as_secs_f64() * 1e3, path, head, body })
    }
}

/// Two for each word, and ten for each prompt; of ids, their number.
pub(super) fn tokens(body: &Value) -> usize {
    if let Value::Array(ids) = &body["prompt"] {
        return ids.len();
    }
    let text = body["prompt"].as_str().or(body["messages"][0]["content"].as_str()).unwrap();
    10 + 2 * text.split_whitespace().count()
}

pub(super) fn whole(status: u16, body: &Value) -> Step {
    let body = body.to_string();
    Step::Send(format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

pub(super) const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
pub(super) const END: &str = "0\r\n\r\n";

/// These bytes as one piece of a chunked body.
pub(super) fn piece(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()))
}

pub(super) fn event(data: &Value) -> Step {
    piece(&format!("data: {data}\n\n"))
}

/// A stream that is told by its numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Milliseconds to the first chunk.
    pub(super) first: u64,
    /// Milliseconds between chunks.
    pub(super) gap: u64,
    pub(super) chunks: usize,
    pub(super) tokens_per_chunk: usize,
    pub(super) usage: bool,
    /// Of each prompt.
    pub(super) cached: usize,
}

impl Stream {
    pub(super) fn of(first: u64, gap: u64, chunks: usize) -> Self {
        Self { first, gap, chunks, tokens_per_chunk: 1, usage: true, cached: 0 }
    }

    /// The head and the chunks with output.
    pub(super) fn begun(&self) -> Vec<Step> {
        let chunk = event(&json!({ "choices": [{ "text": "word ".repeat(self.tokens_per_chunk) }] }));
        let mut steps = vec![Step::Send(HEAD.to_owned()), Step::Wait(self.first)];
        for index in 0..self.chunks {
            steps.extend((index > 0).then_some(Step::Wait(self.gap)));
            steps.push(chunk.clone());
        }
        steps
    }

    pub(super) fn steps(&self, body: &Value) -> Vec<Step> {
        let mut steps = self.begun();
        steps.push(event(&json!({ "choices": [{ "text": "", "finish_reason": "length" }] })));
        if self.usage {
            let (prompt, completion) = (tokens(body), self.chunks * self.tokens_per_chunk);
            let usage = json!({ "prompt_tokens": prompt, "completion_tokens": completion,
                "total_tokens": prompt + completion, "prompt_tokens_details": { "cached_tokens": self.cached } });
            steps.push(event(&json!({ "choices": [], "usage": usage })));
        }
        steps.extend([piece("data: [DONE]\n\n"), Step::Send(END.to_owned())]);
        steps
    }
}

impl tower_service::Service<Uri> for Fake {
    type Response = Pipe;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Pipe>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let number = {
            let mut connections = self.connections.lock().unwrap();
            *connections += 1;
            *connections - 1
        };
        if (self.refused)(number) {
            return std::future::ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(self.clone().serve(theirs));
        std::future::ready(Ok(Pipe(TokioIo::new(ours))))
    }
}

/// The client's end of a connection through memory.
pub(super) struct Pipe(TokioIo<DuplexStream>);

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
