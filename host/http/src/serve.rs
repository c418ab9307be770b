//! Takes connections and speaks HTTP/1.1 on them: bounded in number and in the time their headers may take.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sluice_telemetry::EdgeMetrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::EdgeLimits;

/// How far a listener is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    Serving,
    /// No new connections; each open one ends with the request it is in.
    Closing,
    /// Open connections are dropped.
    Gone,
}

/// Of a request's line and headers.
const HEADER_BYTES: usize = 128 * 1024;
/// After a failure to accept, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Until the phase is `Closing` and the last connection has ended, or the phase is `Gone`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: EdgeLimits,
    metrics: Option<EdgeMetrics>,
    mut phase: watch::Receiver<Phase>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let (permit, stream) = tokio::select! {
            biased;
            _ = reached(&mut phase, Phase::Closing) => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let counted = metrics.as_ref().map(EdgeMetrics::connection);
        let connection = connection(stream, router.clone(), limits.header_time, phase.clone());
        connections.spawn(async move {
            connection.await;
            drop((counted, permit));
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all_ended => {}
        _ = reached(&mut phase, Phase::Gone) => {}
    }
}

/// A connection beyond the bound waits in the listener's backlog.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // The semaphore is never closed.
    let permit = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (permit, stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, read: Duration, mut phase: watch::Receiver<Phase>) {
    // Without it each token would wait for the acknowledgement of the one before.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection went away at once");
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = reached(&mut phase, Phase::Closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// A phase at or behind `goal`, or nobody left who could set one.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, goal: Phase) {
    let _phase = phase.wait_for(|phase| *phase >= goal).await;
}
