//! A model's text side as the edge sees it: chats and texts to tokens, tokens to text.

use std::sync::Arc;

use serde_json::Value;

use crate::date::UnixSeconds;
use crate::error::{StopError, TextError, TokenizerError};
use crate::{Answer, ChatMessage, ChatTemplate, TextFiles, Tokenizer};

/// Shared by all requests.
#[derive(Debug)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    stop_tokens: Arc<[u32]>,
}

impl Text {
    pub fn new(files: &TextFiles) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_bytes(&files.tokenizer)?;
        let settings = object("tokenizer_config.json", files.tokenizer_config.as_deref())?;
        let generation = object("generation_config.json", files.generation_config.as_deref())?;
        let config = object("config.json", files.config.as_deref())?;
        let template = template(files.chat_template.as_deref(), &settings)?;
        let template = template.with_tokens(token_text(&settings["bos_token"]), token_text(&settings["eos_token"]));
        let stop_tokens = stop_tokens(&tokenizer, &settings, &generation, &config);
        Ok(Self { tokenizer: Arc::new(tokenizer), template, stop_tokens })
    }

    /// Whether this text side and a model with so many rows in its embedding belong together.
    pub fn check_model(&self, rows: u32) -> Result<(), TokenizerError> {
        self.tokenizer.check_model(rows)
    }

    /// The tokens of a chat, up to where the assistant begins to speak. Nothing that the messages say becomes a
    /// special token. A chat that cannot be `most` tokens or fewer is refused before it is tokenised.
    pub fn prompt_for_chat(
        &self,
        messages: &[ChatMessage],
        most: u32,
        now: UnixSeconds,
    ) -> Result<Vec<u32>, TextError> {
        let written = messages.iter().flat_map(|message| [message.role.as_str(), message.content.as_str()]);
        let guard = self.tokenizer.guard(written.chain([self.template.source()]));
        let guarded = messages.iter().map(|message| ChatMessage {
            role: guard.guard(&message.role).into_owned(),
            content: guard.guard(&message.content).into_owned(),
        });
        let rendered = self.template.render(&guarded.collect::<Vec<_>>(), now)?;
        self.tokenizer.check_length(guard.plain_bytes(&rendered), most)?;
        Ok(self.tokenizer.encode_guarded(&rendered, &guard)?)
    }

    /// The tokens of a plain text that is to be continued, refused like a chat if it is too long.
    pub fn prompt_for_completion(&self, text: &str, most: u32) -> Result<Vec<u32>, TextError> {
        self.tokenizer.check_length(text.len(), most)?;
        Ok(self.tokenizer.encode_from_start(text)?)
    }

    /// The text of these tokens, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens)
    }

    /// One per answer.
    pub fn answer<S: AsRef<str>>(&self, stops: &[S]) -> Result<Answer, StopError> {
        Answer::new(&self.tokenizer, stops)
    }

    /// Every token is below it.
    pub fn vocabulary(&self) -> u32 {
        self.tokenizer.vocabulary()
    }

    /// The tokens with which the model ends an answer; none if its folder names none.
    pub fn stop_tokens(&self) -> &Arc<[u32]> {
        &self.stop_tokens
    }
}

/// An absent file is an empty object.
fn object(file: &'static str, json: Option<&[u8]>) -> Result<Value, TextError> {
    let Some(json) = json else { return Ok(Value::Null) };
    let malformed = |reason: String| TextError::Malformed { file, reason };
    let value: Value = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(malformed("it holds no JSON object".to_owned())) }
}

/// The file, else the key in `tokenizer_config.json`, else ChatML, as Qwen's first models have it.
fn template(file: Option<&[u8]>, settings: &Value) -> Result<ChatTemplate, TextError> {
    let malformed = |file, reason: &str| TextError::Malformed { file, reason: reason.to_owned() };
    if let Some(source) = file {
        let source = std::str::from_utf8(source).map_err(|_| malformed("chat_template.jinja", "it is not UTF-8"))?;
        return Ok(ChatTemplate::new(source)?);
    }
    let key = &settings["chat_template"];
    let named = key.as_array().map(|list| list.iter().find(|entry| entry["name"] == "default").unwrap_or(&Value::Null));
    let source = named.map_or(key, |entry| &entry["template"]);
    match (source, key) {
        (Value::String(source), _) => Ok(ChatTemplate::new(source)?),
        (_, Value::Null) => Ok(ChatTemplate::chatml()?),
        _ => Err(malformed(
            "tokenizer_config.json",
            "`chat_template` is neither a text nor a list with one named default",
        )),
    }
}

/// A token is written as its text or as an object that holds it.
fn token_text(token: &Value) -> &str {
    token.as_str().or(token["content"].as_str()).unwrap_or_default()
}

/// generation_config.json says best what ends an answer, config.json is its stand-in; the tokenizer's own end comes
/// on top.
fn stop_tokens(tokenizer: &Tokenizer, settings: &Value, generation: &Value, config: &Value) -> Arc<[u32]> {
    let named = [generation, config].into_iter().map(|file| ids(&file["eos_token_id"])).find(|ids| !ids.is_empty());
    let own = tokenizer.special_token(token_text(&settings["eos_token"]));
    let mut tokens: Vec<u32> = named.unwrap_or_default().into_iter().chain(own).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens.into()
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests;
