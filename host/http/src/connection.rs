//! Speaks HTTP/1.1 on one connection until it ends, or until its client takes too long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sluice_telemetry::Timeout;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::config::EdgeLimits;
use crate::error::ApiError;
use crate::muted::Muted;
use crate::pace::{InRequest, LAST_WORD, Pace, Paced, Until};
use crate::serve::{Phase, reached};

/// What a connection is spoken on.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &Arc<TcpStream>;
}

/// A request's body, that tells whether it was read.
struct Asked {
    body: Incoming,
    /// Its end, or the failure that is one, was seen.
    ended: bool,
    pace: Arc<Pace>,
}

/// An answer's body: when it goes, so has the request.
struct Answered {
    body: Body,
    _request: InRequest,
}

/// How a connection came to its end.
enum Ending {
    /// As both sides wanted, or it broke off.
    Over,
    /// What came is no request.
    Refused(StatusCode),
    Late(Timeout),
}

/// Of a request's line and headers, what the parser takes at most.
const HEAD_BYTES: usize = 128 * 1024;
/// It makes room for all of them before it knows how many there are.
const MOST_HEADERS: usize = 1000;

/// What took too long, if it was that which ended the connection.
pub(crate) async fn speak<S: Transport>(
    stream: S,
    pace: &Arc<Pace>,
    router: Router,
    limits: &EdgeLimits,
    mut phase: watch::Receiver<Phase>,
) -> Option<Timeout> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let in_request = pace.request();
        let answer = router.call(request.map(|body| Body::new(Asked::new(body, pace))));
        async move {
            answer.await.map(|response| {
                if let Some(until) = response.extensions().get::<Until>() {
                    in_request.ends(*until);
                }
                response.map(|body| Answered { body, _request: in_request })
            })
        }
    });
    let socket = Arc::clone(stream.socket());
    let mut http = http1::Builder::new();
    let headers = limits.headers.saturating_mul(2).clamp(MOST_HEADERS / 10, MOST_HEADERS);
    http.header_read_timeout(None).max_buf_size(HEAD_BYTES).max_headers(headers);
    let mut connection = http.serve_connection(TokioIo::new(Muted::new(stream, pace)), service);
    let mut closing = false;
    let ending = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break ending(ended),
            () = reached(&mut phase, Phase::Closing), if !closing => {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            expired = pace.expired() => break Ending::Late(expired),
            () = pace.abandoned(&socket) => {
                tracing::debug!("a client left while it was answered");
                break Ending::Over;
            }
        }
    };
    let Muted { stream, refusal, .. } = connection.into_parts().io.into_inner();
    let ending = refusal.map_or(ending, Ending::Refused);
    leave(stream, &ending, pace, limits).await;
    match ending {
        Ending::Late(timeout) => Some(timeout),
        Ending::Over | Ending::Refused(_) => None,
    }
}

fn ending(ended: hyper::Result<()>) -> Ending {
    let Err(error) = ended else { return Ending::Over };
    tracing::debug!(%error, "a connection broke off");
    // Of another protocol the parser says nothing at all.
    if error.is_parse() { Ending::Refused(StatusCode::BAD_REQUEST) } else { Ending::Over }
}

/// Ends a connection in the way from which its client learns most.
async fn leave<S: Transport>(mut stream: S, ending: &Ending, pace: &Pace, limits: &EdgeLimits) {
    match ending {
        Ending::Over if pace.is_unread() => linger(&mut stream, limits).await,
        Ending::Over => {}
        Ending::Refused(status) => {
            say(&mut stream, &unreadable(*status)).await;
            linger(&mut stream, limits).await;
        }
        Ending::Late(Timeout::Header) if !pace.is_stalled() => {
            let seconds = limits.header_time.as_secs_f64();
            let message = format!("the request's line and headers did not arrive within {seconds} s");
            say(&mut stream, &ApiError::new(StatusCode::REQUEST_TIMEOUT, "header_timeout", message)).await;
        }
        // Nothing was asked that could be answered.
        Ending::Late(Timeout::Idle) => {
            let _left = timeout(LAST_WORD, stream.shutdown()).await;
        }
        // What waits to be sent would keep the socket's memory for minutes.
        Ending::Late(_) => {
            let _left = stream.socket().set_zero_linger();
        }
    }
}

/// What the parser has refused, in the words of the limits that are checked behind it.
fn unreadable(status: StatusCode) -> ApiError {
    let (code, message) = match status {
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the path and query are too long: send less"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("headers_too_large", "the headers are too large: send less"),
        _ => ("invalid_request", "the request's line and headers are not HTTP/1.1"),
    };
    ApiError::new(status, code, message)
}

/// Answers where the parser of HTTP is not there to do it.
pub(crate) async fn say<S: AsyncWrite + Unpin>(stream: &mut S, error: &ApiError) {
    let (status, json) = (error.status, error.json());
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    );
    // Whoever has left does not miss it.
    let _unread = timeout(LAST_WORD, async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// Reads on, as much again as would have been taken: if the connection were closed on a client that is still writing,
/// the answer would be lost to it.
pub(crate) async fn linger<S: AsyncRead + Unpin>(stream: &mut S, limits: &EdgeLimits) {
    let deadline = Instant::now() + limits.body_time;
    let mut buffer = vec![0; 16 * 1024];
    let most = limits.body_bytes.max(limits.component_bytes).max(HEAD_BYTES);
    let mut left = most.saturating_mul(2);
    while left > 0 {
        let silent = deadline.min(Instant::now() + LAST_WORD);
        match timeout_at(silent, stream.read(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read),
            _ => return,
        }
    }
}

impl Transport for Paced {
    fn socket(&self) -> &Arc<TcpStream> {
        Paced::socket(self)
    }
}

impl Transport for TlsStream<Paced> {
    fn socket(&self) -> &Arc<TcpStream> {
        self.get_ref().0.socket()
    }
}

impl Asked {
    fn new(body: Incoming, pace: &Arc<Pace>) -> Self {
        pace.body_begun();
        Self { body, ended: false, pace: Arc::clone(pace) }
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.pace.body_left(!self.ended && !self.body.is_end_stream());
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
