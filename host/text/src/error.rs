//! What can go wrong with a model's text side: each names the culprit and the remedy.

/// A tokenizer that cannot be used, or a text that it cannot take.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("tokenizer.json has {bytes} bytes, the limit is {limit}: is it the right file?")]
    TooLarge { bytes: usize, limit: usize },
    #[error("tokenizer.json cannot be read: {reason}; download it again or save it with `save_pretrained`")]
    Malformed { reason: String },
    #[error("the tokenizer has no tokens: tokenizer.json needs a vocabulary")]
    Empty,
    #[error(
        "the tokenizer makes token {highest}, but the model has only {model} rows: tokenizer.json and the weights \
         belong to different models"
    )]
    Misfit { highest: u32, model: u32 },
    #[error("the text has {bytes} bytes, the limit is {limit}: shorten it")]
    TextTooLong { bytes: usize, limit: usize },
    #[error("the text has more than {most} tokens: shorten it")]
    TooManyTokens { most: u32 },
    #[error("the text cannot be tokenised: {reason}")]
    Encode { reason: String },
}

/// A chat template that cannot be used, or that refused a chat.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template has {bytes} bytes, the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the chat template is not valid: {reason}; correct chat_template.jinja")]
    Syntax { reason: String },
    /// The template's own words, by `raise_exception`.
    #[error("the model's chat template refuses these messages: {reason}")]
    Refused { reason: String },
    #[error(
        "the chat template did not end within its {fuel} units of fuel: send fewer messages or correct the template"
    )]
    OutOfFuel { fuel: u64 },
    #[error("the chat template makes more than {limit} bytes of these messages: send less")]
    TooLong { limit: usize },
    #[error("the chat template failed: {reason}")]
    Failed { reason: String },
}

/// Stop strings out of bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StopError {
    #[error("{count} stop strings, at most {limit} are possible")]
    TooMany { count: usize, limit: usize },
    #[error("a stop string must not be empty")]
    Empty,
    #[error("a stop string has {bytes} bytes, at most {limit} are possible")]
    TooLong { bytes: usize, limit: usize },
}

/// A file of a model's folder that the text side needs and cannot use.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("{path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path} is missing: without it text cannot be tokenised")]
    NoTokenizer { path: String },
    #[error("{path} has more than {limit} bytes: is it the right file?")]
    TooLarge { path: String, limit: u64 },
}

/// Whatever the text side can say of a model or of a prompt.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TextError {
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("{file} is not what it should be: {reason}")]
    Malformed { file: &'static str, reason: String },
}
