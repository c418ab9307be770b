//! Reads the bodies of requests: each bounded in bytes and in time, and all that are large in the bytes that they hold
//! together. Nobody waits for room while holding some: who finds none is told to come back.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use sluice_telemetry::{EdgeMetrics, Timeout};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;

/// What all requests to one listener may hold.
#[derive(Clone)]
pub(crate) struct Bodies {
    limit: usize,
    time: Duration,
    /// In bytes.
    room: Arc<Semaphore>,
    metrics: Option<EdgeMetrics>,
}

/// A body, and with it its share of the room.
pub(crate) struct Received {
    bytes: BytesMut,
    share: Option<OwnedSemaphorePermit>,
}

/// A body up to here is read and prepared where it arrives.
const SMALL_BYTES: usize = 4096;
/// A body up to here needs no share: even slow ones on all connections shut nobody else out. It is also the memory that
/// a body is given before any of it has come.
const FREE_BYTES: usize = 64 * 1024;
/// Who holds a share has to bring so much more within each of these times: else a few that stand still would keep the
/// room from all others for as long as a body may take.
const PIECE_BYTES: usize = 64 * 1024;
const PIECE_TIME: Duration = Duration::from_secs(5);

/// The piece of a large body that has to come next.
struct Piece {
    /// Bytes of the body when it is there.
    until: usize,
    deadline: Instant,
}

impl Bodies {
    /// `limit` is of one body, `together` of all.
    pub(crate) fn new(limit: usize, together: usize, time: Duration) -> Self {
        let room = together.max(limit).min(Semaphore::MAX_PERMITS);
        Self { limit, time, room: Arc::new(Semaphore::new(room)), metrics: None }
    }

    /// Those that come too late are counted.
    pub(crate) fn counted(self, metrics: EdgeMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// What it leaves of a body that is refused, the connection sees to.
    pub(crate) async fn read(&self, mut body: Body) -> Result<Received, ApiError> {
        let deadline = Instant::now() + self.time;
        let declared = body.size_hint().lower();
        if declared > self.limit as u64 {
            return Err(self.too_large());
        }
        // What is declared need not come.
        let first = usize::try_from(declared).unwrap_or(0).min(FREE_BYTES);
        let mut read = Received { bytes: BytesMut::with_capacity(first), share: None };
        let mut piece: Option<Piece> = None;
        loop {
            let until = piece.as_ref().map_or(deadline, |piece| piece.deadline.min(deadline));
            let frame = timeout_at(until, next_frame(&mut body)).await.map_err(|_| self.too_slow(until < deadline))?;
            let Some(frame) = frame else { return Ok(read) };
            let frame = frame.map_err(|error| {
                ApiError::new(StatusCode::BAD_REQUEST, "broken_body", format!("the body broke off: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > self.limit - read.bytes.len() {
                return Err(self.too_large());
            }
            self.make_room(&mut read, data.len())?;
            read.bytes.extend_from_slice(&data);
            if read.share.is_some() && piece.as_ref().is_none_or(|piece| piece.until <= read.bytes.len()) {
                piece = Some(Piece::after(read.bytes.len()));
            }
        }
    }

    /// A share grows as the bytes come: who only declares a body takes nothing from others.
    fn make_room(&self, read: &mut Received, more: usize) -> Result<(), ApiError> {
        let needed = read.bytes.len() + more;
        if needed <= FREE_BYTES {
            return Ok(());
        }
        let held = read.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = u32::try_from(needed - held).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.room).try_acquire_many_owned(missing).map_err(|_| busy())?;
        match &mut read.share {
            Some(share) => share.merge(more),
            share => *share = Some(more),
        }
        Ok(())
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body has more than {} bytes, which is the most that is taken", self.limit);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    fn too_slow(&self, stands_still: bool) -> ApiError {
        if let Some(metrics) = &self.metrics {
            metrics.timed_out(Timeout::Body);
        }
        let message = if stands_still {
            format!("of a large body, {PIECE_BYTES} bytes must arrive every {} s", PIECE_TIME.as_secs())
        } else {
            format!("the body did not arrive within {} s", self.time.as_secs_f64())
        };
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    }
}

impl Piece {
    fn after(bytes: usize) -> Self {
        Self { until: bytes + PIECE_BYTES, deadline: Instant::now() + PIECE_TIME }
    }
}

impl Received {
    pub(crate) fn is_small(&self) -> bool {
        self.bytes.len() <= SMALL_BYTES
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body of another type is refused before it is read.
pub(crate) fn expect_type(headers: &HeaderMap, expected: &str) -> Result<(), ApiError> {
    let found = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = found.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the body must be sent with `Content-Type: {expected}`, not `{essence}`"),
    ))
}

/// For a large request that found no room, or nobody free to read it.
pub(crate) fn busy() -> ApiError {
    let message = "the server is busy with other large requests: try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_overloaded", message).retry_after(sluice_core::SECOND)
}

async fn next_frame(body: &mut Body) -> Option<Result<hyper::body::Frame<bytes::Bytes>, axum::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll, ready};

    use axum::body::Bytes;
    use hyper::body::Frame;
    use tokio::time::{Sleep, sleep};

    use super::*;

    /// Arrives in pieces, one in each of these times, and then no further.
    struct Slow {
        piece: Bytes,
        every: Duration,
        pieces: usize,
        timer: Pin<Box<Sleep>>,
    }

    impl Slow {
        fn body(bytes: usize, every: Duration, pieces: usize) -> Body {
            Body::new(Self { piece: vec![0; bytes].into(), every, pieces, timer: Box::pin(sleep(every)) })
        }
    }

    impl HttpBody for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.pieces == 0 {
                return Poll::Pending;
            }
            ready!(self.timer.as_mut().poll(cx));
            self.pieces -= 1;
            self.timer = Box::pin(sleep(self.every));
            Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
        }
    }

    const S: Duration = Duration::from_secs(1);

    fn bodies() -> Bodies {
        Bodies::new(1_000_000, 1_200_000, 30 * S)
    }

    #[tokio::test]
    async fn large_bodies_share_the_room_and_others_pass() {
        let bodies = bodies();
        let read = async |bytes: usize| bodies.read(Body::from(vec![0; bytes])).await;
        let first = read(900_000).await.unwrap();
        assert_eq!((first.len(), first.is_small(), bodies.room.available_permits()), (900_000, false, 300_000));
        assert_eq!(read(500_000).await.map(|_| ()), Err(busy()));
        assert!(read(SMALL_BYTES).await.unwrap().is_small());
        assert!(!read(FREE_BYTES).await.unwrap().is_small());
        assert_eq!(bodies.room.available_permits(), 300_000);
        drop(first);
        assert_eq!(read(500_000).await.unwrap().len(), 500_000);
        assert_eq!(bodies.room.available_permits(), 1_200_000);
    }

    /// All of the room is with bodies that come no further: who comes then is told at once, and they do not stay.
    #[tokio::test(start_paused = true)]
    async fn bodies_that_stand_still_keep_nobody_out_for_long() {
        let bodies = bodies();
        let began = Instant::now();
        let still = (0..3).map(|_| {
            let bodies = bodies.clone();
            tokio::spawn(async move { bodies.read(Slow::body(400_000, Duration::ZERO, 1)).await.map(|_| ()) })
        });
        let still: Vec<_> = still.collect();
        sleep(S).await;
        assert_eq!(bodies.room.available_permits(), 0);
        assert_eq!(bodies.read(Body::from(vec![0; 100_000])).await.map(|_| ()), Err(busy()));
        assert_eq!(bodies.read(Body::from(vec![0; FREE_BYTES])).await.unwrap().len(), FREE_BYTES);
        assert_eq!(began.elapsed(), S);
        for still in still {
            assert_eq!(still.await.unwrap(), Err(bodies.too_slow(true)));
        }
        assert_eq!((began.elapsed(), bodies.room.available_permits()), (PIECE_TIME, 1_200_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_as_long_as_it_brings_its_pieces() {
        let check = async |bytes, every, pieces, after: Duration, stands_still| {
            let (bodies, began) = (bodies(), Instant::now());
            let read = bodies.read(Slow::body(bytes, every, pieces)).await.map(|_| ());
            assert_eq!((read, began.elapsed()), (Err(bodies.too_slow(stands_still)), after));
        };
        // Small ones, large ones that are fast enough, and one that comes to a stop.
        check(100, S, 1_000, 30 * S, false).await;
        check(20_000, S, 1_000, 30 * S, false).await;
        check(10_000, S, 1_000, 7 * S + PIECE_TIME, true).await;
        check(20_000, S, 10, 8 * S + PIECE_TIME, true).await;
    }
}
