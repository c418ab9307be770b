//! What the edge needs of a model's text side.

use std::sync::Arc;

/// One message of a chat, its content already joined to one text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub role: String,
    pub content: String,
}

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
    /// The tokens of a chat, up to where the assistant begins to speak.
    fn chat(&self, messages: &[Message], most: u32) -> Result<Vec<u32>, TextError>;

    /// The tokens of a plain text.
    fn encode(&self, text: &str, most: u32) -> Result<Vec<u32>, TextError>;

    /// One per answer.
    fn decoder(&self, stop: &[String]) -> Result<Box<dyn Decoder>, TextError>;

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
