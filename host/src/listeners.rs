//! Both listeners: bound and given their keys and certificates before anything slow begins, so that what is wrong with
//! them shows at once.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use sluice_control::Control;
use sluice_http::{
    AdminParts, Connections, Edge, EdgeLimits, Gate, Key, Keys, Phase, Scope, Tls, admin_router, openai_router, serve,
};
use sluice_telemetry::EdgeMetrics;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::ServerConfig;

pub struct Listeners {
    api: Listener,
    admin: Listener,
    keys: Keys,
    gate: Gate,
    limits: EdgeLimits,
}

struct Listener {
    socket: TcpListener,
    tls: Option<Tls>,
}

/// Secrets from the environment, each a key of its own beside those of the key file.
#[derive(Default)]
pub struct Secrets {
    /// For clients: answers and metrics.
    pub api: Option<String>,
    /// For operators: deployments, and all that clients may.
    pub admin: Option<String>,
}

/// The variables that hold them.
pub const API_KEY: &str = "SLUICE_API_KEY";
pub const ADMIN_KEY: &str = "SLUICE_ADMIN_KEY";

/// Whoever can deploy decides what every request meets.
#[derive(Debug, thiserror::Error)]
#[error(
    "the admin listener would be open to everyone who reaches {0}: give it keys ({ADMIN_KEY} or --api-key-file), or ask \
     its clients for certificates (--ssl-ca-certs)"
)]
struct OpenAdmin(SocketAddr);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({reason}): choose another port with {flag}")]
pub struct ServerError {
    address: SocketAddr,
    flag: &'static str,
    reason: std::io::Error,
}

/// Of the admin listener.
const ADMIN_CONNECTIONS: usize = 32;
/// Connections that wait to be accepted: a burst beyond it is refused, and each comes again only after a second.
const BACKLOG: u32 = 4096;

impl Listeners {
    /// Within a runtime.
    pub fn open(config: &ServerConfig, secrets: &Secrets) -> Result<Self> {
        let keys = Keys::load(secrets.keys()?, config.auth.key_file.clone())?;
        let gate = Gate::new(keys.clone(), config.auth.public_paths.clone())?;
        let tls = config.tls.clone();
        let (api, admin) = tls.map_or((None, None), |tls| (Some(tls.api), Some(tls.admin)));
        refuse_open_admin(config, &keys)?;
        let listeners = Self {
            api: Listener { socket: bind(config.address, "--port")?, tls: api.map(Tls::load).transpose()? },
            admin: Listener {
                socket: bind(config.admin_address, "--admin-port")?,
                tls: admin.map(Tls::load).transpose()?,
            },
            keys,
            gate,
            limits: config.connections.within_open_files(),
        };
        listeners.warn_if_open(config);
        Ok(listeners)
    }

    /// Where the API listens, as a URL begins.
    pub fn url(&self) -> std::io::Result<String> {
        self.api.url()
    }

    pub fn admin_url(&self) -> std::io::Result<String> {
        self.admin.url()
    }

    /// Takes connections until the phase says otherwise; keys and certificates are read again when they change.
    pub(crate) fn serve(
        self,
        edge: Arc<Edge>,
        control: Arc<Control>,
        metrics: &EdgeMetrics,
        phase: &watch::Receiver<Phase>,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.keys.follow(phase.clone()));
        let time_outs = metrics.of_time_outs();
        let parts = AdminParts { control, limits: self.limits, metrics: time_outs.clone(), seed: edge.name_seed() };
        let (api, admin) = (openai_router(edge, self.gate.clone()), admin_router(parts, self.gate));
        // An operator needs few, and gets them however many clients there are.
        let few = EdgeLimits { connections: self.limits.connections.min(ADMIN_CONNECTIONS), ..self.limits };
        let listeners = [(self.api, api, self.limits, metrics.clone()), (self.admin, admin, few, time_outs)];
        for (listener, router, limits, metrics) in listeners {
            if let Some(tls) = listener.tls.clone() {
                tasks.spawn(tls.follow(phase.clone()));
            }
            let connections = Connections { limits, tls: listener.tls, metrics: Some(metrics) };
            tasks.spawn(serve(listener.socket, router, connections, phase.clone()));
        }
        tasks
    }

    fn warn_if_open(&self, config: &ServerConfig) {
        let address = config.address;
        if self.keys.is_open() && !address.ip().is_loopback() {
            tracing::warn!(%address, "the API is open to everyone who reaches it: give it keys with --api-key-file");
        }
    }
}

impl Listener {
    fn url(&self) -> std::io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.socket.local_addr()?))
    }
}

impl Secrets {
    fn keys(&self) -> Result<Vec<Key>> {
        let of = |name, secret: &Option<String>, scopes: &[Scope]| {
            let key = secret.as_ref().map(|secret| Key::of_secret(name, secret, scopes)).transpose();
            key.map_err(|error| anyhow::anyhow!("{name} cannot be a key: {error}"))
        };
        let api = of(API_KEY, &self.api, &[Scope::Inference, Scope::Metrics])?;
        let admin = of(ADMIN_KEY, &self.admin, &[Scope::Inference, Scope::Metrics, Scope::Deploy])?;
        Ok(api.into_iter().chain(admin).collect())
    }
}

fn refuse_open_admin(config: &ServerConfig, keys: &Keys) -> Result<(), OpenAdmin> {
    let known = !keys.is_open() || config.tls.as_ref().is_some_and(|tls| tls.admin.client_ca.is_some());
    let address = config.admin_address;
    if known || address.ip().is_loopback() { Ok(()) } else { Err(OpenAdmin(address)) }
}

fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServerError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|reason| ServerError { address, flag, reason })
}
