//! The command line of `sluice bench`. Flags are named as `vllm bench serve`'s where they mean the same.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum, value_parser};
use serde::Serialize;

use crate::drive::MAX_OUTSTANDING;
use crate::goodput::Goal;
use crate::lengths::MAX_LENGTH;
use crate::server::Endpoint;

/// What is typed after `sluice bench`.
#[derive(Args, Debug, Serialize)]
pub struct BenchArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    #[command(flatten)]
    pub(crate) prompts: PromptArguments,
    #[command(flatten)]
    pub(crate) report: ReportArguments,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetArguments {
    /// The server, with or without `/v1`.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) base_url: String,
    /// [default: the first that /v1/models lists]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    #[arg(long, value_name = "ENDPOINT", default_value = "chat")]
    pub(crate) endpoint: Endpoint,
    /// Sent as a bearer token [default: the environment's OPENAI_API_KEY]
    #[arg(long, value_name = "KEY")]
    #[serde(skip)]
    pub(crate) api_key: Option<String>,
    /// Sent with every request; as often as wanted.
    #[arg(long, value_name = "NAME:VALUE")]
    #[serde(skip)]
    pub(crate) header: Vec<String>,
    /// Fields that stand over those of every request's body; null takes one away.
    #[arg(long, value_name = "JSON")]
    pub(crate) extra_body: Option<String>,
    /// Ask for each answer in one piece. Then there is no first token to time.
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Seconds for one request, from its sending to the end of its answer.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive)]
    pub(crate) timeout: f64,
    /// Certificates to trust instead of the system's, in PEM's form.
    #[arg(long, value_name = "FILE.pem")]
    pub(crate) ca_cert: Option<PathBuf>,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Load")]
#[command(group = ArgGroup::new("arrivals").args(["request_rate", "trace"]))]
pub(crate) struct LoadArguments {
    /// Requests a second, with the gaps of a Poisson process; `inf` is all at once.
    #[arg(long, value_name = "RATE", value_parser = positive_or_infinite)]
    pub(crate) request_rate: Option<f64>,
    /// Shape of the gaps' gamma distribution: 1 is Poisson, less is burstier, more is smoother.
    #[arg(long, value_name = "SHAPE", default_value = "1", value_parser = positive, requires = "request_rate")]
    pub(crate) burstiness: f64,
    /// The same gap between any two requests.
    #[arg(long, requires = "request_rate", conflicts_with = "burstiness")]
    pub(crate) constant: bool,
    /// Requests in flight at most. Alone it is a closed loop: one goes out when another has ended. Beside a rate or a
    /// trace it is a cap; latencies still count from when a request was due, and what was held back is reported.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(MAX_OUTSTANDING)))]
    pub(crate) max_concurrency: Option<u32>,
    /// Send what was recorded: CSV with TIMESTAMP, ContextTokens and GeneratedTokens, or JSON lines with timestamp (ms),
    /// input_length and output_length.
    #[arg(long, value_name = "FILE.csv|FILE.jsonl")]
    pub(crate) trace: Option<PathBuf>,
    /// Of a trace: 2 is twice as fast.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = positive, requires = "trace")]
    pub(crate) time_scale: f64,
    /// Of a trace: what its prompts' and answers' lengths are multiplied by.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = positive, requires = "trace")]
    pub(crate) length_scale: f64,
    /// Of a trace: seconds of it that are passed over.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = not_negative, requires = "trace")]
    pub(crate) start: f64,
    /// Seconds in which requests are sent. What is in flight then is waited for.
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) duration: Option<f64>,
    /// Requests at most [default: 1000; with --duration or --trace, no limit]
    #[arg(long, visible_alias = "num-prompts", value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) num_requests: Option<u64>,
    /// Requests that are sent and answered before the load begins, and measured nowhere.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) num_warmups: u32,
    /// Seconds at the beginning of the load whose requests are sent and left out of the figures. Tokens a second and
    /// concurrency are of all that goes on after them.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = not_negative)]
    pub(crate) warmup_seconds: f64,
    /// The same seed sends the same requests at the same times.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) seed: u64,
}

/// What made-up prompts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// Common words; the server is asked how many tokens they are.
    Text,
    /// Token ids, for --endpoint completions. Their number is exact.
    Tokens,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArguments {
    /// JSON lines with `prompt` or `messages`, and `output_tokens` where it is known; or a text, each line a prompt
    /// [default: made up]
    #[arg(long, visible_alias = "dataset-path", value_name = "FILE.jsonl|FILE.txt")]
    pub(crate) prompts: Option<PathBuf>,
    /// Of made-up prompts [default: tokens on completions, text on chat]
    #[arg(long, value_name = "FORM", conflicts_with = "prompts")]
    pub(crate) prompt_form: Option<Form>,
    /// The ids that such prompts are drawn from, both ends included.
    #[arg(long, value_name = "LOW-HIGH", default_value = "1000-1999", value_parser = id_range)]
    pub(crate) token_ids: (u32, u32),
    /// Tokens of a made-up prompt. A trace brings its own.
    #[arg(long, visible_alias = "random-input-len", value_name = "N", default_value = "1024", value_parser = length())]
    pub(crate) input_len: u32,
    /// Tokens of an answer at most: `max_tokens`. A trace or a file brings its own.
    #[arg(long, visible_alias = "random-output-len", value_name = "N", default_value = "128", value_parser = length())]
    pub(crate) output_len: u32,
    /// Lengths are uniform between (1 - ratio) and (1 + ratio) times the above.
    #[arg(long, visible_alias = "random-range-ratio", value_name = "RATIO", default_value = "0", value_parser = ratio)]
    pub(crate) range_ratio: f64,
    /// Tokens at the beginning that all made-up prompts share, on top of --input-len.
    #[arg(long, visible_alias = "random-prefix-len", value_name = "N", default_value = "0",
        value_parser = value_parser!(u32).range(..=i64::from(MAX_LENGTH)))]
    pub(crate) prefix_len: u32,
    /// Of a trace: longer prompts are cut to it.
    #[arg(long, value_name = "N", requires = "trace", value_parser = length())]
    pub(crate) max_input_len: Option<u32>,
    /// Of a trace: longer answers are cut to it.
    #[arg(long, value_name = "N", requires = "trace", value_parser = length())]
    pub(crate) max_output_len: Option<u32>,
    /// Answers go on to `max_tokens`, whatever the model says.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Report")]
pub(crate) struct ReportArguments {
    /// What a good answer keeps, in milliseconds: ttft (first token), tpot (each token after it), e2el (all of it).
    /// Goodput is the share of all requests sent, failed ones too, that keep all of them.
    #[arg(long, value_name = "METRIC:MS", num_args = 1..)]
    pub(crate) goodput: Vec<Goal>,
    /// Where everything that was measured goes, as JSON.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) output: Option<PathBuf>,
    /// Every request in that file.
    #[arg(long, requires = "output")]
    pub(crate) save_detailed: bool,
    /// No progress bar. There is none anyway where standard error is no terminal.
    #[arg(long, visible_alias = "disable-tqdm")]
    pub(crate) no_progress: bool,
}

fn length() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=i64::from(MAX_LENGTH))
}

fn number(text: &str, is_good: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| is_good(*value)).ok_or_else(|| format!("{wanted} is wanted"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |value| value.is_finite() && value > 0.0, "a number above 0")
}

fn positive_or_infinite(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a number above 0, or `inf`,")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |value| value.is_finite() && value >= 0.0, "a number, 0 or more,")
}

fn ratio(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..1.0).contains(&value), "a number from 0 to below 1")
}

fn id_range(text: &str) -> Result<(u32, u32), String> {
    let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    ends.filter(|(low, high)| low <= high).ok_or_else(|| "LOW-HIGH is wanted, as in 1000-1999".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::tests::run::parse;

    #[test]
    fn what_can_and_what_cannot_be_meant() {
        let good = [
            "",
            "--request-rate 5 --burstiness 0.5 --num-prompts 9",
            "--request-rate inf",
            "--request-rate 5 --constant --max-concurrency 3",
            "--trace a.csv --time-scale 2 --length-scale 0.1 --start 60 --duration 30 --max-input-len 9",
            "--goodput ttft:200 tpot:50 --output a.json --save-detailed",
            "--random-input-len 7 --random-output-len 8 --random-range-ratio 0.5 --random-prefix-len 3",
        ];
        for arguments in good {
            assert!(parse(arguments).is_ok(), "{arguments}: {:?}", parse(arguments).err());
        }
        let bad = [
            "--request-rate 0",
            "--request-rate -1",
            "--request-rate nan",
            "--request-rate 1 --trace a.csv",
            "--request-rate 1 --constant --burstiness 2",
            "--burstiness 2",
            "--constant",
            "--time-scale 2",
            "--max-concurrency 0",
            "--max-concurrency 10000000",
            "--range-ratio 1",
            "--input-len 0",
            "--token-ids 9-1",
            "--goodput itl:5",
            "--save-detailed",
            "--prompts a --prompt-form text",
            "--timeout inf",
            "--endpoint embeddings",
        ];
        for arguments in bad {
            assert_eq!(parse(arguments).err().map(|error| error.exit_code()), Some(2), "{arguments}");
        }
    }

    #[test]
    fn secrets_do_not_reach_the_report() {
        let typed = parse("--api-key s3cret --header x-key:s3cret --seed 9").unwrap();
        let written = serde_json::to_string(&typed).unwrap();
        assert!(!written.contains("s3cret") && written.contains("\"seed\":9"), "{written}");
    }
}
