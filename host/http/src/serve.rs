//! Takes connections, bounded in number, and brings each one as far as HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use sluice_telemetry::{EdgeMetrics, Timeout};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::EdgeLimits;
use crate::connection::{linger, say, speak};
use crate::episode::Episode;
use crate::error::ApiError;
use crate::pace::{Pace, Paced};
use crate::tls::Tls;

/// How far a listener is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    Serving,
    /// No new connections; each open one ends with the request it is in.
    Closing,
    /// Open connections are dropped.
    Gone,
}

/// How a listener takes its connections.
#[derive(Clone)]
pub struct Connections {
    pub limits: EdgeLimits,
    /// `None` for plain text.
    pub tls: Option<Tls>,
    pub metrics: Option<EdgeMetrics>,
}

/// What the log is told once, however often it happens.
#[derive(Default)]
struct Troubles {
    full: Episode,
    failed: Episode,
}

/// After a failure to accept, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// What the kernel takes beyond what is on its way to the client. Else it takes megabytes, and then nothing until a third
/// of them has left: whoever reads slowly would look like one that does not read.
const UNSENT_BYTES: u32 = 16 * 1024;
/// What every connection with TLS begins with.
const TLS_HANDSHAKE: u8 = 22;

/// Until the phase is `Closing` and the last connection has ended, or the phase is `Gone`.
pub async fn serve(listener: TcpListener, router: Router, taken: Connections, mut phase: watch::Receiver<Phase>) {
    let room = Arc::new(Semaphore::new(taken.limits.connections.min(Semaphore::MAX_PERMITS)));
    let taken = Arc::new(taken);
    let mut connections = JoinSet::new();
    let mut troubles = Troubles::default();
    loop {
        let (permit, stream) = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Closing) => break,
            accepted = accept(&listener, &room, &mut troubles) => accepted,
        };
        let (taken, router, phase) = (Arc::clone(&taken), router.clone(), phase.clone());
        connections.spawn(async move {
            let _counted = taken.metrics.as_ref().map(EdgeMetrics::connection);
            let expired = taken.connection(stream, router, phase).await;
            if let Some(expired) = expired {
                taken.timed_out(expired);
            }
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all_ended => {}
        () = reached(&mut phase, Phase::Gone) => {}
    }
}

/// A connection beyond the bound waits in the listener's backlog.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    troubles: &mut Troubles,
) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    if room.available_permits() == 0 && troubles.full.begins() {
        let address = listener.local_addr().ok();
        tracing::warn!(?address, "there are as many connections as may be: more of them wait until one ends");
    }
    // The semaphore is never closed.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (permit, stream),
            Err(error) => {
                if troubles.failed.begins() {
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Connections {
    fn timed_out(&self, what: Timeout) {
        if let Some(metrics) = &self.metrics {
            metrics.timed_out(what);
        }
        // That connections go which nobody uses is no news.
        if what != Timeout::Idle {
            tracing::info!(timeout = what.as_str(), "a connection was ended, since its client took too long");
        }
    }

    /// What took too long, if it was that which ended the connection.
    async fn connection(&self, stream: TcpStream, router: Router, phase: watch::Receiver<Phase>) -> Option<Timeout> {
        if let Err(error) = hurry(&stream) {
            tracing::debug!(%error, "the connection went away at once");
            return None;
        }
        match &self.tls {
            None => {
                let pace = Pace::new(&self.limits);
                speak(Paced::new(stream, Arc::clone(&pace)), &pace, router, &self.limits, phase).await
            }
            Some(tls) => self.secured(tls.acceptor(), stream, router, phase).await,
        }
    }

    async fn secured(
        &self,
        acceptor: TlsAcceptor,
        mut stream: TcpStream,
        router: Router,
        mut phase: watch::Receiver<Phase>,
    ) -> Option<Timeout> {
        let pace = Pace::new(&self.limits);
        let handshake = async {
            let mut first = [TLS_HANDSHAKE];
            stream.peek(&mut first).await?;
            if first == [TLS_HANDSHAKE] {
                return acceptor.accept(Paced::new(stream, Arc::clone(&pace))).await.map(Some);
            }
            say(&mut stream, &plain_text()).await;
            linger(&mut stream, &self.limits).await;
            Ok(None)
        };
        let shaken = tokio::select! {
            biased;
            // A connection that has asked for nothing yet loses nothing.
            () = reached(&mut phase, Phase::Closing) => return None,
            shaken = timeout(self.limits.header_time, handshake) => shaken,
        };
        match shaken {
            Ok(Ok(Some(stream))) => {
                pace.restart();
                speak(stream, &pace, router, &self.limits, phase).await
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => Some(Timeout::Handshake),
        }
    }
}

fn hurry(stream: &TcpStream) -> io::Result<()> {
    // Without it each token would wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)
}

fn plain_text() -> ApiError {
    let message = "this port speaks TLS: use a URL that begins with https://";
    ApiError::new(StatusCode::BAD_REQUEST, "tls_required", message)
}

/// A phase at or behind `goal`, or nobody left who could set one.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, goal: Phase) {
    let _phase = phase.wait_for(|phase| *phase >= goal).await;
}
