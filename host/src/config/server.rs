//! Where the server listens, whom it lets in, and how long it waits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{AuthSection, ConfigError, ServerSection, TimeoutsSection, TlsSection, at_least_one};

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    pub drain_timeout: Duration,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub timeouts: Timeouts,
    /// Without it the listeners speak plain HTTP.
    pub tls: Option<TlsFiles>,
    pub auth: AuthConfig,
}

/// Each is longer than nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    pub header: Duration,
    pub body: Duration,
    pub idle: Duration,
    pub write_stall: Duration,
    pub queue: Duration,
    pub first_token: Duration,
    pub stall: Duration,
    pub total: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
    /// Of the admin listener's clients.
    pub ca_certs: Option<PathBuf>,
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
        at_least_one("server.max_connections", server.max_connections() as u64)?;
        at_least_one("server.max_body_bytes", server.max_body_bytes() as u64)?;
        Ok(Self {
            address: SocketAddr::new(server.host(), server.port()),
            admin_address: SocketAddr::new(server.admin_host(), server.admin_port()),
            drain_timeout: Duration::from_secs(server.drain_timeout()),
            max_connections: server.max_connections(),
            max_body_bytes: server.max_body_bytes(),
            timeouts: Timeouts::of(timeouts)?,
            tls: tls_files(tls)?,
            auth: AuthConfig { key_file: auth.key_file.clone(), public_paths: public_paths(auth)? },
        })
    }
}

impl Timeouts {
    fn of(typed: &TimeoutsSection) -> Result<Self, ConfigError> {
        Ok(Self {
            header: seconds("timeouts.header", typed.header())?,
            body: seconds("timeouts.body", typed.body())?,
            idle: seconds("timeouts.idle", typed.idle())?,
            write_stall: seconds("timeouts.write_stall", typed.write_stall())?,
            queue: seconds("timeouts.queue", typed.queue())?,
            first_token: seconds("timeouts.first_token", typed.first_token())?,
            stall: seconds("timeouts.stall", typed.stall())?,
            total: seconds("timeouts.total", typed.total())?,
        })
    }
}

pub(super) fn seconds(key: &str, typed: f64) -> Result<Duration, ConfigError> {
    match Duration::try_from_secs_f64(typed) {
        Ok(duration) if duration >= Duration::from_millis(1) && typed <= LONGEST => Ok(duration),
        _ => Err(ConfigError::new(key, format!("is {typed} seconds, and must be from 0.001 to {LONGEST}"))),
    }
}

fn tls_files(typed: TlsSection) -> Result<Option<TlsFiles>, ConfigError> {
    match (typed.certfile, typed.keyfile, typed.ca_certs) {
        (Some(certfile), Some(keyfile), ca_certs) => Ok(Some(TlsFiles { certfile, keyfile, ca_certs })),
        (None, None, None) => Ok(None),
        (None, _, _) => Err(ConfigError::new("tls.certfile", "is not set, and TLS needs a certificate")),
        (_, None, _) => Err(ConfigError::new("tls.keyfile", "is not set, and TLS needs the certificate's private key")),
    }
}

fn public_paths(typed: &AuthSection) -> Result<Vec<String>, ConfigError> {
    let paths = typed.public_paths();
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(wrong) => Err(ConfigError::new("auth.public_paths", format!("`{wrong}` does not begin with `/`"))),
        None => Ok(paths),
    }
}
