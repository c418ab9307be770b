//! Reads recorded traffic: when each request came, how long its prompt was, and how long its answer.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::time::Duration;

use jiff::civil::DateTime;
use serde::Deserialize;

use crate::arrivals::seconds;
use crate::error::BenchError;
use crate::lengths::MAX_LENGTH;

/// Azure's traces of a week have some ten million.
const MAX_ROWS: usize = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceRow {
    /// Since the first request of the trace.
    pub(crate) at: Duration,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// A `.jsonl` file is read as Mooncake's, anything else as Azure's CSV. The rows come back in the order of time.
pub(crate) fn read(path: &Path) -> Result<Vec<TraceRow>, BenchError> {
    let file_error = |source| BenchError::File { flag: "--trace", path: path.to_owned(), source };
    let line_error = |(line, problem): (u64, String)| BenchError::Line { path: path.to_owned(), line, problem };
    let file = BufReader::new(File::open(path).map_err(file_error)?);
    let json = path.extension().is_some_and(|extension| extension == "jsonl");
    let mut rows = if json { json_lines(file) } else { comma_separated(file) }.map_err(line_error)?;
    rows.sort_by(|a, b| a.at.total_cmp(&b.at));
    let first = rows.first().map_or(0.0, |row| row.at);
    Ok(rows.iter().map(|row| row.since(first)).collect())
}

/// With its time in seconds since some day long ago.
#[derive(Clone, Copy, Debug)]
struct RawRow {
    at: f64,
    input_tokens: u32,
    output_tokens: u32,
}

impl RawRow {
    fn since(&self, first: f64) -> TraceRow {
        TraceRow { at: seconds(self.at - first), input_tokens: self.input_tokens, output_tokens: self.output_tokens }
    }
}

/// A line of a file, and what is wrong with it.
type LineProblem = (u64, String);

#[derive(Deserialize)]
struct AzureRow {
    #[serde(rename = "TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "ContextTokens")]
    context_tokens: u32,
    #[serde(rename = "GeneratedTokens")]
    generated_tokens: u32,
}

fn comma_separated(file: impl io::Read) -> Result<Vec<RawRow>, LineProblem> {
    let mut rows = Vec::new();
    for (index, row) in csv::Reader::from_reader(file).deserialize::<AzureRow>().enumerate() {
        let line = index as u64 + 2;
        let row = row.map_err(|error| (line, csv_problem(&error)))?;
        let at = row.timestamp.trim().parse::<DateTime>().map_err(|error| (line, error.to_string()))?;
        let since = at.duration_since(DateTime::constant(2000, 1, 1, 0, 0, 0, 0));
        let (input_tokens, output_tokens) = (row.context_tokens, row.generated_tokens);
        keep(&mut rows, line, RawRow { at: since.as_secs_f64(), input_tokens, output_tokens })?;
    }
    Ok(rows)
}

fn csv_problem(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => {
            format!("{err} (TIMESTAMP, ContextTokens, GeneratedTokens are read)")
        }
        _ => error.to_string(),
    }
}

#[derive(Deserialize)]
struct MooncakeRow {
    /// In milliseconds.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
}

fn json_lines(file: impl io::BufRead) -> Result<Vec<RawRow>, LineProblem> {
    let mut rows = Vec::new();
    for (index, text) in file.lines().enumerate() {
        let line = index as u64 + 1;
        let text = text.map_err(|error| (line, error.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let row: MooncakeRow = serde_json::from_str(&text).map_err(|error| (line, error.to_string()))?;
        let (input_tokens, output_tokens) = (row.input_length, row.output_length);
        keep(&mut rows, line, RawRow { at: row.timestamp / 1e3, input_tokens, output_tokens })?;
    }
    Ok(rows)
}

fn keep(rows: &mut Vec<RawRow>, line: u64, row: RawRow) -> Result<(), LineProblem> {
    if rows.len() == MAX_ROWS {
        return Err((line, format!("more than {MAX_ROWS} requests")));
    }
    let longest = row.input_tokens.max(row.output_tokens);
    if longest > MAX_LENGTH {
        return Err((line, format!("{longest} tokens are more than {MAX_LENGTH}, the most that anything may be long")));
    }
    rows.push(row);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(name: &str, text: &str, expected: Result<&[(u64, u32, u32)], &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        match (read(&path), expected) {
            (Ok(rows), Ok(expected)) => {
                let rows: Vec<_> =
                    rows.iter().map(|row| (row.at.as_micros() as u64, row.input_tokens, row.output_tokens)).collect();
                assert_eq!(rows, expected, "{text}");
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn the_two_formats() {
        let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9799600,374,44\n\
                     2023-11-17 00:00:00.0319600,396,109\n";
        check("t.csv", azure, Ok(&[(0, 374, 44), (52_000, 396, 109)]));
        let other = "GeneratedTokens,TIMESTAMP,ContextTokens,Model\r\n1,2024-05-10 00:00:01.5+00:00,2,x\r\n\
                     3,2024-05-10 00:00:00.25+00:00,4,x\r\n";
        check("t.csv", other, Ok(&[(0, 4, 3), (1_250_000, 2, 1)]));
        let mooncake = "{\"timestamp\": 3000, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1]}\n\n\
                        {\"timestamp\": 27.5, \"input_length\": 7, \"output_length\": 1}\n";
        check("t.jsonl", mooncake, Ok(&[(0, 7, 1), (2_972_500, 6758, 500)]));
        check("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", Ok(&[]));
    }

    #[test]
    fn what_is_no_trace_is_told_with_its_line() {
        check("t.csv", "a,b\n1,2\n", Err("line 2: missing field `TIMESTAMP`"));
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n";
        check("t.csv", &format!("{head}yesterday,1,1\n"), Err("line 3: "));
        check("t.csv", &format!("{head}2023-11-16 18:15:46,-1,1\n"), Err("line 3: "));
        check("t.csv", &format!("{head}2023-11-16 18:15:46,1\n"), Err("line 3: "));
        check("t.csv", &format!("{head}2023-11-16 18:15:46,4000000000,1\n"), Err("line 3: 4000000000 tokens"));
        let long = "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 10000001}\n";
        check("t.jsonl", long, Err("line 1: 10000001 tokens"));
        check("t.jsonl", "{\"timestamp\": 1}\n", Err("line 1: missing field `input_length`"));
        assert!(read(Path::new("/no/such/trace.csv")).unwrap_err().is_usage());
    }
}
