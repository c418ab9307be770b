//! `sluice serve`, as it is typed. Flags are named as vLLM's where they mean the same.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use sluice_core::Slot;
use toml::Value;

use crate::config::{
    AuditSection, AuthSection, EngineSection, MetricsSection, ModelSection, PoliciesSection, ServerSection, Settings,
    TlsSection,
};

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
    /// What models are computed on: auto (a GPU where there is one), cpu, cuda [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// The part of a GPU's memory that may be taken, up to 1 [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    pub gpu_memory_utilization: Option<f64>,
    /// Whether a GPU keeps quantised weights in bf16 too, for prompts and large batches: auto, always, never [default: never]
    #[arg(long, value_name = "WHEN")]
    pub keep_dequantized: Option<String>,
    /// Copies of the model that serve side by side [default: 1]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Sequences in one step of a replica [default: 64, on a GPU 256]
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<u32>,
    /// Tokens in one step of a replica [default: 512, on a GPU 2048]
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
    pub policy: Vec<OfSlot>,
    /// The configuration of a policy to start with: a JSON object, or a file that holds one. Once per slot.
    #[arg(long, value_name = "SLOT=JSON|FILE.json")]
    pub policy_config: Vec<OfSlot>,
    /// A folder whose admission.wasm, routing.wasm and batching.wasm are deployed, now and whenever they change; a
    /// JSON file of the same name beside one is its configuration.
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
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
    /// The keys that are let in, as `sluice key new` makes them; SLUICE_API_KEY (answers and metrics) and
    /// SLUICE_ADMIN_KEY (deployments too) in the environment are two more. Without any, everybody is let in.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// The certificate and its chain, in PEM: both listeners speak TLS then.
    #[arg(long, value_name = "FILE")]
    pub ssl_certfile: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub ssl_keyfile: Option<PathBuf>,
    /// The authorities whose clients the admin listener takes, in PEM.
    #[arg(long, value_name = "FILE")]
    pub ssl_ca_certs: Option<PathBuf>,
    /// Append-only record of everything that is done to the policies.
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// `vllm` adds vLLM's metric names to our own.
    #[arg(long, value_name = "NAMES")]
    pub metrics_compat: Option<String>,
}

/// What was typed for one slot.
#[derive(Clone, Debug)]
pub struct OfSlot {
    slot: Slot,
    typed: String,
}

impl FromStr for OfSlot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (slot, typed) = text.split_once('=').ok_or("write SLOT=NAME, as in routing=two-choices")?;
        let slot = slot.parse().map_err(|error: sluice_core::revision::UnknownSlot| error.to_string())?;
        Ok(Self { slot, typed: typed.to_owned() })
    }
}

impl ServeArguments {
    /// What was typed on the command line, as settings.
    pub fn settings(self) -> Settings {
        let policies = PoliciesSection { directory: self.policy_dir, ..policies(self.policy, self.policy_config) };
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
                device: self.device,
                gpu_memory_utilization: self.gpu_memory_utilization,
                keep_dequantized: self.keep_dequantized,
                replicas: self.replicas,
                max_num_seqs: self.max_num_seqs,
                max_num_batched_tokens: self.max_num_batched_tokens,
                block_size: self.block_size,
                kv_blocks: self.kv_blocks,
                max_queued_requests: self.max_queued_requests,
                max_queued_tokens: self.max_queued_tokens,
                ..EngineSection::default()
            },
            policies,
            tls: TlsSection { certfile: self.ssl_certfile, keyfile: self.ssl_keyfile, ca_certs: self.ssl_ca_certs },
            auth: AuthSection { key_file: self.api_key_file, ..AuthSection::default() },
            audit: AuditSection { file: self.audit_log },
            metrics: MetricsSection { compat: self.metrics_compat },
            ..Settings::default()
        }
    }
}

fn policies(sources: Vec<OfSlot>, configs: Vec<OfSlot>) -> PoliciesSection {
    let mut section = PoliciesSection::default();
    for OfSlot { slot, typed: source } in sources {
        *match slot {
            Slot::Admission => &mut section.admission,
            Slot::Routing => &mut section.routing,
            Slot::Batching => &mut section.batching,
        } = Some(source);
    }
    for OfSlot { slot, typed: config } in configs {
        *match slot {
            Slot::Admission => &mut section.admission_config,
            Slot::Routing => &mut section.routing_config,
            Slot::Batching => &mut section.batching_config,
        } = Some(Value::String(config));
    }
    section
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Arguments, Command};
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
            assert_eq!((config.server.address.port(), config.engine.on_cpu.max_sequences), (9, 5));
            assert_eq!(config.engine.on_gpu.kv_blocks, crate::config::KvBlocks::Exactly(7));
            let [_, routing, batching] = config.policies.first.clone().map(|first| first.source);
            let (PolicySource::Shipped(routing), PolicySource::File(batching)) = (routing, batching) else {
                panic!("{:?}", config.policies.first)
            };
            assert_eq!((routing.name, batching.to_str()), ("two-choices", Some("a/b.wasm")));
        }
    }
}
