//! The server under load: where its endpoints are, which model it has, and which version it says it is.

use clap::ValueEnum;
use hyper::Uri;
use hyper_util::client::legacy::connect::Connect;
use serde::Serialize;
use serde_json::Value;

use crate::caller::Caller;
use crate::error::BenchError;

/// Where prompts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Endpoint {
    /// POST /v1/chat/completions
    Chat,
    /// POST /v1/completions
    Completions,
}

impl Endpoint {
    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Urls {
    pub(crate) generate: Uri,
    pub(crate) models: Uri,
    pub(crate) version: Uri,
    pub(crate) tokenize: Uri,
}

impl Urls {
    /// `base` may end with `/v1`, as OpenAI's clients have it, or not, as vLLM's.
    pub(crate) fn of(base: &str, endpoint: Endpoint) -> Result<Self, BenchError> {
        let bad = || BenchError::usage("--base-url", format!("`{base}` is no http:// or https:// URL"));
        let root = base.trim_end_matches('/');
        let root = root.strip_suffix("/v1").unwrap_or(root);
        let url = |path: &str| format!("{root}{path}").parse::<Uri>().map_err(|_| bad());
        let urls = Self {
            generate: url(endpoint.path())?,
            models: url("/v1/models")?,
            version: url("/version")?,
            tokenize: url("/tokenize")?,
        };
        let known = matches!(urls.models.scheme_str(), Some("http" | "https"));
        if known && urls.models.host().is_some_and(|host| !host.is_empty()) { Ok(urls) } else { Err(bad()) }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServerFacts {
    pub(crate) model: String,
    /// Prompt and answer together, where `/v1/models` says so.
    pub(crate) max_model_len: Option<u64>,
    /// The JSON of `/version`, where there is one.
    pub(crate) version: Option<Value>,
}

impl ServerFacts {
    pub(crate) async fn ask<C>(caller: &Caller<C>, model: Option<String>) -> Result<Self, BenchError>
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let models = caller.json(&caller.urls().models, None).await;
        let entry = models.as_ref().map(|models| listed(models, model.as_deref()));
        let name = match (model, entry) {
            (Some(name), _) => name,
            (None, Ok(entry)) => entry["id"].as_str().ok_or(BenchError::NoModels)?.to_owned(),
            (None, Err(failure)) => return Err(BenchError::Models(failure.clone())),
        };
        let max_model_len = entry.ok().and_then(|entry| entry["max_model_len"].as_u64());
        let version = caller.json(&caller.urls().version, None).await.ok();
        Ok(Self { model: name, max_model_len, version })
    }
}

/// The entry of this name in what `/v1/models` lists, else the first.
fn listed<'m>(models: &'m Value, name: Option<&str>) -> &'m Value {
    let entries = models["data"].as_array().map_or(&[][..], Vec::as_slice);
    match name {
        Some(name) => entries.iter().find(|entry| entry["id"] == name),
        None => entries.first(),
    }
    .unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_with_and_without_v1() {
        let bases = ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"];
        for base in bases {
            let urls = Urls::of(base, Endpoint::Chat).unwrap();
            assert_eq!(urls.generate.to_string(), "http://h:1/v1/chat/completions", "{base}");
            assert_eq!(urls.tokenize.to_string(), "http://h:1/tokenize", "{base}");
        }
        let urls = Urls::of("https://h/gateway/v1", Endpoint::Completions).unwrap();
        assert_eq!(urls.generate.to_string(), "https://h/gateway/v1/completions");
        for base in ["", "localhost:8000", "ftp://h", "http://", "http:///v1", "h", "http://a b"] {
            assert!(Urls::of(base, Endpoint::Chat).is_err(), "{base:?}");
        }
    }
}
