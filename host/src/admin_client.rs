//! Talks to a running server's admin listener: with a key, and over TLS where the address says so.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use reqwest::{Certificate, Client, Identity, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::AdminArguments;
use crate::listeners::ADMIN_KEY;

pub(crate) struct AdminClient {
    http: Client,
    base: Url,
    key: Option<String>,
}

/// OpenAI's envelope.
#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    message: String,
}

const UNREADABLE: &str = "the admin listener's answer cannot be read";

impl AdminClient {
    pub(crate) fn new(typed: &AdminArguments) -> Result<Self> {
        let base = typed.admin.parse().with_context(|| format!("--admin {}", typed.admin))?;
        let key = match &typed.admin_key_file {
            Some(file) => {
                Some(String::from_utf8(read(file)?).with_context(|| file.display().to_string())?.trim().to_owned())
            }
            None => env::var(ADMIN_KEY).ok(),
        };
        Ok(Self { http: http(typed)?, base, key })
    }

    pub(crate) fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// The answer, which is JSON.
pub(crate) async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T> {
    answer(request).await?.json().await.context(UNREADABLE)
}

/// The answer's bytes, whatever they are.
pub(crate) async fn bytes(request: RequestBuilder) -> Result<Vec<u8>> {
    Ok(answer(request).await?.bytes().await.context(UNREADABLE)?.to_vec())
}

/// A success, whatever it says.
async fn answer(request: RequestBuilder) -> Result<Response> {
    let response = request.send().await.context("the admin listener does not answer: is the server running?")?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<Refusal>().await {
        Ok(refusal) => Err(anyhow!("{}", refusal.error.message)),
        Err(_) => Err(anyhow!("the server answered {status}: does --admin name its admin listener?")),
    }
}

fn http(typed: &AdminArguments) -> Result<Client> {
    // A second call finds it installed.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder();
    if let Some(file) = &typed.ssl_ca_certs {
        let authorities = Certificate::from_pem_bundle(&read(file)?).with_context(|| file.display().to_string())?;
        builder = builder.tls_certs_merge(authorities);
    }
    if let Some(file) = &typed.ssl_identity {
        builder = builder.identity(Identity::from_pem(&read(file)?).with_context(|| file.display().to_string())?);
    }
    builder.build().context("no connection can be made")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| file.display().to_string())
}
