//! Makes what the engine takes of what the client asked for: tokens, limits and hashes.

use std::sync::Arc;

use axum::http::StatusCode;
use sluice_core::{HashChain, SamplingParams};
use sluice_text::ChatRequest;

use crate::config::{EdgeConfig, ModelCard};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::object::Endpoint;
use crate::parameters::Parameters;
use crate::text::{ModelText, TextError};
use crate::{chat, completion};

/// A request as it was read, before anything was made of it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Ask {
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) parameters: Parameters,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Prompt {
    Chat(ChatRequest),
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompts: Vec<PreparedPrompt>,
    pub(crate) stop_tokens: Arc<[u32]>,
    /// Its seed is drawn by whoever gives the request its id.
    pub(crate) sampling: SamplingParams,
    pub(crate) parameters: Parameters,
}

#[derive(Debug)]
pub(crate) struct PreparedPrompt {
    pub(crate) tokens: Arc<[u32]>,
    pub(crate) hashes: Arc<HashChain>,
    /// At least 1, as the engine wants it.
    pub(crate) max_new_tokens: u32,
    /// What is shown of the prompt before its answer.
    pub(crate) echo: Option<Arc<str>>,
}

/// That one request may ask for: it decides how large an answer can become.
const MAX_LOGPROBS: u64 = 1 << 20;

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
    let Ask { prompts, parameters } = match endpoint {
        Endpoint::Chat => chat::read(fields, config.limits.messages)?,
        Endpoint::Completion => completion::read(fields, config.answers.choices)?,
    };
    check_choices(prompts.len(), &parameters, config)?;
    check_bias(text, &parameters)?;
    let one = prompts.len() == 1;
    let prepare = |(index, prompt)| {
        let prepared = prepare_prompt(text, config, &parameters, prompt, salt);
        prepared.map_err(|error: ApiError| if one { error } else { error.in_prompt(index) })
    };
    let prompts = prompts.into_iter().enumerate().map(prepare).collect::<Result<Vec<_>, _>>()?;
    check_logprobs(&prompts, &parameters)?;
    let own = if parameters.ignore_eos { Arc::default() } else { text.stop_tokens() };
    let stop_tokens = own.iter().chain(&parameters.stop_token_ids).copied().collect();
    Ok(Prepared { prompts, stop_tokens, sampling: sampling(&parameters, config), parameters })
}

fn prepare_prompt(
    text: &dyn ModelText,
    config: &EdgeConfig,
    parameters: &Parameters,
    prompt: Prompt,
    salt: &[u8],
) -> Result<PreparedPrompt, ApiError> {
    let model_len = config.model.max_model_len;
    let mut tokens = tokenise(text, &prompt, !parameters.bare, model_len)?;
    if tokens.is_empty() {
        return Err(ApiError::invalid(prompt.param(), "the prompt is empty"));
    }
    let cut = surplus(tokens.len(), parameters, model_len);
    tokens.drain(..cut);
    let max_new_tokens = room(tokens.len(), parameters, config).map_err(|error| error.of(prompt.param()))?;
    if parameters.min_new_tokens > max_new_tokens {
        let message = format!("`min_tokens` is more than the {max_new_tokens} tokens that may be made");
        return Err(ApiError::invalid("min_tokens", message));
    }
    let hashes = HashChain::new(&cache_salt(&config.model, tokens.len(), salt), &tokens, config.model.block_tokens);
    let echo = parameters.echo.then(|| match prompt {
        Prompt::Text(text) if cut == 0 => text.into(),
        _ => text.decode(&tokens).into(),
    });
    Ok(PreparedPrompt { tokens: tokens.into(), hashes: Arc::new(hashes), max_new_tokens, echo })
}

/// How many of the first tokens are cut off, where that was asked for. At least one token is to follow.
fn surplus(tokens: usize, parameters: &Parameters, model_len: u32) -> usize {
    let Some(keep) = parameters.truncate else { return 0 };
    let new = parameters.max_new_tokens.unwrap_or(1).max(1);
    tokens.saturating_sub(keep.min(model_len.saturating_sub(new).max(1)) as usize)
}

fn check_choices(prompts: usize, parameters: &Parameters, config: &EdgeConfig) -> Result<(), ApiError> {
    let (choices, most) = (parameters.choices() as usize, config.answers.choices);
    if prompts.saturating_mul(choices) <= most {
        return Ok(());
    }
    let message = format!("{prompts} prompts with {choices} answers each are more than {most}: ask for fewer at once");
    Err(ApiError::invalid("n", message))
}

fn check_bias(text: &dyn ModelText, parameters: &Parameters) -> Result<(), ApiError> {
    let vocabulary = text.vocabulary();
    match parameters.logit_bias.iter().find(|(token, _)| *token >= vocabulary) {
        Some((token, _)) => Err(no_such_token("logit_bias", *token, vocabulary)),
        None => Ok(()),
    }
}

fn check_logprobs(prompts: &[PreparedPrompt], parameters: &Parameters) -> Result<(), ApiError> {
    let Some(alternatives) = parameters.logprobs else { return Ok(()) };
    let shown = |prompt: &PreparedPrompt| {
        let echoed = if parameters.echo { prompt.tokens.len() as u64 } else { 0 };
        u64::from(prompt.max_new_tokens) + echoed
    };
    let tokens: u64 = prompts.iter().map(shown).sum();
    let asked = tokens * u64::from(parameters.choices()) * (1 + u64::from(alternatives));
    if asked <= MAX_LOGPROBS {
        return Ok(());
    }
    let message = format!(
        "up to {asked} log-probabilities are asked for, and at most {MAX_LOGPROBS} are given: lower the limit of new \
         tokens, `n` or the number of alternatives"
    );
    Err(ApiError::invalid("logprobs", message))
}

/// Whatever else than the tokens decides a block's contents. The caller's own salt is part of it: nobody learns from
/// timing what others have asked.
fn cache_salt(model: &ModelCard, prompt: usize, caller: &[u8]) -> Vec<u8> {
    let variant = model.variants.of(u32::try_from(prompt).unwrap_or(u32::MAX));
    [model.cache_salt.as_slice(), &variant.to_le_bytes(), caller].concat()
}

/// All of them are the model's.
pub(crate) fn tokenise(
    text: &dyn ModelText,
    prompt: &Prompt,
    from_start: bool,
    most: u32,
) -> Result<Vec<u32>, ApiError> {
    let tokens = match prompt {
        Prompt::Chat(chat) => text.chat(chat, most),
        Prompt::Text(prompt) => text.encode(prompt, from_start, most),
        Prompt::Tokens(tokens) => Ok(tokens.clone()),
    };
    let tokens = tokens.map_err(|error| match error {
        TextError::TooLong => {
            too_long(most, &format!("has more than {most} tokens"), "shorten the prompt").of(prompt.param())
        }
        TextError::Refused(_) | TextError::Failed(_) => error.into(),
    })?;
    check_tokens(text, prompt.param(), &tokens)?;
    Ok(tokens)
}

pub(crate) fn check_tokens(text: &dyn ModelText, param: &str, tokens: &[u32]) -> Result<(), ApiError> {
    let vocabulary = text.vocabulary();
    match tokens.iter().find(|&&token| token >= vocabulary) {
        Some(token) => Err(no_such_token(param, *token, vocabulary)),
        None => Ok(()),
    }
}

fn no_such_token(param: &str, token: u32, vocabulary: u32) -> ApiError {
    ApiError::invalid(param, format!("token {token} does not exist: the model has {vocabulary}"))
}

/// How many tokens may be made, or why the prompt does not fit.
fn room(prompt: usize, parameters: &Parameters, config: &EdgeConfig) -> Result<u32, ApiError> {
    let length = config.model.max_model_len;
    let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
    let room = length.saturating_sub(prompt);
    let wanted = parameters.max_new_tokens.unwrap_or(config.defaults.max_new_tokens.min(room)).max(1);
    if wanted <= room {
        return Ok(wanted);
    }
    let found = format!("has {prompt} and {wanted} more are to be made");
    let remedy = "shorten the prompt, lower the limit of new tokens or set `truncate_prompt_tokens`";
    Err(too_long(length, &found, remedy))
}

pub(crate) fn too_long(length: u32, found: &str, remedy: &str) -> ApiError {
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
        repetition_penalty: parameters.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: parameters.presence_penalty.unwrap_or(0.0),
        frequency_penalty: parameters.frequency_penalty.unwrap_or(0.0),
        logit_bias: parameters.logit_bias.clone(),
        seed: parameters.seed.unwrap_or(0),
        logprobs: parameters.logprobs,
    }
}

impl Prompt {
    /// The field that it came in.
    fn param(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Text(_) | Self::Tokens(_) => "prompt",
        }
    }
}
