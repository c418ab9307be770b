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
    #[error("the tokenizer has a token with an id of {limit} or more: tokenizer.json is broken")]
    TooManyIds { limit: u32 },
    #[error(
        "the tokenizer makes token {highest}, but the model has only {model} rows: tokenizer and weights belong to \
         different models"
    )]
    Misfit { highest: u32, model: u32 },
    #[error(
        "token {id} is named as the end of an answer, but the model has only {model} rows: correct eos_token_id in \
         generation_config.json or config.json"
    )]
    NoSuchEnd { id: u32, model: u32 },
    #[error("the text has {bytes} bytes, the limit is {limit}: shorten it")]
    TextTooLong { bytes: usize, limit: usize },
    #[error("the text has more than {most} tokens: shorten it")]
    TooManyTokens { most: u32 },
    #[error("the text cannot be tokenised: {reason}")]
    Encode { reason: String },
    #[error("qwen.tiktoken: {0}; download it again")]
    Ranks(#[from] RanksError),
    #[error("the GGUF file's tokenizer: {0}; convert the model to GGUF again")]
    Gguf(#[from] GgufError),
    #[error("no tokenizer can be built: {reason}")]
    Build { reason: String },
}

/// What is wrong with a `qwen.tiktoken`; lines count from 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RanksError {
    #[error("it has {bytes} bytes, the limit is {limit}: is it the right file?")]
    TooLarge { bytes: usize, limit: usize },
    #[error("it is empty")]
    Empty,
    #[error("line {line} is not a token in base64, a space and a rank")]
    NoPair { line: u64 },
    #[error("line {line}: the token is not base64")]
    NotBase64 { line: u64 },
    #[error("line {line}: the token has {bytes} bytes, 1 to {limit} are possible")]
    Length { line: u64, bytes: usize, limit: usize },
    #[error("line {line} has the rank {rank} where {expected} must follow")]
    Order { line: u64, rank: u64, expected: u64 },
    #[error("line {line} holds the same token as line {first}")]
    Duplicate { line: u64, first: u64 },
    #[error("the byte {byte:#04x} is no token by itself")]
    MissingByte { byte: u8 },
    #[error("line {line}: the token cannot be merged from two earlier ones")]
    Orphan { line: u64 },
    #[error("line {line} holds the special token {name}, which comes after all ranks")]
    Special { line: u64, name: String },
}

/// What is wrong with the tokenizer in a GGUF file's metadata.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GgufError {
    #[error("tokenizer.ggml.model is `{model}`, only `gpt2` is known")]
    Model { model: String },
    #[error("tokenizer.ggml.pre is `{pre}`, only `qwen2` is known")]
    Pre { pre: String },
    #[error("there are {tokens} tokens and {types} token types")]
    Types { tokens: usize, types: usize },
    #[error("there are {tokens} tokens and {merges} merges, the limit is {limit} each")]
    TooMany { tokens: usize, merges: usize, limit: usize },
    #[error("tokens and merges have {bytes} bytes, the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("{key} is {id}, but there are only {tokens} tokens")]
    NoSuchToken { key: &'static str, id: u32, tokens: usize },
    #[error("add_bos_token is true, but there is no bos_token_id")]
    NoFirst,
    #[error("token {id} is not spelled in bytes: {name:?}")]
    Spelling { id: u32, name: String },
    #[error("token {id} is empty")]
    Nameless { id: u32 },
    #[error("token {id} is of type {kind}, which a byte-level tokenizer does not have")]
    Kind { id: u32, kind: i32 },
    #[error("token {id} is the same as token {first}: {name:?}")]
    Duplicate { id: u32, first: u32, name: String },
    #[error("the byte {byte:#04x} is no token by itself")]
    MissingByte { byte: u8 },
    #[error("merge {index} does not make a token out of two: {merge:?}")]
    Merge { index: usize, merge: String },
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
    #[error("chat_template_kwargs: `{name}` cannot be set; leave it out")]
    Kwarg { name: String },
    #[error("chat_template_kwargs has {count} entries, at most {limit} are possible")]
    TooManyKwargs { count: usize, limit: usize },
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
    #[error("{folder} has neither tokenizer.json nor qwen.tiktoken: without one of them text cannot be tokenised")]
    NoTokenizer { folder: String },
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
