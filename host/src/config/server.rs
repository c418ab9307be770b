//! Where the server listens, whom it lets in, and how long it waits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sluice_http::{AnswerLimits, EdgeLimits, TlsFiles};

use super::{AuthSection, ConfigError, ServerSection, TimeoutsSection, TlsSection, at_least_one};

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    pub drain_timeout: Duration,
    /// How long a request may wait for a replica.
    pub queue_timeout: Duration,
    pub connections: EdgeLimits,
    pub answers: AnswerLimits,
    pub tls: Option<TlsConfig>,
    pub auth: AuthConfig,
}

/// The same certificate for both listeners; only the admin listener asks for its clients' own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    pub api: TlsFiles,
    pub admin: TlsFiles,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthConfig {
    pub key_file: Option<PathBuf>,
    pub public_paths: Vec<String>,
}

/// A day: more than any request takes, and little enough to add to a clock.
const LONGEST: f64 = 86_400.0;

impl ServerConfig {
    pub(super) fn of(
        server: &ServerSection,
        tls: TlsSection,
        auth: &AuthSection,
        timeouts: &TimeoutsSection,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            address: SocketAddr::new(server.host(), server.port()),
            admin_address: SocketAddr::new(server.admin_host(), server.admin_port()),
            drain_timeout: Duration::from_secs(server.drain_timeout()),
            queue_timeout: seconds("timeouts.queue", timeouts.queue())?,
            connections: connections(server, timeouts)?,
            answers: answers(server, timeouts)?,
            tls: tls_config(tls)?,
            auth: AuthConfig { key_file: auth.key_file.clone(), public_paths: auth.public_paths() },
        })
    }
}

fn connections(server: &ServerSection, timeouts: &TimeoutsSection) -> Result<EdgeLimits, ConfigError> {
    Ok(EdgeLimits {
        connections: some("server.max_connections", server.max_connections())?,
        body_bytes: some("server.max_body_bytes", server.max_body_bytes())?,
        bodies_bytes: some("server.max_bodies_bytes", server.max_bodies_bytes())?,
        headers: some("server.max_headers", server.max_headers())?,
        header_bytes: some("server.max_header_bytes", server.max_header_bytes())?,
        messages: some("server.max_messages", server.max_messages())?,
        unread_tokens: some("server.max_unread_tokens", server.max_unread_tokens())?,
        header_time: seconds("timeouts.header", timeouts.header())?,
        body_time: seconds("timeouts.body", timeouts.body())?,
        idle_time: seconds("timeouts.idle", timeouts.idle())?,
        write_time: seconds("timeouts.write_stall", timeouts.write_stall())?,
        ..EdgeLimits::default()
    })
}

fn answers(server: &ServerSection, timeouts: &TimeoutsSection) -> Result<AnswerLimits, ConfigError> {
    Ok(AnswerLimits {
        choices: some("server.max_choices", server.max_choices())?,
        first_token: seconds("timeouts.first_token", timeouts.first_token())?,
        stall: seconds("timeouts.stall", timeouts.stall())?,
        total: seconds("timeouts.total", timeouts.total())?,
        ..AnswerLimits::default()
    })
}

fn some(key: &str, limit: usize) -> Result<usize, ConfigError> {
    at_least_one(key, limit as u64).map(|()| limit)
}

pub(super) fn seconds(key: &str, typed: f64) -> Result<Duration, ConfigError> {
    match Duration::try_from_secs_f64(typed) {
        Ok(duration) if duration >= Duration::from_millis(1) && typed <= LONGEST => Ok(duration),
        _ => Err(ConfigError::new(key, format!("is {typed} seconds, and must be from 0.001 to {LONGEST}"))),
    }
}

fn tls_config(typed: TlsSection) -> Result<Option<TlsConfig>, ConfigError> {
    let (certificates, key) = match (typed.certfile, typed.keyfile) {
        (Some(certfile), Some(keyfile)) => (certfile, keyfile),
        (None, None) if typed.ca_certs.is_none() => return Ok(None),
        (None, _) => return Err(ConfigError::new("tls.certfile", "is not set, and TLS needs a certificate")),
        (_, None) => {
            return Err(ConfigError::new("tls.keyfile", "is not set, and a certificate needs its private key"));
        }
    };
    let api = TlsFiles { certificates, key, client_ca: None };
    Ok(Some(TlsConfig { admin: TlsFiles { client_ca: typed.ca_certs, ..api.clone() }, api }))
}
