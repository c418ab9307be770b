//! What is meant: complete, checked against itself, and without options.

use std::path::PathBuf;

use sluice_telemetry::Compat;

use super::{
    ConfigError, EngineConfigs, LogSection, MetricsSection, ModelConfig, PoliciesConfig, ServerConfig, Settings,
};

#[derive(Clone, Debug)]
pub struct ServeConfig {
    pub server: ServerConfig,
    pub model: ModelConfig,
    pub engine: EngineConfigs,
    pub policies: PoliciesConfig,
    /// Without it the history of deployments is kept in memory only.
    pub audit_file: Option<PathBuf>,
    /// Whose metric names appear beside our own.
    pub metrics_compat: Option<Compat>,
    pub log: LogFormat,
    pub log_filter: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

impl ServeConfig {
    pub fn of(settings: Settings) -> Result<Self, ConfigError> {
        let Settings { server, tls, auth, timeouts, model, engine, policies, audit, metrics, log } = settings;
        Ok(Self {
            server: ServerConfig::of(&server, tls, &auth, &timeouts)?,
            model: ModelConfig::of(model)?,
            engine: EngineConfigs::of(&engine)?,
            policies: PoliciesConfig::of(policies)?,
            audit_file: audit.file,
            metrics_compat: metrics_compat(&metrics)?,
            log: log_format(&log)?,
            log_filter: log.filter(),
        })
    }
}

fn metrics_compat(typed: &MetricsSection) -> Result<Option<Compat>, ConfigError> {
    match typed.compat().as_str() {
        "none" => Ok(None),
        "vllm" => Ok(Some(Compat::Vllm)),
        other => {
            Err(ConfigError::new("metrics.compat", format!("unknown names `{other}`: there are `none` and `vllm`")))
        }
    }
}

fn log_format(typed: &LogSection) -> Result<LogFormat, ConfigError> {
    match typed.format().as_str() {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => {
            let problem = format!("unknown format `{other}`: there are `auto`, `text` and `json`");
            Err(ConfigError::new("log.format", problem))
        }
    }
}
