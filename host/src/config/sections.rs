//! The sections and keys that can be typed: each with what it means, and what it is where nobody types it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_http::{AnswerLimits, EdgeLimits};
use toml::{Table, Value};

/// A key that can be typed.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    /// `None` where the key, not typed, leaves something to others: to the model, to the machine.
    pub(crate) default: Option<Value>,
}

/// A section: what was typed later stands over what was typed before, and a key with a default has a method of its
/// name, which gives what holds.
macro_rules! section {
    ($name:ident { $(#[doc = $doc:literal] $(#[doc = $more:literal])* $key:ident: $type:ty $(= $default:expr)?,)* }) => {
        #[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[doc = $doc] $(#[doc = $more])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
        }

        impl $name {
            fn keys() -> Vec<Key> {
                vec![$(Key {
                    name: stringify!($key),
                    meaning: concat!($doc, $($more,)*),
                    default: None$(.or(shown::<$type>($default)))?,
                }),*]
            }

            fn over(self, below: Self) -> Self {
                Self { $($key: self.$key.or(below.$key),)* }
            }

            $($(pub(crate) fn $key(&self) -> $type {
                let default: $type = $default;
                self.$key.clone().unwrap_or(default)
            })?)*
        }
    };
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

section!(ServerSection {
    /// Where the API listens.
    host: IpAddr = LOOPBACK,
    /// The API's port; 0 takes a free one.
    port: u16 = 8000,
    /// Where the admin listener listens.
    admin_host: IpAddr = LOOPBACK,
    /// The admin listener's port; 0 takes a free one.
    admin_port: u16 = 8001,
    /// Connections of one listener; more wait until one is closed.
    max_connections: usize = EdgeLimits::default().connections,
    /// Bytes of a request's body.
    max_body_bytes: usize = EdgeLimits::default().body_bytes,
    /// Bytes of all large bodies together that are being read and prepared.
    max_bodies_bytes: usize = EdgeLimits::default().bodies_bytes,
    /// Headers of a request.
    max_headers: usize = EdgeLimits::default().headers,
    /// Bytes of a request's headers together.
    max_header_bytes: usize = EdgeLimits::default().header_bytes,
    /// Messages of a chat.
    max_messages: usize = EdgeLimits::default().messages,
    /// Prompts of a request, times the answers to each.
    max_choices: usize = AnswerLimits::default().choices,
    /// Tokens that a client may be behind before its request is cancelled.
    max_unread_tokens: usize = EdgeLimits::default().unread_tokens,
    /// Seconds that answers in progress get when the server is told to go.
    drain_timeout: u64 = 30,
});

section!(TlsSection {
    /// PEM file with the certificate and its chain; with it both listeners speak TLS. Read again when it changes.
    certfile: PathBuf,
    /// PEM file with the certificate's private key.
    keyfile: PathBuf,
    /// PEM file with the authorities whose clients the admin listener takes; others are turned away.
    ca_certs: PathBuf,
});

section!(AuthSection {
    /// File with the hashes of the keys that are let in, and what each may do. Read again when it changes.
    key_file: PathBuf,
    /// Paths that need no key, such as ["/health", "/ready"].
    public_paths: Vec<String> = Vec::new(),
});

section!(TimeoutsSection {
    /// Seconds for a request's headers, and for a TLS handshake.
    header: f64 = EdgeLimits::default().header_time.as_secs_f64(),
    /// Seconds for a request's body.
    body: f64 = EdgeLimits::default().body_time.as_secs_f64(),
    /// Seconds that a connection may stay open between two requests.
    idle: f64 = EdgeLimits::default().idle_time.as_secs_f64(),
    /// Seconds in which a client must have read some of what was written to it.
    write_stall: f64 = EdgeLimits::default().write_time.as_secs_f64(),
    /// Seconds that a request may wait for a replica.
    queue: f64 = 30.0,
    /// Seconds from a request's arrival to its first token.
    first_token: f64 = AnswerLimits::default().first_token.as_secs_f64(),
    /// Seconds between two tokens.
    stall: f64 = AnswerLimits::default().stall.as_secs_f64(),
    /// Seconds from a request's arrival to the end of its answer.
    total: f64 = AnswerLimits::default().total.as_secs_f64(),
});

section!(ModelSection {
    /// A folder in Hugging Face's layout, a GGUF file, or a name on the hub; without it the embedded model is served.
    source: String,
    /// The model's name in the API; without it the folder's.
    served_name: String,
    /// Prompt and answer together, in tokens; without it the model's, or what fits in memory.
    max_model_len: u32,
    /// safetensors, or dummy for random weights in the model's shapes.
    load_format: String = "auto".to_owned(),
    /// auto (as they are stored), float32, float16 or bfloat16: the numbers that weights are held in.
    dtype: String = "auto".to_owned(),
    /// none, int8 or nf4: what is done to linear layers while they load.
    quantization: String = "none".to_owned(),
});

section!(EngineSection {
    /// What models are computed on: auto (a GPU where there is one), cpu or cuda.
    device: String = "auto".to_owned(),
    /// Of a GPU's memory, the part that weights, activations and the KV cache may take together.
    gpu_memory_utilization: f64 = 0.9,
    /// auto, always or never: whether quantised weights are kept in bf16 too, which prompts and large batches read, on a GPU
    /// with room for both.
    keep_dequantized: String = "never".to_owned(),
    /// Copies of the model that serve side by side; on GPUs each has one of its own.
    replicas: u32 = 1,
    /// Sequences in one step of a replica; without it 64, and 256 on a GPU.
    max_num_seqs: u32,
    /// Tokens in one step of a replica; without it 512, and 2048 on a GPU.
    max_num_batched_tokens: u32,
    /// Tokens in a block of the KV cache.
    block_size: u32 = 16,
    /// Blocks of the KV cache of each replica; without it as many as all sequences need, if they fit in memory.
    kv_blocks: u32,
    /// Requests that may wait.
    max_queued_requests: u32 = 1024,
    /// Prompt tokens that may wait.
    max_queued_tokens: u64 = 1 << 20,
    /// Seconds after which whoever waits is served before all others, whatever the policies say.
    starvation: f64 = 10.0,
});

section!(PoliciesSection {
    /// The name of a shipped policy, or a component's file; without it the shipped default.
    admission: String,
    /// The same for routing.
    routing: String,
    /// The same for batching.
    batching: String,
    /// The policy's configuration: a table, or JSON as a string.
    admission_config: Value,
    /// The same for routing.
    routing_config: Value,
    /// The same for batching.
    batching_config: Value,
    /// A folder whose admission.wasm, routing.wasm and batching.wasm are deployed, now and whenever they change.
    directory: PathBuf,
});

section!(AuditSection {
    /// Append-only file of everything that is done to the policies; every line holds the hash of the one before.
    file: PathBuf,
});

section!(MetricsSection {
    /// none, or vllm: its metric names beside our own.
    compat: String = "none".to_owned(),
});

section!(LogSection {
    /// auto (text on a terminal, JSON elsewhere), text or json.
    format: String = "auto".to_owned(),
    /// In the syntax of tracing's EnvFilter.
    filter: String = "info".to_owned(),
});

/// All sections, each absent unless it was typed.
macro_rules! settings {
    ($($name:ident: $section:ident,)*) => {
        #[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $(pub $name: $section,)*
        }

        impl Settings {
            /// All sections with their keys, in the order in which they are shown.
            pub(crate) fn sections() -> Vec<(&'static str, Vec<Key>)> {
                vec![$((stringify!($name), $section::keys()),)*]
            }

            /// What is here stands over what is `below`.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self { $($name: self.$name.over(below.$name),)* }
            }
        }
    };
}

settings! {
    server: ServerSection,
    tls: TlsSection,
    auth: AuthSection,
    timeouts: TimeoutsSection,
    model: ModelSection,
    engine: EngineSection,
    policies: PoliciesSection,
    audit: AuditSection,
    metrics: MetricsSection,
    log: LogSection,
}

impl Settings {
    /// What was typed of one key.
    pub(crate) fn typed(&self, section: &str, key: &str) -> Option<Value> {
        let table = Table::try_from(self).ok()?;
        table.get(section)?.get(key).cloned()
    }
}

fn shown<T: Serialize>(value: T) -> Option<Value> {
    Value::try_from(value).ok()
}
