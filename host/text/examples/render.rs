//! Renders chats for comparisons with other renderers: on each line of the input a JSON object with a `template`, its
//! `tokens` and a `request`; on each line of the output an object with the `text` or the `error`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};

use serde::Deserialize;
use sluice_text::{ChatRequest, ChatTemplate, TemplateError, UnixSeconds};

#[derive(Deserialize)]
struct Job {
    template: String,
    #[serde(default)]
    tokens: BTreeMap<String, String>,
    request: ChatRequest,
    /// Seconds since 1970, for templates that name the day.
    #[serde(default)]
    now: u64,
}

impl Job {
    fn render(&self) -> Result<String, TemplateError> {
        let tokens = self.tokens.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let template = ChatTemplate::new(&self.template)?.with_tokens(tokens);
        template.render(&self.request, UnixSeconds(self.now))
    }
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        let answer = match job.render() {
            Ok(text) => serde_json::json!({"text": text}),
            Err(error) => serde_json::json!({"error": error.to_string()}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
