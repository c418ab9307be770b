//! What the edge needs of a model's text side.

use std::borrow::Cow;
use std::sync::Arc;

use sluice_text::ChatRequest;

/// Why a prompt is not rendered or tokenised; shown to the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    /// Its length alone shows that it has more tokens than there may be.
    #[error("the prompt has more tokens than the model takes")]
    TooLong,
    #[error("{0}")]
    Refused(String),
    /// Not for anything that the client wrote.
    #[error("{0}")]
    Failed(String),
}

/// Shared by all requests; called on async threads for short prompts and on blocking ones for long ones. Tokenising is
/// slow: where a text's length shows that it cannot be `most` tokens or fewer, it is refused before.
pub trait ModelText: Send + Sync {
    /// The tokens of a chat, as the model's template renders it.
    fn chat(&self, request: &ChatRequest, most: u32) -> Result<Vec<u32>, TextError>;

    /// The tokens of a plain text; `from_start` with those, if any, that the model wants at the very beginning.
    fn encode(&self, text: &str, from_start: bool, most: u32) -> Result<Vec<u32>, TextError>;

    /// The text of these tokens, without special ones.
    fn decode(&self, tokens: &[u32]) -> String;

    /// The text of these tokens, special ones by their names.
    fn decode_with_special(&self, tokens: &[u32]) -> String;

    /// What one token stands for: a special one its name, another one perhaps only part of a character.
    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]>;

    /// One per answer; `include_stop` shows the stop string that ends it, which ends behind its first `least` tokens.
    fn decoder(&self, stop: &[String], include_stop: bool, least: u32) -> Result<Box<dyn Decoder>, TextError>;

    /// Every token is below it.
    fn vocabulary(&self) -> u32;

    /// The tokens with which the model ends an answer.
    fn stop_tokens(&self) -> Arc<[u32]>;
}

/// Turns one answer's tokens into text, holding back what may still change.
pub trait Decoder: Send {
    /// Appends what can be shown after this token. True once a stop string has matched; nothing follows then.
    fn push(&mut self, token: u32, text: &mut String) -> bool;

    /// Appends what was held back; called once, after the last token of an answer without a match. True if a stop
    /// string matches only now.
    fn finish(&mut self, text: &mut String) -> bool;
}
