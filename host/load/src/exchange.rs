//! One request from its first byte to the last of its answer, with the time of everything in between.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::Connect;
use tokio::time::timeout;

use crate::answer::{Answer, Origin};
use crate::caller::{Caller, MAX_ANSWER_BYTES};
use crate::chunk::Chunk;
use crate::events::EventReader;
use crate::failure::{Failure, causes};
use crate::record::Asked;

/// How answers are asked for and how long they are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) stream: bool,
    pub(crate) timeout: Duration,
}

/// Never fails: what went wrong is part of the answer, and what came before it stays. So it is when `cut` is ready first.
pub(crate) async fn exchange<C>(
    caller: &Caller<C>,
    manner: Manner,
    origin: Origin,
    body: Bytes,
    asked: &Asked,
    cut: impl Future<Output = ()>,
) -> Answer
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let mut answer = Answer::default();
    let conversation = timeout(manner.timeout, converse(caller, manner.stream, origin, body, &mut answer));
    let outcome = tokio::select! {
        biased;
        outcome = conversation => outcome.unwrap_or(Err(Failure::Timeout(manner.timeout))),
        () = cut => Err(Failure::CutShort),
    };
    answer.ended = origin.elapsed();
    answer.failure = outcome.and_then(|()| answer.check(asked)).err();
    answer
}

async fn converse<C>(
    caller: &Caller<C>,
    stream: bool,
    origin: Origin,
    body: Bytes,
    answer: &mut Answer,
) -> Result<(), Failure>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let incoming = caller.generate(body).await?;
    if stream {
        return streamed(incoming, origin, answer).await;
    }
    let bytes = caller.collect(incoming).await?;
    answer.whole(Chunk::parse(&bytes).map_err(|error| Failure::Malformed(error.to_string()))?)
}

async fn streamed(mut incoming: Incoming, origin: Origin, answer: &mut Answer) -> Result<(), Failure> {
    let (mut reader, mut size) = (EventReader::default(), 0);
    while let Some(frame) = incoming.frame().await {
        let at = origin.elapsed();
        let Ok(bytes) = frame.map_err(|error| Failure::BrokenStream(causes(&error)))?.into_data() else { continue };
        size += bytes.len();
        if size > MAX_ANSWER_BYTES {
            return Err(Failure::Malformed(format!("longer than {MAX_ANSWER_BYTES} bytes")));
        }
        let mut outcome = Ok(());
        let read = reader.push(&bytes, |data| {
            if outcome.is_ok() {
                outcome = event(data, at, answer);
            }
        });
        read.map_err(|error| Failure::Malformed(error.to_string()))?;
        outcome?;
    }
    Ok(())
}

fn event(data: &[u8], at: Duration, answer: &mut Answer) -> Result<(), Failure> {
    if data == b"[DONE]" {
        return Ok(());
    }
    let chunk = Chunk::parse(data).map_err(|error| Failure::Malformed(error.to_string()))?;
    answer.chunk(chunk, at)
}
