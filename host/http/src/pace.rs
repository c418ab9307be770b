//! What one connection waits for, and until when: a head, the next request, or a client that takes what is written.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_telemetry::Timeout;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::config::EdgeLimits;

/// Told by the connection's stream and its requests how far they are; all of them run in one task.
pub(crate) struct Pace {
    times: Times,
    state: Mutex<State>,
}

/// A stream that tells its connection's pace what it reads and writes. TLS goes on top of it: what counts as written is
/// what the kernel took.
pub(crate) struct Paced {
    /// Shared, so that its end is seen even while nobody reads from it.
    stream: Arc<TcpStream>,
    pace: Arc<Pace>,
}

/// A request is in progress as long as this lives.
pub(crate) struct InRequest(Arc<Pace>);

/// In the extensions of a response: when all of it has to have been taken.
#[derive(Clone, Copy)]
pub(crate) struct Until(pub(crate) Instant);

#[derive(Clone, Copy)]
struct Times {
    header: Duration,
    idle: Duration,
    write: Duration,
}

struct State {
    requests: usize,
    /// Bodies that are still read.
    bodies: usize,
    /// Not everything is written of what was answered.
    owed: bool,
    /// The end of the time that the answer has.
    total: Option<Instant>,
    /// What comes of the next request.
    head: Head,
    /// Until when what could not be written must move on.
    stalled: Option<Instant>,
    /// A body was not read to its end.
    unread: bool,
}

/// A last word takes no longer to leave; and a client that is silent for so long has stopped writing.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
enum Head {
    /// The first one, which has no less time than the others, and no more.
    First {
        until: Instant,
    },
    Begun {
        until: Instant,
    },
    Awaited {
        until: Instant,
    },
}

impl Pace {
    pub(crate) fn new(limits: &EdgeLimits) -> Arc<Self> {
        let times = Times { header: limits.header_time, idle: limits.idle_time, write: limits.write_time };
        let head = Head::First { until: Instant::now() + times.header };
        let state = State { requests: 0, bodies: 0, owed: false, total: None, head, stalled: None, unread: false };
        Arc::new(Self { times, state: Mutex::new(state) })
    }

    /// The first head begins now, and not with the handshake before it.
    pub(crate) fn restart(&self) {
        self.state().head = Head::First { until: Instant::now() + self.times.header };
    }

    pub(crate) fn request(self: &Arc<Self>) -> InRequest {
        let mut state = self.state();
        state.requests += 1;
        state.owed = true;
        state.total = None;
        // Whatever was left of the one before has been read: else this one could not have been found.
        state.unread = false;
        drop(state);
        InRequest(Arc::clone(self))
    }

    /// Everything that there was to write is written.
    pub(crate) fn flushed(&self) {
        let mut state = self.state();
        if state.requests > 0 || !state.owed {
            return;
        }
        state.owed = false;
        state.total = None;
        if let Head::Awaited { until } = &mut state.head {
            *until = Instant::now() + self.times.idle;
        }
    }

    /// Whether there is a request that is not answered to the last byte.
    pub(crate) fn is_owed(&self) -> bool {
        self.state().owed
    }

    /// A request's body, which may have bytes that nobody has seen.
    pub(crate) fn body_begun(&self) {
        self.state().bodies += 1;
    }

    /// Somebody has let go of a body, before its end if it is `unread`.
    pub(crate) fn body_left(&self, unread: bool) {
        let mut state = self.state();
        state.bodies -= 1;
        state.unread |= unread;
    }

    /// Whether a client may still be writing what nobody is going to read.
    pub(crate) fn is_unread(&self) -> bool {
        let state = self.state();
        state.unread || (state.requests == 0 && matches!(state.head, Head::Begun { .. }))
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.state().stalled.is_some()
    }

    /// Until the client has closed its side and nothing is left to be read of what it asked. Whoever reads cannot be relied
    /// on to notice: one byte behind the request is enough that HTTP reads no further before its answer.
    pub(crate) async fn abandoned(&self, socket: &TcpStream) {
        // It waits for what is urgent, of which there is nothing, and with it for the end.
        let mut closed = pin!(socket.ready(Interest::PRIORITY));
        poll_fn(|cx| if self.is_answering() { closed.as_mut().poll(cx).map(|_| ()) } else { Poll::Pending }).await;
    }

    /// Looks at what there is to wait for whenever it is polled: after each poll of the connection.
    pub(crate) async fn expired(&self) -> Timeout {
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            loop {
                let Some((until, what)) = self.deadline() else { return Poll::Pending };
                // One that fires too early is set again: mostly the connection has gone on long before.
                if timer.is_elapsed() || until < timer.deadline() {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(cx));
                if until <= timer.deadline() {
                    return Poll::Ready(what);
                }
            }
        })
        .await
    }

    fn is_answering(&self) -> bool {
        let state = self.state();
        state.requests > 0 && state.bodies == 0
    }

    fn deadline(&self) -> Option<(Instant, Timeout)> {
        let state = self.state();
        let stalled = state.stalled.map(|until| (until, Timeout::WriteStall));
        let total = state.total.map(|until| (until, Timeout::Total));
        let head = (!state.owed).then_some(match state.head {
            Head::First { until } | Head::Begun { until } => (until, Timeout::Header),
            Head::Awaited { until } => (until, Timeout::Idle),
        });
        stalled.into_iter().chain(total).chain(head).min_by_key(|(until, _)| *until)
    }

    fn received(&self) {
        let mut state = self.state();
        if state.requests > 0 {
            return;
        }
        state.head = match state.head {
            Head::First { until } | Head::Begun { until } => Head::Begun { until },
            Head::Awaited { .. } => Head::Begun { until: Instant::now() + self.times.header },
        };
    }

    fn wrote<T>(&self, wrote: Poll<T>) -> Poll<T> {
        let mut state = self.state();
        match &wrote {
            Poll::Ready(_) => state.stalled = None,
            Poll::Pending => state.stalled = state.stalled.or_else(|| Some(Instant::now() + self.times.write)),
        }
        wrote
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InRequest {
    /// The answer itself ends with its time, and says so; but only if somebody reads it.
    pub(crate) fn ends(&self, Until(until): Until) {
        self.0.state().total = Some(until + LAST_WORD);
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.head = Head::Awaited { until: Instant::now() + self.0.times.idle };
    }
}

impl Paced {
    pub(crate) fn new(stream: TcpStream, pace: Arc<Pace>) -> Self {
        Self { stream: Arc::new(stream), pace }
    }

    pub(crate) fn socket(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    fn poll_try_write(
        &self,
        cx: &mut Context<'_>,
        attempt: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let Poll::Ready(ready) = self.stream.poll_write_ready(cx) else { return self.pace.wrote(Poll::Pending) };
            ready?;
            match attempt(&self.stream) {
                // Its readiness was of a time before.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                wrote => return self.pace.wrote(Poll::Ready(wrote)),
            }
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buf) {
                Ok(read) => {
                    if read > 0 {
                        self.pace.received();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The kernel sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn pace() -> Arc<Pace> {
        Pace::new(&EdgeLimits { header_time: 10 * S, idle_time: 20 * S, write_time: 5 * S, ..EdgeLimits::default() })
    }

    async fn expires(pace: &Pace) -> (Timeout, u64) {
        let began = Instant::now();
        let what = tokio::time::timeout(1000 * S, pace.expired()).await.expect("there is a deadline");
        (what, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_and_a_request_has_none() {
        let pace = pace();
        tokio::time::advance(4 * S).await;
        // More of it does not give it more time.
        pace.received();
        assert_eq!(expires(&pace).await, (Timeout::Header, 6));
        let request = pace.request();
        assert!(tokio::time::timeout(1000 * S, pace.expired()).await.is_err());
        drop(request);
        assert!(tokio::time::timeout(1000 * S, pace.expired()).await.is_err(), "not all is written");
        pace.flushed();
        tokio::time::advance(15 * S).await;
        pace.flushed();
        assert_eq!(expires(&pace).await, (Timeout::Idle, 5));
        pace.received();
        assert_eq!(expires(&pace).await, (Timeout::Header, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_moves_on_starts_again() {
        let pace = pace();
        let _request = pace.request();
        let blocked = || assert!(pace.wrote(Poll::<()>::Pending).is_pending());
        blocked();
        tokio::time::advance(4 * S).await;
        blocked();
        assert_eq!(expires(&pace).await, (Timeout::WriteStall, 1));
        let _taken = pace.wrote(Poll::Ready(()));
        assert!(tokio::time::timeout(1000 * S, pace.expired()).await.is_err());
        blocked();
        assert_eq!(expires(&pace).await, (Timeout::WriteStall, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time_until_its_last_byte_is_written() {
        let pace = pace();
        let request = pace.request();
        request.ends(Until(Instant::now() + 8 * S));
        drop(request);
        assert_eq!(expires(&pace).await, (Timeout::Total, 8 + LAST_WORD.as_secs()));
        pace.flushed();
        assert_eq!(expires(&pace).await, (Timeout::Idle, 20));
        // The next one begins without it.
        let _next = pace.request();
        assert!(tokio::time::timeout(1000 * S, pace.expired()).await.is_err());
    }

    /// As while a connection is polled for one thing and meanwhile comes to wait for another.
    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_comes_nearer_is_kept() {
        let pace = pace();
        drop(pace.request());
        pace.flushed();
        let waiting = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(3 * S) => pace.received(),
                    _ = pace.expired() => panic!("nothing has expired yet"),
                }
                expires(&pace).await
            }
        });
        assert_eq!(waiting.await.unwrap(), (Timeout::Header, 10));
    }

    #[tokio::test]
    async fn what_nobody_reads_is_known() {
        let pace = pace();
        assert!(!pace.is_unread());
        pace.received();
        assert!(pace.is_unread());
        let request = pace.request();
        assert!(!pace.is_unread());
        drop(request);
        assert!(!pace.is_unread());
        pace.body_begun();
        pace.body_left(true);
        assert!(pace.is_unread());
        let _next = pace.request();
        assert!(!pace.is_unread());
    }
}
