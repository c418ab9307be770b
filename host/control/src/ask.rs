//! Puts a question to a seat and waits for the answer, never longer than a bound.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use sluice_core::Policy;
use sluice_engine::order::{Order, OrderSender, Reply, Stopped};

/// An answer that is on its way.
pub(crate) struct Answer<T>(Receiver<T>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoAnswer {
    /// The thread ended and dropped the question.
    Stopped,
    /// The thread is busy with a step that takes longer than the bound.
    Late,
}

/// Hands over the order and returns at once.
pub(crate) fn ask<P, V, T>(
    seat: &OrderSender<P, V>,
    order: impl FnOnce(Reply<T>) -> Order<P, V>,
) -> Result<Answer<T>, Stopped>
where
    P: Policy + ?Sized,
    T: Send + 'static,
{
    let (sender, receiver) = sync_channel(1);
    // The one who asked may have given up: then nobody wants the answer.
    let reply: Reply<T> = Box::new(move |answer| drop(sender.try_send(answer)));
    seat(order(reply))?;
    Ok(Answer(receiver))
}

/// Waits for what was asked, if it reached its seat.
pub(crate) fn wait<T>(asked: Result<Answer<T>, Stopped>, limit: Duration) -> Result<T, NoAnswer> {
    let Answer(receiver) = asked.map_err(|Stopped| NoAnswer::Stopped)?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoAnswer::Late,
        RecvTimeoutError::Disconnected => NoAnswer::Stopped,
    })
}
