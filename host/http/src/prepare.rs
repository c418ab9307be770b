//! Makes what the engine takes of what the client asked for: tokens, limits and hashes.

use std::sync::Arc;

use axum::http::StatusCode;
use sluice_core::{HashChain, SamplingParams};

use crate::config::{EdgeConfig, ModelCard};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::object::Endpoint;
use crate::parameters::Parameters;
use crate::text::{Message, ModelText, TextError};
use crate::{chat, completion};

/// A request as it was read, before anything was made of it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Prompt,
    pub(crate) parameters: Parameters,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Prompt {
    Chat(Vec<Message>),
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Arc<[u32]>,
    pub(crate) hashes: Arc<HashChain>,
    pub(crate) max_new_tokens: u32,
    pub(crate) stop_tokens: Arc<[u32]>,
    /// Its seed is drawn by whoever gives the request its id.
    pub(crate) sampling: SamplingParams,
    pub(crate) parameters: Parameters,
}

/// All that a body's length makes slow: its JSON, its rendering, its tokens and their hashes.
pub(crate) fn prepare(
    text: &dyn ModelText,
    config: &EdgeConfig,
    endpoint: Endpoint,
    body: &[u8],
    salt: &[u8],
) -> Result<Prepared, ApiError> {
    let fields = Fields::parse(body)?;
    config.model.check_name(fields.string("model")?)?;
    let Ask { prompt, parameters } = match endpoint {
        Endpoint::Chat => chat::read(fields, config.limits.messages)?,
        Endpoint::Completion => completion::read(fields)?,
    };
    let model_len = config.model.max_model_len;
    let mut tokens = tokenise(text, prompt, model_len)?;
    if let Some(keep) = parameters.truncate {
        // At least one token is to follow.
        let keep = keep.min(model_len.saturating_sub(parameters.max_new_tokens.unwrap_or(1)).max(1));
        tokens.drain(..tokens.len().saturating_sub(keep as usize));
    }
    let max_new_tokens = room(tokens.len(), &parameters, config)?;
    if parameters.min_new_tokens > max_new_tokens {
        let message = format!("`min_tokens` is more than the {max_new_tokens} tokens that may be made");
        return Err(ApiError::invalid("min_tokens", message));
    }
    let hashes = HashChain::new(&cache_salt(&config.model, tokens.len(), salt), &tokens, config.model.block_tokens);
    let own = if parameters.ignore_eos { Arc::default() } else { text.stop_tokens() };
    let stop_tokens = own.iter().chain(&parameters.stop_token_ids).copied().collect();
    Ok(Prepared {
        prompt: tokens.into(),
        hashes: Arc::new(hashes),
        max_new_tokens,
        stop_tokens,
        sampling: sampling(&parameters, config),
        parameters,
    })
}

/// Whatever else than the tokens decides a block's contents. The caller's own salt is part of it: nobody learns from
/// timing what others have asked.
fn cache_salt(model: &ModelCard, prompt: usize, caller: &[u8]) -> Vec<u8> {
    let variant = model.variants.of(u32::try_from(prompt).unwrap_or(u32::MAX));
    [model.cache_salt.as_slice(), &variant.to_le_bytes(), caller].concat()
}

fn tokenise(text: &dyn ModelText, prompt: Prompt, most: u32) -> Result<Vec<u32>, ApiError> {
    let (tokens, param) = match prompt {
        Prompt::Chat(messages) => (text.chat(&messages, most), "messages"),
        Prompt::Text(prompt) => (text.encode(&prompt, most), "prompt"),
        Prompt::Tokens(tokens) => (Ok(tokens), "prompt"),
    };
    let tokens = tokens.map_err(|error| match error {
        TextError::TooLong => too_long(most, &format!("has more than {most} tokens"), "shorten the prompt"),
        TextError::Refused(_) | TextError::Failed(_) => error.into(),
    })?;
    if tokens.is_empty() {
        return Err(ApiError::invalid(param, "the prompt is empty"));
    }
    let vocabulary = text.vocabulary();
    if let Some(token) = tokens.iter().find(|&&token| token >= vocabulary) {
        return Err(ApiError::invalid(param, format!("token {token} does not exist: the model has {vocabulary}")));
    }
    Ok(tokens)
}

/// How many tokens may be made, or why the prompt does not fit.
fn room(prompt: usize, parameters: &Parameters, config: &EdgeConfig) -> Result<u32, ApiError> {
    let length = config.model.max_model_len;
    let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
    let room = length.saturating_sub(prompt);
    let wanted = parameters.max_new_tokens.unwrap_or(config.defaults.max_new_tokens.min(room).max(1));
    if wanted <= room {
        return Ok(wanted);
    }
    let found = format!("has {prompt} and {wanted} more are to be made");
    let remedy = "shorten the prompt, lower the limit of new tokens or set `truncate_prompt_tokens`";
    Err(too_long(length, &found, remedy))
}

fn too_long(length: u32, found: &str, remedy: &str) -> ApiError {
    let message = format!("this model's maximum context length is {length} tokens, but the prompt {found}: {remedy}");
    ApiError::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
}

fn sampling(parameters: &Parameters, config: &EdgeConfig) -> SamplingParams {
    let defaults = config.defaults;
    SamplingParams {
        temperature: parameters.temperature.unwrap_or(defaults.temperature),
        top_p: parameters.top_p.unwrap_or(defaults.top_p),
        top_k: parameters.top_k.unwrap_or(defaults.top_k),
        min_p: parameters.min_p.unwrap_or(defaults.min_p),
        seed: parameters.seed.unwrap_or(0),
        ..SamplingParams::greedy()
    }
}
