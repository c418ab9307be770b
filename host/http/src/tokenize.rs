//! Text to tokens and back, as vLLM's endpoints for it do: nothing is generated.

use serde_json::{Value, json};
use sluice_text::Json;

use crate::chat::read_chat;
use crate::config::EdgeConfig;
use crate::error::ApiError;
use crate::fields::{Fields, tokens, wrong};
use crate::logprobs::name;
use crate::prepare::{Prompt, check_tokens, tokenise, too_long};
use crate::text::ModelText;

/// A chat's messages or a prompt; what could not be a prompt of this model is refused like one.
pub(crate) fn tokenize(text: &dyn ModelText, config: &EdgeConfig, body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(body)?;
    config.model.check_name(fields.string("model")?)?;
    let strings = fields.boolean("return_token_strs")?.unwrap_or(false);
    let special = fields.boolean("add_special_tokens")?.unwrap_or(true);
    let length = config.model.max_model_len;
    let prompt = read(&mut fields, config.limits.messages)?;
    let tokens = tokenise(text, &prompt, special, length)?;
    let strings = strings.then(|| tokens.iter().map(|&token| name(&text.token_bytes(token)).into_owned()).collect());
    let strings: Option<Vec<String>> = strings;
    Ok(json!({"count": tokens.len(), "max_model_len": length, "tokens": tokens, "token_strs": strings}))
}

pub(crate) fn detokenize(text: &dyn ModelText, config: &EdgeConfig, body: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(body)?;
    config.model.check_name(fields.string("model")?)?;
    let tokens = match fields.take("tokens") {
        Some(Json::List(list)) => tokens("tokens", &list)?,
        Some(other) => return Err(wrong("tokens", "a list of tokens", &other)),
        None => return Err(ApiError::invalid("tokens", "`tokens` is missing")),
    };
    let length = config.model.max_model_len;
    if tokens.len() > length as usize {
        return Err(too_long(length, &format!("has {}", tokens.len()), "send fewer").of("tokens"));
    }
    check_tokens(text, "tokens", &tokens)?;
    Ok(json!({"prompt": text.decode_with_special(&tokens)}))
}

fn read(fields: &mut Fields, max_messages: usize) -> Result<Prompt, ApiError> {
    if fields.get("messages").is_some() {
        return Ok(Prompt::Chat(read_chat(fields, max_messages)?));
    }
    match fields.take("prompt") {
        Some(Json::Text(text)) => Ok(Prompt::Text(text)),
        Some(other) => Err(wrong("prompt", "a text", &other)),
        None => Err(ApiError::invalid("prompt", "there is neither a `prompt` nor `messages`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::characters::Characters;
    use crate::tests::engine::config;

    fn check(
        work: fn(&dyn ModelText, &EdgeConfig, &[u8]) -> Result<Value, ApiError>,
        body: &str,
        expected: Result<Value, &str>,
    ) {
        let done = work(&Characters, &config(), body.as_bytes());
        assert_eq!(done.as_ref().map_err(ApiError::code), expected.as_ref().map_err(|code| *code), "{body}");
    }

    #[test]
    fn text_and_chats_become_tokens() {
        let of =
            |tokens: &[u32]| json!({"count": tokens.len(), "max_model_len": 100, "tokens": tokens, "token_strs": null});
        check(tokenize, r#"{"model": "org/tiny", "prompt": "hi"}"#, Ok(of(&[104, 105])));
        check(tokenize, r#"{"prompt": ""}"#, Ok(of(&[])));
        check(tokenize, r#"{"messages": [{"role": "user", "content": "é"}]}"#, Ok(of(&[233])));
        let with_strings = json!({"count": 1, "max_model_len": 100, "tokens": [233], "token_strs": ["é"]});
        check(tokenize, r#"{"prompt": "é", "return_token_strs": true}"#, Ok(with_strings));
        for body in ["{}", r#"{"prompt": [1]}"#, r#"{"messages": []}"#, r#"{"prompt": "x", "return_token_strs": 1}"#] {
            check(tokenize, body, Err("invalid_value"));
        }
        check(tokenize, r#"{"prompt": "x", "model": "other"}"#, Err("model_not_found"));
        check(tokenize, &format!(r#"{{"prompt": "{}"}}"#, "x".repeat(401)), Err("context_length_exceeded"));
    }

    #[test]
    fn tokens_become_text() {
        check(detokenize, r#"{"tokens": [104, 233]}"#, Ok(json!({"prompt": "hé"})));
        check(detokenize, r#"{"tokens": []}"#, Ok(json!({"prompt": ""})));
        check(detokenize, r#"{"tokens": [104, 0]}"#, Ok(json!({"prompt": "h<end>"})));
        for body in ["{}", r#"{"tokens": "x"}"#, r#"{"tokens": [-1]}"#, r#"{"tokens": [1114112]}"#] {
            check(detokenize, body, Err("invalid_value"));
        }
        check(detokenize, &format!(r#"{{"tokens": {:?}}}"#, vec![1; 101]), Err("context_length_exceeded"));
    }
}
