//! The command line. Flags are named as vLLM's where they mean the same.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, value_parser};
use sluice_checkpoint::{Dtype, Quantization};
use sluice_core::{DeploymentClass, Slot};

use crate::config::{EngineSection, LogSection, ModelSection, PoliciesSection, ServerSection, Settings};

/// An LLM inference server whose scheduling policies are WebAssembly components, swapped while it runs.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a command, the server is started.
    #[command(flatten)]
    pub serve: ServeArguments,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Starts the server. This is also what happens without a command.
    Serve(Box<ServeArguments>),
    /// Sees and changes the policies of a running server.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Looks at a model's files, and measures what quantisation costs.
    #[command(subcommand)]
    Model(ModelCommand),
}

#[derive(Args, Debug, Default)]
pub struct ServeArguments {
    /// Settings in sections; flags and SLUICE__SECTION__KEY stand over them.
    #[arg(long, value_name = "sluice.toml")]
    pub config: Option<PathBuf>,
    /// A folder in Hugging Face's layout, a GGUF file, or a name on the hub whose files are in the cache
    /// [default: the embedded model]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub model: Option<String>,
    /// The model's name in the API [default: the folder's]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Prompt and answer together, in tokens [default: the model's]
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<u32>,
    /// `dummy` fills the model's shapes with random weights.
    #[arg(long, value_name = "FORMAT")]
    pub load_format: Option<String>,
    /// The numbers that weights are held in: auto, float32, float16, bfloat16 [default: as they are stored]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// What is done to linear layers while they load: none, int8, nf4 [default: none]
    #[arg(long, value_name = "METHOD")]
    pub quantization: Option<String>,
    /// Copies of the model that serve side by side [default: 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Sequences in one step of a replica [default: 64]
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<u32>,
    /// Tokens in one step of a replica [default: 512]
    #[arg(long, value_name = "N")]
    pub max_num_batched_tokens: Option<u32>,
    /// Tokens in a block of the KV cache [default: 16]
    #[arg(long, value_name = "N")]
    pub block_size: Option<u32>,
    /// Blocks of the KV cache of each replica [default: what fits]
    #[arg(long, visible_alias = "num-gpu-blocks-override", value_name = "N")]
    pub kv_blocks: Option<u32>,
    /// Requests that may wait [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_queued_requests: Option<u32>,
    /// Prompt tokens that may wait [default: 1048576]
    #[arg(long, value_name = "N")]
    pub max_queued_tokens: Option<u64>,
    /// A policy to start with: the name of a shipped one, or a component's file. Once per slot.
    #[arg(long, value_name = "SLOT=NAME|FILE.wasm")]
    pub policy: Vec<SlotPolicy>,
    /// Where the API listens [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// [default: 8000]
    #[arg(long)]
    pub port: Option<u16>,
    /// On 127.0.0.1 unless the configuration says otherwise [default: 8001]
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// Seconds that answers in progress get when the server is told to go [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct SlotPolicy {
    slot: Slot,
    policy: String,
}

impl FromStr for SlotPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (slot, policy) = text.split_once('=').ok_or("write SLOT=NAME, as in routing=two-choices")?;
        let slot = slot.parse().map_err(|error: sluice_core::revision::UnknownSlot| error.to_string())?;
        Ok(Self { slot, policy: policy.to_owned() })
    }
}

#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Shows which policies decide, and on which seats.
    List(AdminArguments),
    /// Puts a policy on all seats of its slot; nothing changes if it cannot be prepared.
    Deploy {
        #[arg(value_name = "FILE.wasm")]
        component: PathBuf,
        /// A file with the policy's configuration, a JSON object.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// `script` has more memory and longer deadlines, for languages that bring an interpreter.
        #[arg(long, default_value = "standard")]
        class: DeploymentClass,
        /// Refuse the component unless it is a policy for this slot.
        #[arg(long)]
        slot: Option<Slot>,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Gives a slot back to its previous policy.
    Rollback {
        slot: Slot,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Reads a component without a server: what it is, how it is configured, under which limits it would run.
    Inspect {
        #[arg(value_name = "FILE.wasm")]
        component: PathBuf,
        #[arg(long, default_value = "standard")]
        class: DeploymentClass,
    },
    /// Shows what was done to the policies, and what they did.
    History(AdminArguments),
    /// Saves what a policy saw and decided lately: the flight recorder of one seat.
    Record {
        slot: Slot,
        /// Of batching, whose seats are the replicas [default: 0]
        #[arg(long, value_name = "N")]
        replica: Option<u32>,
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        admin: AdminArguments,
    },
    /// Lets a component decide again what was recorded, without a server, and lists where it decides otherwise.
    ///
    /// A revision that the recording holds is asked for its own decisions only, and must decide the same to the byte.
    /// Any other is asked for all of them.
    ///
    /// Exits with 0 if no decision differs, with 1 if one does or the recording cannot be replayed.
    Replay(ReplayArguments),
}

#[derive(Args, Debug)]
pub struct ReplayArguments {
    pub recording: PathBuf,
    #[arg(value_name = "FILE.wasm")]
    pub component: PathBuf,
    /// A file with the policy's configuration [default: the recorded one of this component, or of this name, else {}]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// As it was deployed.
    #[arg(long, default_value = "standard")]
    pub class: DeploymentClass,
}

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

#[derive(Args, Debug)]
pub struct AdminArguments {
    /// The server's admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    pub admin: String,
}

impl ServeArguments {
    /// What was typed on the command line, as settings.
    pub fn settings(self) -> Settings {
        let mut policies = PoliciesSection::default();
        for SlotPolicy { slot, policy } in self.policy {
            let place = match slot {
                Slot::Admission => &mut policies.admission,
                Slot::Routing => &mut policies.routing,
                Slot::Batching => &mut policies.batching,
            };
            *place = Some(policy);
        }
        Settings {
            server: ServerSection {
                host: self.host,
                port: self.port,
                admin_port: self.admin_port,
                drain_timeout: self.drain_timeout,
                ..ServerSection::default()
            },
            model: ModelSection {
                source: self.model,
                served_name: self.served_model_name,
                max_model_len: self.max_model_len,
                load_format: self.load_format,
                dtype: self.dtype,
                quantization: self.quantization,
            },
            engine: EngineSection {
                replicas: self.replicas,
                max_num_seqs: self.max_num_seqs,
                max_num_batched_tokens: self.max_num_batched_tokens,
                block_size: self.block_size,
                kv_blocks: self.kv_blocks,
                max_queued_requests: self.max_queued_requests,
                max_queued_tokens: self.max_queued_tokens,
            },
            policies,
            log: LogSection::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PolicySource, ServeConfig};

    fn serve(arguments: &[&str]) -> ServeArguments {
        let typed = Arguments::try_parse_from([&["sluice"], arguments].concat()).unwrap();
        match typed.command {
            Some(Command::Serve(serve)) => *serve,
            _ => typed.serve,
        }
    }

    #[test]
    fn with_and_without_the_command_the_server_starts() {
        for command in [&["serve"][..], &[]] {
            let flags = ["--port", "9", "--max-num-seqs", "5", "--num-gpu-blocks-override", "7"];
            let flags = [command, &flags, &["--policy", "routing=two-choices", "--policy", "batching=a/b.wasm"]];
            let config = ServeConfig::of(serve(&flags.concat()).settings()).unwrap();
            assert_eq!((config.server.address.port(), config.engine.max_sequences), (9, 5));
            assert_eq!(config.engine.kv_blocks, crate::config::KvBlocks::Exactly(7));
            let [_, PolicySource::Shipped(routing), PolicySource::File(batching)] = &config.policies else {
                panic!("{:?}", config.policies)
            };
            assert_eq!((routing.name, batching.to_str()), ("two-choices", Some("a/b.wasm")));
        }
    }

    #[test]
    fn the_policy_commands() {
        let good: [&[&str]; 7] = [
            &["list"],
            &["deploy", "a.wasm", "--config", "c.json", "--class", "script", "--admin", "http://h:1"],
            &["rollback", "routing"],
            &["inspect", "a.wasm"],
            &["history"],
            &["record", "batching", "--replica", "1", "--output", "r.sluice"],
            &["replay", "r.sluice", "a.wasm", "--config", "c.json", "--class", "script"],
        ];
        for arguments in good {
            assert!(Arguments::try_parse_from([&["sluice", "policy"], arguments].concat()).is_ok(), "{arguments:?}");
        }
        let bad: [&[&str]; 5] = [
            &["policy", "rollback", "steering"],
            &["policy", "deploy", "a.wasm", "--class", "heavy"],
            &["policy", "record", "batching"],
            &["--policy", "two-choices"],
            &["--replicas", "many"],
        ];
        for arguments in bad {
            assert!(Arguments::try_parse_from([&["sluice"], arguments].concat()).is_err(), "{arguments:?}");
        }
    }
}
