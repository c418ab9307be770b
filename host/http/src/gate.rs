//! Lets a request pass that brings a key for what it wants, and says to all others what is missing.

use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::caller::Caller;
use crate::error::ApiError;
use crate::key::{Key, SECRET_BYTES, Scope};
use crate::keys::{KeySet, Keys};

/// Stands before every path of a listener.
#[derive(Clone)]
pub struct Gate {
    keys: Keys,
    public: Vec<String>,
}

/// A path that may not be open to all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the path `{0}` cannot be made public: of those that can there are {list}", list = MAY_BE_PUBLIC.join(", "))]
pub struct NotPublic(String);

/// What a path asks of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    AnyKey,
    Scope(Scope),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// No key, or none that is known.
    Unknown(&'static str),
    OutOfScope {
        name: String,
        scope: Scope,
    },
}

/// Those that tell no secrets.
const MAY_BE_PUBLIC: [&str; 5] = ["/health", "/ready", "/version", "/metrics", "/admin/health"];

impl Gate {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Self { keys: Keys::open(), public: Vec::new() }
    }

    /// `public` are the paths that need no key, as a probe that has none asks for.
    pub fn new(keys: Keys, public: Vec<String>) -> Result<Self, NotPublic> {
        match public.iter().find(|path| !MAY_BE_PUBLIC.contains(&path.as_str())) {
            Some(path) => Err(NotPublic(path.clone())),
            None => Ok(Self { keys, public }),
        }
    }

    /// `path` is one that the listener has, or `None`.
    pub(crate) fn admit(&self, path: Option<&str>, need: Need, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let public = path.is_some_and(|path| self.public.iter().any(|public| public == path));
        match self.keys.now() {
            Some(keys) if !public => Ok(Caller::with(allowed(&keys, need, headers)?)),
            _ => Ok(Caller::unchecked(headers)),
        }
    }
}

fn allowed<'a>(keys: &'a KeySet, need: Need, headers: &HeaderMap) -> Result<&'a Key, Refusal> {
    let secret = bearer(headers)?;
    let key = keys.find(secret).ok_or(Refusal::Unknown("the API key is not one that this server knows"))?;
    match need {
        Need::Scope(scope) if !key.allows(scope) => Err(Refusal::OutOfScope { name: key.name().to_string(), scope }),
        _ => Ok(key),
    }
}

/// What stands behind `Bearer`, of which there must be one.
fn bearer(headers: &HeaderMap) -> Result<&[u8], Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let missing = Refusal::Unknown("there is no API key: send one as `Authorization: Bearer KEY`");
    let value = values.next().ok_or(missing)?.as_bytes();
    if values.next().is_some() {
        return Err(Refusal::Unknown("there are two Authorization headers: send one"));
    }
    let (scheme, secret) = value.split_at(value.iter().position(|byte| *byte == b' ').unwrap_or(value.len()));
    let secret = secret.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"bearer") || secret.is_empty() || secret.len() > SECRET_BYTES {
        return Err(Refusal::Unknown("the Authorization header must be `Bearer KEY`, with a key of this server"));
    }
    Ok(secret)
}

impl Refusal {
    fn error(&self) -> ApiError {
        match self {
            Self::Unknown(why) => ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", *why),
            Self::OutOfScope { name, scope } => {
                let message = format!("the key `{name}` does not have the scope `{scope}`, which this path needs");
                ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", message)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.error().into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_key_comes_as_one_bearer_token() {
        let longest = "x".repeat(SECRET_BYTES);
        for (value, secret) in
            [("Bearer s", "s"), ("bearer   s", "s"), ("BEARER s ", "s"), (&format!("Bearer {longest}"), &*longest)]
        {
            assert_eq!(bearer(&headers(&[value])), Ok(secret.as_bytes()), "{value}");
        }
        let too_long = format!("Bearer {longest}x");
        let refused =
            [&[][..], &["Bearer"], &["Bearer "], &["Basic s"], &["s"], &[&too_long], &["Bearer s", "Bearer s"]];
        for values in refused {
            assert!(bearer(&headers(values)).is_err(), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_header_holds_only_the_secret_itself_is_let_in(
            scheme in "[Bb]earer|[!-~]{0,8}",
            secret in prop_oneof![Just(b"secret".to_vec()), prop::collection::vec(0x20_u8..=0xff, 0..20)],
        ) {
            let key = Key::of_secret("a", "secret", &[Scope::Inference]).unwrap();
            let gate = Gate::new(Keys::load(vec![key], None).unwrap(), Vec::new()).unwrap();
            let value = [scheme.as_bytes(), b" ", &secret].concat();
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let admitted = gate.admit(None, Need::AnyKey, &HeaderMap::from_iter([(AUTHORIZATION, value)])).is_ok();
            prop_assert_eq!(admitted, scheme.eq_ignore_ascii_case("bearer") && secret.trim_ascii() == b"secret");
        }
    }

    #[test]
    fn only_what_tells_no_secrets_can_be_public() {
        let gate = |path: &str| Gate::new(Keys::open(), vec![path.to_owned()]).map(|_| ());
        assert_eq!(gate("/health"), Ok(()));
        let error = gate("/v1/models").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the path `/v1/models` cannot be made public: of those that can there are /health, /ready, /version, \
             /metrics, /admin/health"
        );
    }
}
