//! What is meant: complete, checked against itself, and without options.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sluice_bundle::Shipped;
use sluice_checkpoint::{LoadFormat, LoadOptions, OptionError};
use sluice_core::Slot;
use sluice_http::EdgeLimits;

use super::{ConfigError, EngineSection, LogSection, ModelSection, PoliciesSection, ServerSection, Settings};

#[derive(Clone, Debug)]
pub struct ServeConfig {
    pub server: ServerConfig,
    pub model: ModelConfig,
    pub engine: EngineConfig,
    /// In the order of `Slot::ALL`.
    pub policies: [PolicySource; 3],
    pub log: LogFormat,
    pub log_filter: String,
}

#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    pub drain_timeout: Duration,
    pub edge: EdgeLimits,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelConfig {
    pub source: ModelSource,
    pub served_name: ServedName,
    /// The model's own length bounds it too. Without it, so does what fits in memory.
    pub max_model_len: Option<u32>,
    pub load: LoadOptions,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelSource {
    Embedded,
    /// A folder, a GGUF file, or a name on the hub.
    Named(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServedName {
    /// The folder's, or the embedded model's.
    OfTheModel,
    Given(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    pub replicas: u32,
    pub max_sequences: u32,
    pub max_batched_tokens: u32,
    pub block_tokens: u32,
    pub kv_blocks: KvBlocks,
    pub max_queued_requests: u32,
    pub max_queued_tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvBlocks {
    /// Enough for all sequences at their longest, within a share of memory.
    Fitting,
    Exactly(u32),
}

#[derive(Clone, Debug)]
pub enum PolicySource {
    Shipped(&'static Shipped),
    File(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

/// At most; so are the others. Far more than any machine computes at once: they bound what a slip of the hand reserves.
const REPLICAS: u32 = 64;
const SEQUENCES: u32 = 1 << 14;
const BATCHED_TOKENS: u32 = 1 << 20;
const BLOCK_TOKENS: u32 = 1 << 12;

impl ModelSource {
    pub(crate) fn typed(source: Option<String>) -> Self {
        source.map_or(Self::Embedded, Self::Named)
    }
}

impl ServeConfig {
    pub fn of(settings: Settings) -> Result<Self, ConfigError> {
        let Settings { server, model, engine, policies, log } = settings;
        let (log, log_filter) = log_config(log)?;
        Ok(Self {
            server: server_config(&server)?,
            model: model_config(model)?,
            engine: engine_config(&engine)?,
            policies: policy_sources(&policies)?,
            log,
            log_filter,
        })
    }
}

fn server_config(typed: &ServerSection) -> Result<ServerConfig, ConfigError> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let edge = EdgeLimits::default();
    let connections = typed.max_connections.unwrap_or(edge.connections);
    let body_bytes = typed.max_body_bytes.unwrap_or(edge.body_bytes);
    at_least_one("server.max_connections", connections as u64)?;
    Ok(ServerConfig {
        address: SocketAddr::new(typed.host.unwrap_or(loopback), typed.port.unwrap_or(8000)),
        admin_address: SocketAddr::new(typed.admin_host.unwrap_or(loopback), typed.admin_port.unwrap_or(8001)),
        drain_timeout: Duration::from_secs(typed.drain_timeout.unwrap_or(30)),
        edge: EdgeLimits { connections, body_bytes, ..edge },
    })
}

fn model_config(typed: ModelSection) -> Result<ModelConfig, ConfigError> {
    if typed.max_model_len.is_some_and(|length| length < 2) {
        return Err(ConfigError::new("model.max_model_len", "must hold a token of the prompt and one of the answer"));
    }
    let format = match typed.load_format.as_deref() {
        None | Some("auto" | "safetensors") => LoadFormat::Auto,
        Some("dummy") => LoadFormat::Dummy { seed: 0 },
        Some(other) => {
            let problem = format!("unknown format `{other}`: there are `auto`, `safetensors` and `dummy`");
            return Err(ConfigError::new("model.load_format", problem));
        }
    };
    Ok(ModelConfig {
        source: ModelSource::typed(typed.source),
        served_name: typed.served_name.map_or(ServedName::OfTheModel, ServedName::Given),
        max_model_len: typed.max_model_len,
        load: LoadOptions {
            format,
            dtype: choice("model.dtype", typed.dtype.as_deref())?,
            quantization: choice("model.quantization", typed.quantization.as_deref())?,
        },
    })
}

/// What was not typed is what it is by default.
fn choice<T: FromStr<Err = OptionError> + Default>(key: &str, typed: Option<&str>) -> Result<T, ConfigError> {
    let parse = |typed: &str| typed.parse().map_err(|error: OptionError| ConfigError::new(key, error.to_string()));
    typed.map_or_else(|| Ok(T::default()), parse)
}

fn engine_config(typed: &EngineSection) -> Result<EngineConfig, ConfigError> {
    let config = EngineConfig {
        replicas: typed.replicas.unwrap_or(1),
        max_sequences: typed.max_num_seqs.unwrap_or(64),
        max_batched_tokens: typed.max_num_batched_tokens.unwrap_or(512),
        block_tokens: typed.block_size.unwrap_or(16),
        kv_blocks: typed.kv_blocks.map_or(KvBlocks::Fitting, KvBlocks::Exactly),
        max_queued_requests: typed.max_queued_requests.unwrap_or(1024),
        max_queued_tokens: typed.max_queued_tokens.unwrap_or(1 << 20),
    };
    at_least_one("engine.replicas", u64::from(config.replicas))?;
    at_least_one("engine.max_num_seqs", u64::from(config.max_sequences))?;
    at_least_one("engine.block_size", u64::from(config.block_tokens))?;
    at_least_one("engine.max_queued_requests", u64::from(config.max_queued_requests))?;
    at_least_one("engine.max_queued_tokens", config.max_queued_tokens)?;
    at_most("engine.replicas", config.replicas, REPLICAS)?;
    at_most("engine.max_num_seqs", config.max_sequences, SEQUENCES)?;
    at_most("engine.max_num_batched_tokens", config.max_batched_tokens, BATCHED_TOKENS)?;
    at_most("engine.block_size", config.block_tokens, BLOCK_TOKENS)?;
    if config.max_batched_tokens < config.max_sequences {
        let problem = format!(
            "{} tokens a step leave none for some of {} sequences: raise it, or lower max_num_seqs",
            config.max_batched_tokens, config.max_sequences
        );
        return Err(ConfigError::new("engine.max_num_batched_tokens", problem));
    }
    Ok(config)
}

fn policy_sources(typed: &PoliciesSection) -> Result<[PolicySource; 3], ConfigError> {
    Ok([
        policy_source(Slot::Admission, typed.admission.as_deref())?,
        policy_source(Slot::Routing, typed.routing.as_deref())?,
        policy_source(Slot::Batching, typed.batching.as_deref())?,
    ])
}

/// Whatever looks like a file is one; everything else must be the name of a shipped policy of that slot.
fn policy_source(slot: Slot, typed: Option<&str>) -> Result<PolicySource, ConfigError> {
    let shipped = match typed {
        Some(path) if path.ends_with(".wasm") || path.contains('/') => return Ok(PolicySource::File(path.into())),
        Some(name) => sluice_bundle::shipped(name).filter(|policy| policy.slot == slot.as_str()),
        None => sluice_bundle::default_for(slot.as_str()),
    };
    let names = || {
        let of_slot = sluice_bundle::SHIPPED.iter().filter(|policy| policy.slot == slot.as_str());
        of_slot.map(|policy| policy.name).collect::<Vec<_>>().join(", ")
    };
    shipped.map(PolicySource::Shipped).ok_or_else(|| {
        let problem = format!("no shipped policy `{}`: there are {}, or a .wasm file", typed.unwrap_or(""), names());
        ConfigError::new(format!("policies.{slot}"), problem)
    })
}

fn log_config(typed: LogSection) -> Result<(LogFormat, String), ConfigError> {
    let format = match typed.format.as_deref() {
        None | Some("auto") => LogFormat::Auto,
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            let problem = format!("unknown format `{other}`: there are `auto`, `text` and `json`");
            return Err(ConfigError::new("log.format", problem));
        }
    };
    Ok((format, typed.filter.unwrap_or_else(|| "info".to_owned())))
}

fn at_least_one(key: &str, value: u64) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::new(key, "must be at least 1")) } else { Ok(()) }
}

fn at_most(key: &str, value: u32, limit: u32) -> Result<(), ConfigError> {
    if value > limit { Err(ConfigError::new(key, format!("is {value}, at most {limit} are possible"))) } else { Ok(()) }
}
