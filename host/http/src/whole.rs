//! An answer as one object, once it has ended.

use std::future::poll_fn;

use axum::Json;
use axum::response::{IntoResponse, Response};

use crate::answer::{Answer, Ending};
use crate::error::ApiError;
use crate::object::Header;

pub(crate) async fn response(mut answer: Answer, header: &Header) -> Result<Response, ApiError> {
    let mut text = String::new();
    loop {
        match poll_fn(|cx| answer.poll(cx, &mut |more| text.push_str(more))).await {
            None => {}
            Some(Ending::Failed(error)) => return Err(error),
            Some(Ending::Finished { reason, usage }) => {
                return Ok(Json(header.whole(&text, reason, usage)).into_response());
            }
        }
    }
}
