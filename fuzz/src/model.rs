//! The embedded model's text side, as the edge asks for it.

use std::borrow::Cow;
use std::sync::Arc;

use sluice_http::{Decoder, ModelText, TextError};
use sluice_text::TextError::{Template, Tokenizer};
use sluice_text::{Answer, ChatRequest, TemplateError, Text, TextFiles, TokenizerError, TokenizerFile, UnixSeconds};

pub(crate) struct Embedded(Text);

struct Decoding(Answer);

impl Embedded {
    pub(crate) fn new() -> Self {
        let tokenizer = TokenizerFile::Json(include_bytes!("../../host/model/embedded/tokenizer.json").to_vec());
        let files = TextFiles {
            tokenizer_config: Some(include_bytes!("../../host/model/embedded/tokenizer_config.json").to_vec()),
            generation_config: Some(include_bytes!("../../host/model/embedded/generation_config.json").to_vec()),
            chat_template: Some(include_bytes!("../../host/model/embedded/chat_template.jinja").to_vec()),
            ..TextFiles::new(tokenizer)
        };
        Self(Text::new(&files).expect("the embedded model's files are whole"))
    }
}

impl ModelText for Embedded {
    fn chat(&self, request: &ChatRequest, most: u32) -> Result<Vec<u32>, TextError> {
        self.0.prompt_for_chat(request, most, UnixSeconds(0)).map_err(refusal)
    }

    fn encode(&self, text: &str, from_start: bool, most: u32) -> Result<Vec<u32>, TextError> {
        let tokens = if from_start { self.0.prompt_for_completion(text, most) } else { self.0.tokens(text, most) };
        tokens.map_err(refusal)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        self.0.decode(tokens)
    }

    fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.0.decode_with_special(tokens)
    }

    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        self.0.token_bytes(token)
    }

    fn decoder(&self, stop: &[String], include_stop: bool, least: u32) -> Result<Box<dyn Decoder>, TextError> {
        let answer = self.0.answer(stop).map_err(|error| TextError::Refused(error.to_string()))?;
        Ok(Box::new(Decoding(answer.including_stop(include_stop).of_at_least(least))))
    }

    fn vocabulary(&self) -> u32 {
        self.0.vocabulary()
    }

    fn stop_tokens(&self) -> Arc<[u32]> {
        Arc::clone(self.0.stop_tokens())
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
        Tokenizer(TokenizerError::TooManyTokens { .. }) => TextError::TooLong,
        fault @ Template(TemplateError::OutOfFuel { .. } | TemplateError::Failed { .. }) => {
            TextError::Failed(fault.to_string())
        }
        other => TextError::Refused(other.to_string()),
    }
}
