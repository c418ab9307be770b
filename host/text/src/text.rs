//! A model's text side as the edge sees it: chats and texts to tokens, tokens to text.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::chatml::{CHATML, ENDS, QWEN_V1};
use crate::date::UnixSeconds;
use crate::error::{StopError, TemplateError, TextError, TokenizerError};
use crate::{Answer, ChatRequest, ChatTemplate, GgufVocabulary, TextFiles, Tokenizer, TokenizerFile};

/// The keys of `tokenizer_config.json` that templates can see.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

const GENERATION: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// Shared by all requests.
#[derive(Debug)]
pub struct Text {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// Before every prompt, where a GGUF file asks for it. A `tokenizer.json` has its own way to ask.
    first: Option<u32>,
    stop_tokens: Arc<[u32]>,
}

impl Text {
    pub fn new(files: &TextFiles) -> Result<Self, TextError> {
        let tokenizer = match &files.tokenizer {
            TokenizerFile::Json(json) => Tokenizer::from_bytes(json)?,
            TokenizerFile::Tiktoken(ranks) => Tokenizer::from_ranks(ranks)?,
        };
        let settings = object("tokenizer_config.json", files.tokenizer_config.as_deref())?;
        let generation = object(GENERATION, files.generation_config.as_deref())?;
        let config = object(CONFIG, files.config.as_deref())?;
        let own = own_template(files.chat_template.as_deref(), &settings)?;
        // Qwen's first models bring no template: their format is known by its name alone.
        let v1 = matches!(files.tokenizer, TokenizerFile::Tiktoken(_)) || config["model_type"] == "qwen";
        let chatml = own.is_none() || generation["chat_format"] == "chatml";
        let tokens = SPECIAL_TOKENS.map(|name| (name, token_text(&settings[name])));
        let template = template(own.as_deref(), v1)?.with_tokens(tokens);
        let ends = if chatml { ENDS.as_slice() } else { &[] };
        let ends = ends.iter().copied().chain([token_text(&settings["eos_token"])]);
        let stop_tokens = stop_tokens(&tokenizer, ids_of_end(&generation, &config)?, ends);
        Ok(Self { tokenizer: Arc::new(tokenizer), template, first: None, stop_tokens })
    }

    /// The text side of a model in one GGUF file.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_gguf(vocabulary)?;
        let tokens = [("bos_token", vocabulary.name(vocabulary.bos)), ("eos_token", vocabulary.name(vocabulary.eos))];
        let template = template(vocabulary.chat_template.as_deref(), false)?.with_tokens(tokens);
        let first = vocabulary.first().map_err(TokenizerError::from)?;
        // The file names one or two ends of an answer, and chat models of this vocabulary have several.
        let named = vocabulary.eos.into_iter().chain(vocabulary.eot).collect();
        let stop_tokens = stop_tokens(&tokenizer, named, ENDS.into_iter());
        Ok(Self { tokenizer: Arc::new(tokenizer), template, first, stop_tokens })
    }

    /// Whether this text side and a model with so many rows in its embedding belong together.
    pub fn check_model(&self, rows: u32) -> Result<(), TokenizerError> {
        self.tokenizer.check_model(rows)?;
        match self.stop_tokens.iter().find(|id| **id >= rows) {
            Some(id) => Err(TokenizerError::NoSuchEnd { id: *id, model: rows }),
            None => Ok(()),
        }
    }

    /// The tokens of a chat, up to where the assistant begins to speak. Nothing that the request says becomes a
    /// special token. A chat that cannot be `most` tokens or fewer is refused before it is tokenised.
    pub fn prompt_for_chat(&self, request: &ChatRequest, most: u32, now: UnixSeconds) -> Result<Vec<u32>, TextError> {
        let request = request.with_arguments_read();
        let guard = self.tokenizer.guard(request.texts().into_iter().chain([self.template.source()]));
        let with = |text: &str| guard.guard(text).into_owned();
        let rendered = self.template.render_with(&request, now, &with).map_err(|error| guard.unmark(error))?;
        self.tokenizer.check_length(guard.plain_bytes(&rendered), most)?;
        Ok(self.begin(self.tokenizer.encode_guarded(&rendered, &guard)?))
    }

    /// The tokens of a plain text that is to be continued, refused like a chat if it is too long.
    pub fn prompt_for_completion(&self, text: &str, most: u32) -> Result<Vec<u32>, TextError> {
        self.tokenizer.check_length(text.len(), most)?;
        Ok(self.begin(self.tokenizer.encode_from_start(text)?))
    }

    /// The tokens of a plain text without those that the model wants at the very beginning.
    pub fn tokens(&self, text: &str, most: u32) -> Result<Vec<u32>, TextError> {
        self.tokenizer.check_length(text.len(), most)?;
        Ok(self.tokenizer.encode(text)?)
    }

    fn begin(&self, mut prompt: Vec<u32>) -> Vec<u32> {
        if let Some(first) = self.first
            && prompt.first() != Some(&first)
        {
            prompt.insert(0, first);
        }
        prompt
    }

    /// The text of these tokens, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens)
    }

    /// The text of these tokens, special ones by their names.
    pub fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode_with_special(tokens)
    }

    /// What one token stands for, as logprobs list it: special tokens by their names, part of a character where that is
    /// all it is, nothing for a token that does not exist.
    pub fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        self.tokenizer.token_bytes(token)
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

/// The file, else the key in `tokenizer_config.json`.
fn own_template<'f>(file: Option<&'f [u8]>, settings: &'f Value) -> Result<Option<Cow<'f, str>>, TextError> {
    let malformed = |file, reason: &str| TextError::Malformed { file, reason: reason.to_owned() };
    if let Some(source) = file {
        let source = std::str::from_utf8(source).map_err(|_| malformed("chat_template.jinja", "it is not UTF-8"))?;
        return Ok(Some(source.into()));
    }
    let key = &settings["chat_template"];
    let named = key.as_array().map(|list| list.iter().find(|entry| entry["name"] == "default").unwrap_or(&Value::Null));
    let source = named.map_or(key, |entry| &entry["template"]);
    match (source, key) {
        (Value::String(source), _) => Ok(Some(source.as_str().into())),
        (_, Value::Null) => Ok(None),
        _ => Err(malformed(
            "tokenizer_config.json",
            "`chat_template` is neither a text nor a list with one named default",
        )),
    }
}

/// The model's own, else ChatML as its kind knows it.
fn template(own: Option<&str>, v1: bool) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::new(own.unwrap_or(if v1 { QWEN_V1 } else { CHATML }))
}

/// A token is written as its text or as an object that holds it.
fn token_text(token: &Value) -> &str {
    token.as_str().or(token["content"].as_str()).unwrap_or_default()
}

/// generation_config.json says best what ends an answer, config.json is its stand-in.
fn ids_of_end(generation: &Value, config: &Value) -> Result<Vec<u32>, TextError> {
    let of_generation = ids(GENERATION, generation)?;
    if of_generation.is_empty() { ids(CONFIG, config) } else { Ok(of_generation) }
}

/// These ids, and those of the special tokens of these names.
fn stop_tokens<'n>(tokenizer: &Tokenizer, ids: Vec<u32>, names: impl Iterator<Item = &'n str>) -> Arc<[u32]> {
    let named = names.filter_map(|name| tokenizer.special_token(name));
    let mut tokens: Vec<u32> = ids.into_iter().chain(named).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens.into()
}

/// Tokens that may end an answer: models have one to three.
const MOST_ENDS: usize = 64;

/// One id or a list of them; none where nothing is said.
fn ids(file: &'static str, settings: &Value) -> Result<Vec<u32>, TextError> {
    let value = &settings["eos_token_id"];
    let listed = match value {
        Value::Null => &[],
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let malformed = |reason: String| TextError::Malformed { file, reason };
    if listed.len() > MOST_ENDS {
        return Err(malformed(format!(
            "`eos_token_id` lists {} tokens, and at most {MOST_ENDS} are taken",
            listed.len()
        )));
    }
    let ids = listed.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect::<Option<_>>();
    ids.ok_or_else(|| malformed("`eos_token_id` is no token's id or list of them".to_owned()))
}

#[cfg(test)]
mod tests;
