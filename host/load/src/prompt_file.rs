//! Prompts from a file: JSON lines with a `prompt` or with `messages`, or a text whose lines are prompts.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::BenchError;
use crate::prompt::Prompt;
use crate::server::Endpoint;

/// A file is read whole.
const MAX_FILE_BYTES: u64 = 4 << 30;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FilePrompt {
    pub(crate) prompt: Prompt,
    /// Of this prompt's answer, where the file says so.
    pub(crate) output_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Line {
    prompt: Option<Written>,
    messages: Option<Value>,
    #[serde(alias = "max_tokens")]
    output_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Ids(Vec<u32>),
}

pub(crate) fn read(path: &Path, endpoint: Endpoint) -> Result<Vec<FilePrompt>, BenchError> {
    let flag = "--prompts";
    let file_error = |source| BenchError::File { flag, path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(file_error)?.len();
    if size > MAX_FILE_BYTES {
        return Err(BenchError::usage(flag, format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(file_error)?;
    let json = path.extension().is_some_and(|extension| extension == "jsonl");
    let mut prompts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let read = if json { json_line(line, endpoint) } else { Ok(plain(line)) };
        let line = index as u64 + 1;
        prompts.push(read.map_err(|problem| BenchError::Line { path: path.to_owned(), line, problem })?);
    }
    if prompts.is_empty() {
        return Err(BenchError::usage(flag, format!("{} has no prompt in it", path.display())));
    }
    Ok(prompts)
}

fn plain(line: &str) -> FilePrompt {
    FilePrompt { prompt: Prompt::Text(line.to_owned()), output_tokens: None }
}

fn json_line(line: &str, endpoint: Endpoint) -> Result<FilePrompt, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let prompt = match (line.prompt, line.messages, endpoint) {
        (Some(Written::Text(text)), None, _) => Prompt::Text(text),
        (Some(Written::Ids(ids)), None, Endpoint::Completions) => Prompt::Ids(ids),
        (Some(Written::Ids(_)), None, Endpoint::Chat) => {
            return Err("token ids are for --endpoint completions".to_owned());
        }
        (None, Some(messages @ Value::Array(_)), Endpoint::Chat) => Prompt::Messages(messages),
        (None, Some(_), Endpoint::Completions) => return Err("messages are for --endpoint chat".to_owned()),
        _ => return Err("either `prompt` or a list of `messages` belongs here".to_owned()),
    };
    if line.output_tokens == Some(0) {
        return Err("output_tokens is at least 1".to_owned());
    }
    Ok(FilePrompt { prompt, output_tokens: line.output_tokens })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn check(name: &str, endpoint: Endpoint, text: &str, expected: Result<Vec<FilePrompt>, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        match (read(&path, endpoint), expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn both_kinds_of_file() {
        let prompt = |prompt, output_tokens| FilePrompt { prompt, output_tokens };
        let text = |text: &str| Prompt::Text(text.to_owned());
        let (chat, completions) = (Endpoint::Chat, Endpoint::Completions);
        check("p.txt", chat, "one\n\n two\n", Ok(vec![prompt(text("one"), None), prompt(text(" two"), None)]));
        let lines = "{\"prompt\": \"a\", \"output_tokens\": 5}\n{\"prompt\": [1, 2], \"max_tokens\": 6}\n";
        check(
            "p.jsonl",
            completions,
            lines,
            Ok(vec![prompt(text("a"), Some(5)), prompt(Prompt::Ids(vec![1, 2]), Some(6))]),
        );
        let messages = json!([{ "role": "user", "content": "a" }]);
        let line = json!({ "messages": messages, "other": 1 }).to_string();
        check("p.jsonl", chat, &line, Ok(vec![prompt(Prompt::Messages(messages), None)]));
        check("p.jsonl", completions, &line, Err("line 1: messages are for --endpoint chat"));
        check("p.jsonl", chat, lines, Err("line 2: token ids are for --endpoint completions"));
        check("p.jsonl", chat, "{\"prompt\": \"a\"}\n{}\n", Err("line 2: either"));
        check("p.jsonl", chat, "{\"prompt\": \"a\", \"max_tokens\": 0}", Err("line 1: output_tokens"));
        check("p.jsonl", chat, "prompt\n", Err("line 1: "));
        check("p.txt", chat, "\n \n", Err("has no prompt in it"));
    }
}
