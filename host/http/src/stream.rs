//! An answer as server-sent events: the body that the connection itself drives, with no task or queue of its own.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use hyper::body::Frame;

use crate::answer::{Answer, Ending};
use crate::object::Chunks;

struct Events {
    answer: Answer,
    chunks: Chunks,
    /// Reused once the connection has written what was split off.
    out: BytesMut,
    ended: bool,
}

/// Room for the chunks of a few tokens; grows with the stream's burst and then stays.
const BUFFER: usize = 4096;

pub(crate) fn response(answer: Answer, chunks: Chunks) -> Response {
    let events = Events { answer, chunks, out: BytesMut::with_capacity(BUFFER), ended: false };
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
            let Self { answer, chunks, out, ended } = &mut *this;
            let ending = ready!(answer.poll(cx, &mut |text| chunks.token(out, text)));
            *ended = ending.is_some();
            match ending {
                Some(Ending::Finished { reason, usage }) => chunks.finish(out, reason, usage),
                Some(Ending::Failed(error)) => chunks.error(out, &error.json()),
                // All that came is still held back.
                None if out.is_empty() => continue,
                None => {}
            }
            return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
