//! What is known of one request when it is over.

use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use crate::answer::Answer;
use crate::failure::Failure;

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Where the prompt was made to a length. Of a text the server may count a little more or less.
    pub(crate) input_tokens: Option<u32>,
    /// Where the prompt is token ids, which nobody can count otherwise.
    pub(crate) exact_input_tokens: Option<u32>,
    /// `max_tokens`: the most that may come back. None where `--extra-body` says otherwise.
    pub(crate) output_tokens: Option<u32>,
}

/// Times are since the load began.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) index: u64,
    pub(crate) asked: Asked,
    /// When it was to be sent. Every latency counts from here.
    pub(crate) planned: Duration,
    /// How long the cap on concurrency held it back.
    pub(crate) held: Duration,
    /// One that was held back to the end of a load that was cut short is sent and ended at that moment.
    pub(crate) sent: Duration,
    pub(crate) answer: Answer,
}

impl Record {
    pub(crate) fn succeeded(&self) -> bool {
        self.answer.failure.is_none()
    }

    /// Not over when the load was ended.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.answer.failure == Some(Failure::CutShort)
    }

    pub(crate) fn ended(&self) -> Duration {
        self.answer.ended
    }

    pub(crate) fn send_lag(&self) -> Duration {
        self.sent.saturating_sub(self.planned)
    }

    /// How late the generator itself was.
    pub(crate) fn lateness(&self) -> Duration {
        self.send_lag().saturating_sub(self.held)
    }

    /// None where nothing was streamed.
    pub(crate) fn ttft(&self) -> Option<Duration> {
        Some(self.answer.first_output?.saturating_sub(self.planned))
    }

    pub(crate) fn end_to_end(&self) -> Duration {
        self.ended().saturating_sub(self.planned)
    }

    /// As the server counts them, else as they were asked for.
    pub(crate) fn input_tokens(&self) -> u64 {
        let asked = self.asked.input_tokens.map_or(0, u64::from);
        self.answer.usage.map_or(asked, |usage| usage.prompt_tokens)
    }

    /// As the server counts them, else the chunks that carried output, each taken for one token.
    pub(crate) fn output_tokens(&self) -> u64 {
        self.answer.usage.map_or(u64::from(self.answer.chunks), |usage| usage.completion_tokens)
    }

    /// Time per output token after the first: from the first output to the last, by the tokens less one.
    pub(crate) fn tpot(&self) -> Option<Duration> {
        let decode = self.answer.last_output?.saturating_sub(self.answer.first_output?);
        let after_first = self.output_tokens().checked_sub(1).filter(|tokens| *tokens > 0)?;
        Some(decode.div_f64(after_first as f64))
    }

    pub(crate) fn row(&self) -> Row {
        let usage = self.answer.usage;
        Row {
            index: self.index,
            planned_s: self.planned.as_secs_f64(),
            send_lag_ms: milliseconds(self.send_lag()),
            held_ms: milliseconds(self.held),
            ttft_ms: self.ttft().map(milliseconds),
            tpot_ms: self.tpot().map(milliseconds),
            e2el_ms: milliseconds(self.end_to_end()),
            gaps_ms: Milliseconds(self.answer.gaps.clone()),
            chunks: self.answer.chunks,
            input_tokens_asked: self.asked.input_tokens,
            input_tokens: usage.map(|usage| usage.prompt_tokens),
            cached_tokens: usage.and_then(|usage| usage.cached_tokens()),
            max_tokens: self.asked.output_tokens,
            output_tokens: self.output_tokens(),
            error: self.answer.failure.as_ref().map(|failure| failure.kind()),
            error_message: self.answer.failure.as_ref().map(ToString::to_string),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One request in the report. What was not measured is null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    index: u64,
    planned_s: f64,
    send_lag_ms: f64,
    held_ms: f64,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    e2el_ms: f64,
    gaps_ms: Milliseconds,
    chunks: u32,
    input_tokens_asked: Option<u32>,
    input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    max_tokens: Option<u32>,
    output_tokens: u64,
    error: Option<String>,
    error_message: Option<String>,
}

#[derive(Clone, Debug)]
struct Milliseconds(Vec<Duration>);

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|duration| milliseconds(*duration)))
    }
}
