//! What the server does once a second beside serving, on a blocking thread, until it is told to close.

use std::sync::Arc;
use std::time::Duration;

use sluice_control::{Control, DirectoryWatch};
use sluice_http::Phase;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

const PERIOD: Duration = Duration::from_secs(1);

/// Deploys what changes in the folder.
pub(crate) async fn watch_policies(folder: DirectoryWatch, control: Arc<Control>, phase: watch::Receiver<Phase>) {
    let look = move |folder: &mut DirectoryWatch| drop(folder.poll(&control));
    every_second("the folder of policies is not watched", folder, look, phase).await;
}

/// Writes what the audit log could not take when it happened, as while the disk was full.
pub(crate) async fn flush_audit(control: Arc<Control>, phase: watch::Receiver<Phase>) {
    // What fails is told by the control, and tried again a second later.
    let flush = |control: &mut Arc<Control>| drop(control.flush_audit());
    every_second("the audit log is not flushed", control, flush, phase).await;
}

async fn every_second<T: Send + 'static>(
    otherwise: &str,
    mut state: T,
    work: impl Fn(&mut T) + Clone + Send + 'static,
    mut phase: watch::Receiver<Phase>,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = phase.wait_for(|phase| *phase >= Phase::Closing) => return,
            _ = ticks.tick() => {}
        }
        let work = work.clone();
        let worked = spawn_blocking(move || {
            work(&mut state);
            state
        });
        match worked.await {
            Ok(back) => state = back,
            Err(error) => return tracing::error!(%error, "{otherwise} any more"),
        }
    }
}
