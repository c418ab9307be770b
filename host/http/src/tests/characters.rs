//! A model's text side whose tokens are characters.

use std::borrow::Cow;
use std::sync::Arc;

use sluice_text::{ChatRequest, Json};

use crate::text::{Decoder, ModelText, TextError};

/// One token per character, which is its code point.
pub(crate) struct Characters;

/// Shows a character at once, but for `~`, which it holds back until the next one or the end.
struct CharacterDecoder {
    stop: Vec<String>,
    include_stop: bool,
    /// Tokens to come that no stop string ends.
    least: u32,
    text: String,
}

impl ModelText for Characters {
    fn chat(&self, request: &ChatRequest, most: u32) -> Result<Vec<u32>, TextError> {
        let role = request.messages[0].get("role").and_then(Json::as_text);
        if role == Some("assistant") {
            return Err(TextError::Refused("a chat begins with the user".to_owned()));
        }
        let contents = request.messages.iter().filter_map(|message| message.get("content").and_then(Json::as_text));
        self.encode(&contents.collect::<String>(), true, most)
    }

    fn encode(&self, text: &str, _from_start: bool, most: u32) -> Result<Vec<u32>, TextError> {
        if text.len() > 4 * most as usize {
            return Err(TextError::TooLong);
        }
        Ok(text.chars().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().filter_map(|&token| char::from_u32(token)).collect()
    }

    fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.decode(tokens).replace('\0', "<end>")
    }

    fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        Cow::Owned(self.decode(&[token]).into_bytes())
    }

    fn decoder(&self, stop: &[String], include_stop: bool, least: u32) -> Result<Box<dyn Decoder>, TextError> {
        Ok(Box::new(CharacterDecoder { stop: stop.to_vec(), include_stop, least, text: String::new() }))
    }

    fn vocabulary(&self) -> u32 {
        0x11_0000
    }

    fn stop_tokens(&self) -> Arc<[u32]> {
        Arc::new([0])
    }
}

impl Decoder for CharacterDecoder {
    fn push(&mut self, token: u32, text: &mut String) -> bool {
        self.text.push(char::from_u32(token).unwrap());
        let counts = self.least == 0;
        self.least = self.least.saturating_sub(1);
        if counts && self.stop.iter().any(|stop| self.text.ends_with(stop.as_str())) {
            if self.include_stop {
                text.push_str(&self.text);
            }
            return true;
        }
        if !self.text.ends_with('~') {
            text.push_str(&std::mem::take(&mut self.text));
        }
        false
    }

    fn finish(&mut self, text: &mut String) -> bool {
        text.push_str(&self.text);
        false
    }
}
