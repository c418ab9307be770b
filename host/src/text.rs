//! Fits the text crate to what the edge needs of a model's text side.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use sluice_checkpoint::{GgufTokenizer, ModelFiles};
use sluice_http::{Decoder, ModelText, SamplingDefaults, TextError};
use sluice_text::TextError::Template;
use sluice_text::{
    Answer, ChatMessage, ChatRequest, GgufVocabulary, TemplateError, Text, TextFiles, TokenizerError, TokenizerFile,
    UnixSeconds,
};

const GENERATION: &str = "generation_config.json";

/// A model's text side, with what its folder says of sampling.
pub(crate) struct ServedText {
    pub(crate) model: Arc<dyn ModelText>,
    pub(crate) defaults: SamplingDefaults,
}

struct Served {
    text: Text,
    vocabulary: u32,
}

struct Decoding(Answer);

/// The part of `generation_config.json` that sets defaults for requests.
#[derive(Deserialize, Default)]
#[serde(default)]
struct GenerationConfig {
    temperature: Option<f32>,
    top_p: Option<f32>,
    /// -1 is off, and so is 0.
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// Everything that would keep a model from being served on the side of its text: `rows` has its embedding.
pub(crate) fn load(files: &ModelFiles, rows: usize) -> Result<ServedText> {
    let text = read(files)?;
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    text.check_model(rows)?;
    try_template(&text).context("the chat template does not render the simplest chat")?;
    let defaults = defaults(files.find(GENERATION)?.as_deref())?;
    let vocabulary = text.vocabulary().min(rows);
    Ok(ServedText { model: Arc::new(Served { text, vocabulary }), defaults })
}

/// A template may refuse a chat in its own words; one that loops or fails would fail every request.
fn try_template(text: &Text) -> Result<(), sluice_text::TextError> {
    let simplest = ChatRequest::new(vec![ChatMessage::new("user", "Hello")]);
    match text.prompt_for_chat(&simplest, u32::MAX, now()) {
        Err(error) if !matches!(error, Template(TemplateError::Refused { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// The tokenizer and the chat template that belong to a model.
pub(crate) fn read(files: &ModelFiles) -> Result<Text> {
    match GgufTokenizer::read(files)? {
        Some(tokenizer) => Ok(Text::from_gguf(&vocabulary(tokenizer))?),
        None => Ok(Text::new(&text_files(files)?)?),
    }
}

fn vocabulary(read: GgufTokenizer) -> GgufVocabulary {
    GgufVocabulary {
        model: read.model.unwrap_or_default(),
        pre: read.pre.unwrap_or_default(),
        tokens: read.tokens,
        merges: read.merges,
        token_types: read.token_types,
        bos: read.bos_id,
        eos: read.eos_id,
        eot: read.eot_id,
        add_bos: read.add_bos.unwrap_or(false),
        chat_template: read.chat_template,
    }
}

fn text_files(files: &ModelFiles) -> Result<TextFiles> {
    if let ModelFiles::Folder(folder) = files {
        return Ok(TextFiles::read(folder)?);
    }
    let optional = |name| files.find(name).map(|bytes| bytes.map(|bytes| bytes.to_vec()));
    Ok(TextFiles {
        tokenizer: TokenizerFile::Json(files.open("tokenizer.json")?.to_vec()),
        tokenizer_config: optional("tokenizer_config.json")?,
        generation_config: optional(GENERATION)?,
        config: optional("config.json")?,
        chat_template: optional("chat_template.jinja")?,
    })
}

fn defaults(generation_config: Option<&[u8]>) -> Result<SamplingDefaults> {
    let typed = generation_config.map(serde_json::from_slice::<GenerationConfig>).transpose();
    let typed = typed.context("generation_config.json")?.unwrap_or_default();
    let own = SamplingDefaults::default();
    let top_k = match typed.top_k {
        None => own.top_k,
        Some(-1) => 0,
        Some(most) => u32::try_from(most).with_context(|| format!("{GENERATION}: `top_k` is {most}"))?,
    };
    Ok(SamplingDefaults {
        temperature: within("temperature", typed.temperature, 2.0)?.unwrap_or(own.temperature),
        top_p: within("top_p", typed.top_p, 1.0)?.map_or(own.top_p, |part| part.max(f32::MIN_POSITIVE)),
        top_k,
        min_p: within("min_p", typed.min_p, 1.0)?.unwrap_or(own.min_p),
        repetition_penalty: repetition_penalty(typed.repetition_penalty)?.unwrap_or(own.repetition_penalty),
        max_new_tokens: own.max_new_tokens,
    })
}

fn repetition_penalty(value: Option<f32>) -> Result<Option<f32>> {
    match within("repetition_penalty", value, 2.0)? {
        Some(0.0) => bail!("{GENERATION}: `repetition_penalty` is 0, expected a number above it"),
        value => Ok(value),
    }
}

/// The bounds are those of requests.
fn within(key: &str, value: Option<f32>, most: f32) -> Result<Option<f32>> {
    match value.filter(|value| !(0.0..=most).contains(value)) {
        Some(wrong) => bail!("{GENERATION}: `{key}` is {wrong}, expected a number from 0 to {most}"),
        None => Ok(value),
    }
}

impl ModelText for Served {
    fn chat(&self, request: &ChatRequest, most: u32) -> Result<Vec<u32>, TextError> {
        self.text.prompt_for_chat(request, most, now()).map_err(refusal)
    }

    fn encode(&self, text: &str, from_start: bool, most: u32) -> Result<Vec<u32>, TextError> {
        let tokens =
            if from_start { self.text.prompt_for_completion(text, most) } else { self.text.tokens(text, most) };
        tokens.map_err(refusal)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.text.decode(tokens)
    }

    fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.text.decode_with_special(tokens)
    }

    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        self.text.token_bytes(token)
    }

    fn decoder(&self, stop: &[String], include_stop: bool, least: u32) -> Result<Box<dyn Decoder>, TextError> {
        let answer = self.text.answer(stop).map_err(|error| TextError::Refused(error.to_string()))?;
        Ok(Box::new(Decoding(answer.including_stop(include_stop).of_at_least(least))))
    }

    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn stop_tokens(&self) -> Arc<[u32]> {
        Arc::clone(self.text.stop_tokens())
    }
}

impl Decoder for Decoding {
    fn push(&mut self, token: u32, text: &mut String) -> bool {
        self.0.push(token, text)
    }

    fn finish(&mut self, text: &mut String) -> bool {
        self.0.finish(text)
    }
}

fn refusal(error: sluice_text::TextError) -> TextError {
    match error {
        sluice_text::TextError::Tokenizer(TokenizerError::TooManyTokens { .. }) => TextError::TooLong,
        fault @ Template(TemplateError::OutOfFuel { .. } | TemplateError::Failed { .. }) => {
            TextError::Failed(fault.to_string())
        }
        other => TextError::Refused(other.to_string()),
    }
}

/// For templates that name the day.
pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_says_how_it_is_sampled() {
        let read = |json: &str| defaults(Some(json.as_bytes()));
        let qwen = r#"{"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": [1]}"#;
        let qwen = read(qwen).unwrap();
        assert_eq!((qwen.temperature, qwen.top_k, qwen.top_p, qwen.repetition_penalty), (0.6, 20, 0.95, 1.05));
        assert_eq!(defaults(None).unwrap(), SamplingDefaults::default());
        assert_eq!(read(r#"{"top_k": -1}"#).unwrap().top_k, 0);
        assert!(read(r#"{"temperature": "hot"}"#).is_err());
        for (json, part) in [
            (r#"{"temperature": 2.5}"#, "`temperature` is 2.5, expected a number from 0 to 2"),
            (r#"{"top_p": -0.5}"#, "`top_p` is -0.5"),
            (r#"{"min_p": 3}"#, "`min_p` is 3"),
            (r#"{"top_k": -2}"#, "`top_k` is -2"),
            (r#"{"repetition_penalty": 0}"#, "`repetition_penalty` is 0"),
            (r#"{"repetition_penalty": 3}"#, "`repetition_penalty` is 3"),
        ] {
            assert!(read(json).unwrap_err().to_string().contains(part), "{json}");
        }
    }
}
