//! Answers as server-sent events: the body that the connection itself drives, with no task or queue of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use hyper::body::Frame;

use crate::answers::{Answers, Step};
use crate::chunks::Chunks;
use crate::live::{LiveAnswer, until_written};

struct Events {
    answers: Answers,
    chunks: Chunks,
    /// Reused once the connection has written what was split off.
    out: BytesMut,
    ended: bool,
    /// Until the last event is written.
    live: Vec<Arc<LiveAnswer>>,
}

/// Room for the chunks of a few tokens; grows with the stream's burst and then stays.
const BUFFER: usize = 4096;

pub(crate) fn response(answers: Answers, chunks: Chunks) -> Response {
    let live = answers.live();
    let events = Events { answers, chunks, out: BytesMut::with_capacity(BUFFER), ended: false, live };
    let headers = [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::new(events)).into_response()
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    /// Several tokens that have come at once leave as one frame.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        while !this.ended {
            let Self { answers, chunks, out, ended, .. } = &mut *this;
            let step = ready!(answers.poll(cx, &mut |choice, part| chunks.part(out, choice, &part)));
            *ended = matches!(step, Step::Finished(_) | Step::Failed(_));
            match step {
                Step::Finished(usage) => chunks.finish(out, usage),
                Step::Failed(error) => chunks.error(out, &error.json()),
                Step::Quiet => chunks.sign_of_life(out),
                // All that came is still held back.
                Step::Some if out.is_empty() => continue,
                Step::Some => {}
            }
            let mut data = this.out.split().freeze();
            if this.ended {
                data = until_written(data, std::mem::take(&mut this.live));
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
