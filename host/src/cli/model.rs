//! `sluice model`, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use sluice_checkpoint::{Dtype, Quantization};

#[derive(Subcommand, Debug)]
pub enum ModelCommand {
    /// Reads a model's headers: what it is, what memory it takes, and what is missing. Exits with 1 if it cannot be served.
    Inspect {
        /// As for serving [default: the embedded model]
        #[arg(value_name = "DIR|FILE.gguf|ORG/NAME")]
        model: Option<String>,
    },
    /// Measures how well a model foretells a text, once for each quantisation.
    Perplexity(PerplexityArguments),
}

#[derive(Args, Debug)]
pub struct PerplexityArguments {
    /// A text, or chats as JSON lines: {"messages": [{"role": "user", "content": "…"}, …]}
    #[arg(value_name = "FILE.txt|FILE.jsonl")]
    pub text: PathBuf,
    /// As for serving [default: the embedded model]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub model: Option<String>,
    /// One of none, int8 and nf4; as often as there is something to compare [default: all of them, and none where the
    /// weights are stored quantised]
    #[arg(long, value_name = "METHOD")]
    pub quantization: Vec<Quantization>,
    /// The numbers that weights are held in: auto, float32, float16, bfloat16.
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    pub dtype: Dtype,
    /// Tokens that the model sees at once, 2 or more.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = value_parser!(u32).range(2..))]
    pub window: u32,
}
