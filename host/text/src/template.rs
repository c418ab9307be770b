//! Turns a chat into the one text that the model was trained to continue: the model's own Jinja template, bounded.

use std::error::Error as _;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::ChatRequest;
use crate::date::UnixSeconds;
use crate::error::TemplateError;
use crate::python_float::python_float;
use crate::tojson::tojson;

pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
pub const MAX_RENDERED_BYTES: usize = 8 * 1024 * 1024;
/// One unit per instruction and per 64 bytes: a template of fifty instructions a message has room for 10,000 messages.
const FUEL: u64 = 1_000_000;
const NAME: &str = "chat_template";
/// A request's `chat_template_kwargs` cannot stand for these.
const HOST_NAMES: [&str; 5] = ["messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"];

/// Comes from the model's folder, never from a request.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// By name: `bos_token` and the like.
    tokens: Vec<(String, String)>,
}

/// Why a template called `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

impl ChatTemplate {
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge { bytes: source.len(), limit: MAX_TEMPLATE_BYTES });
        }
        let mut environment = environment()?;
        let added = environment.add_template_owned(NAME, without_generation_tags(source));
        added.map_err(|error| TemplateError::Syntax { reason: reason(&error) })?;
        Ok(Self { environment, source: source.to_owned(), tokens: Vec::new() })
    }

    /// The texts that the template sees by these names, such as `bos_token`; an empty one is as good as none.
    #[must_use]
    pub fn with_tokens<'t>(mut self, tokens: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let named = tokens.into_iter().filter(|(_, text)| !text.is_empty());
        self.tokens = named.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        self
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The chat as one text, as transformers' `apply_chat_template` makes it.
    pub fn render(&self, request: &ChatRequest, now: UnixSeconds) -> Result<String, TemplateError> {
        self.render_with(request, now, &str::to_owned)
    }

    /// The same, with every text that came from the client changed by `with`.
    pub(crate) fn render_with(
        &self,
        request: &ChatRequest,
        now: UnixSeconds,
        with: &impl Fn(&str) -> String,
    ) -> Result<String, TemplateError> {
        request
            .check_kwargs(|name| HOST_NAMES.contains(&name) || self.tokens.iter().any(|(token, _)| token == name))?;
        let template = self.environment.get_template(NAME).map_err(fault)?;
        let strftime_now = Value::from_function(move |format: &str| {
            let unknown =
                |letter| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown format %{letter}"));
            now.strftime(format).map_err(unknown)
        });
        let tokens = self.tokens.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str())));
        let own = tokens.chain([("strftime_now".to_owned(), strftime_now)]);
        let context = Value::from_pairs(request.variables(with).into_iter().chain(own));
        let mut out = Bounded { text: Vec::new(), overrun: false };
        match template.render_captured_to(context, &mut out) {
            Ok(_) => String::from_utf8(out.text).map_err(|error| TemplateError::Failed { reason: error.to_string() }),
            Err(_) if out.overrun => Err(TemplateError::TooLong { limit: MAX_RENDERED_BYTES }),
            Err(error) => Err(fault(error)),
        }
    }
}

/// What Hugging Face's templates are written for.
fn environment() -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(fault)?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.set_formatter(|out, state, value| match exponent(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("string", |value: &Value| exponent(value).unwrap_or_else(|| value.to_string()));
    // Python iterates over no None: a template that asks first whether there are tools would count them otherwise.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: &str| -> Result<Value, Error> {
        let error = Error::new(ErrorKind::InvalidOperation, "raise_exception");
        Err(error.with_source(Refusal(message.to_owned())))
    });
    Ok(environment)
}

/// What Python writes where it writes an exponent, and minijinja all the digits.
fn exponent(value: &Value) -> Option<String> {
    let float = (value.is_number() && !value.is_integer()).then(|| f64::try_from(value.clone()).ok())??;
    Some(python_float(float)).filter(|text| text.contains('e'))
}

fn fault(error: Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel { fuel: FUEL };
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Refusal(reason)) = inner.downcast_ref() {
            return TemplateError::Refused { reason: reason.clone() };
        }
        cause = inner.source();
    }
    TemplateError::Failed { reason: reason(&error) }
}

fn reason(error: &Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason += &format!(": {inner}");
        cause = inner.source();
    }
    reason
}

/// `{% generation %}` marks, for training, what the assistant says; it changes nothing in the text, and minijinja does
/// not know it. A block that is always taken stands for it, so that the trimming around it stays.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let word_at = tag.find(|c: char| !(c.is_whitespace() || c == '-' || c == '+')).unwrap_or(tag.len());
        let (space, word) = tag.split_at(word_at);
        out.push_str(space);
        rest = word;
        for (name, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = word.strip_prefix(name);
            if let Some(after) = after.filter(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')) {
                out.push_str(instead);
                rest = after;
            }
        }
    }
    out + rest
}

/// A writer that gives up where the text grows too long.
struct Bounded {
    text: Vec<u8>,
    overrun: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_RENDERED_BYTES {
            self.overrun = true;
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
