//! What the edge is told once, at the start.

use std::time::Duration;

use axum::http::StatusCode;

use sluice_core::PromptVariants;

use crate::error::{ApiError, shown};

#[derive(Clone, PartialEq, Debug)]
pub struct EdgeConfig {
    pub model: ModelCard,
    pub defaults: SamplingDefaults,
    pub limits: EdgeLimits,
    pub answers: AnswerLimits,
    /// Decides the seeds of requests that bring none, and makes ids differ from another process's.
    pub seed: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelCard {
    /// The name under which it is served.
    pub name: String,
    /// Prompt and answer together.
    pub max_model_len: u32,
    /// Part of every block's hash, so that two models never share a block.
    pub cache_salt: Vec<u8>,
    /// So is the prompt's variant: prompts that the model treats differently do not share one either.
    pub variants: PromptVariants,
    pub block_tokens: u32,
    pub created_unix: u64,
}

impl ModelCard {
    /// A request that names no model means the one there is.
    pub(crate) fn check_name(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(name) if name != self.name => {
                let message = format!("the model `{}` does not exist: this server has `{}`", shown(name), self.name);
                Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).of("model"))
            }
            _ => Ok(()),
        }
    }
}

/// What a request gets that does not say.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SamplingDefaults {
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub max_new_tokens: u32,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, top_k: 0, min_p: 0.0, repetition_penalty: 1.0, max_new_tokens: 512 }
    }
}

/// Of the answers to one request. Times are from 1 ms to a year.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerLimits {
    /// From a request's arrival to its first token.
    pub first_token: Duration,
    /// From one token to the next.
    pub stall: Duration,
    /// From a request's arrival to the end of its answer.
    pub total: Duration,
    /// A stream that has had nothing to say for so long says that it is still there.
    pub sign_of_life: Duration,
    /// Prompts times answers to each.
    pub choices: usize,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            first_token: Duration::from_secs(300),
            stall: Duration::from_secs(120),
            total: Duration::from_secs(3600),
            sign_of_life: Duration::from_secs(15),
            choices: 128,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EdgeLimits {
    pub connections: usize,
    /// Of what a request asks for: its path and query.
    pub uri_bytes: usize,
    /// How many a request may have.
    pub headers: usize,
    /// Of their names and values together.
    pub header_bytes: usize,
    /// Of a request's body.
    pub body_bytes: usize,
    /// Of all large bodies that are being read and prepared, together.
    pub bodies_bytes: usize,
    /// Large requests that are read and tokenised at once.
    pub preparations: usize,
    /// Of a component that is deployed.
    pub component_bytes: usize,
    /// For a TLS handshake, and again for a request's line and headers from their first byte on.
    pub header_time: Duration,
    /// For the body, and again until a large request is prepared.
    pub body_time: Duration,
    /// Between two requests on one connection.
    pub idle_time: Duration,
    /// That a client may take nothing of what is written for it.
    pub write_time: Duration,
    /// Tokens that a slow reader may be behind.
    pub unread_tokens: usize,
    pub messages: usize,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            uri_bytes: 8 * 1024,
            headers: 100,
            header_bytes: 32 * 1024,
            body_bytes: 8 * 1024 * 1024,
            bodies_bytes: 64 * 1024 * 1024,
            // The other half is for the steps and the streams.
            preparations: std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
            component_bytes: 32 * 1024 * 1024,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
            unread_tokens: 1024,
            messages: 4096,
        }
    }
}
