//! The name by which a request's client and the logs know it: the client's own, or one of ours.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

/// Stands in the extensions of every request. Visible ASCII.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestName(HeaderValue);

/// Makes names that no other process makes.
pub(crate) struct RequestNames {
    /// Differs between the listeners of a process.
    prefix: &'static str,
    seed: u64,
    next: AtomicU64,
}

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const MAX_BYTES: usize = 128;

impl RequestNames {
    pub(crate) fn new(prefix: &'static str, seed: u64) -> Self {
        Self { prefix, seed, next: AtomicU64::new(1) }
    }

    /// A name that is too long, or could do something to a log, is not the client's to choose.
    fn name(&self, headers: &HeaderMap) -> RequestName {
        let sent = headers.get(HEADER).filter(|name| {
            let bytes = name.as_bytes();
            (1..=MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
        });
        RequestName(sent.cloned().unwrap_or_else(|| self.own()))
    }

    fn own(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{:016x}{number:016x}", self.prefix, self.seed);
        HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("req"))
    }
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// Every response has its request's name, errors too.
pub(crate) async fn name_request(State(names): State<Arc<RequestNames>>, mut request: Request, next: Next) -> Response {
    let name = names.name(request.headers());
    request.extensions_mut().insert(name.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(HEADER, name.0);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_clients_if_it_is_short_and_visible() {
        let names = RequestNames::new("req", 0xabc);
        let name = |sent: Option<&[u8]>| {
            let headers = sent.map(|sent| (HEADER, HeaderValue::from_bytes(sent).unwrap()));
            names.name(&headers.into_iter().collect()).to_string()
        };
        let longest = [b'x'; MAX_BYTES];
        for sent in [&b"a-1"[..], b"~", &longest] {
            assert_eq!(name(Some(sent)).as_bytes(), sent);
        }
        let own = [
            name(None),
            name(Some(b"")),
            name(Some(b"a b")),
            name(Some("é".as_bytes())),
            name(Some(&[b'x'; MAX_BYTES + 1])),
        ];
        let expected: Vec<String> = (1..=5).map(|n| format!("req-0000000000000abc{n:016x}")).collect();
        assert_eq!(own, expected[..]);
    }
}
