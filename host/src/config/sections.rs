//! The sections and keys that can be typed, each absent unless it was.

use std::net::IpAddr;

use serde::Deserialize;

/// A section: all of its keys are optional, and what was typed later stands over what was typed before.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$note])* pub $key: Option<$type>,)*
        }

        impl $name {
            pub(crate) const KEYS: &[&str] = &[$(stringify!($key)),*];

            fn over(self, below: Self) -> Self {
                Self { $($key: self.$key.or(below.$key),)* }
            }
        }
    };
}

section!(ServerSection {
    host: IpAddr,
    port: u16,
    admin_host: IpAddr,
    admin_port: u16,
    max_connections: usize,
    max_body_bytes: usize,
    /// Seconds that answers in progress get when the server is told to go.
    drain_timeout: u64,
});

section!(ModelSection {
    /// A folder in Hugging Face's layout, a GGUF file, or a name on the hub; without it the embedded model is served.
    source: String,
    served_name: String,
    max_model_len: u32,
    /// `safetensors`, or `dummy` for random weights in the model's shapes.
    load_format: String,
    /// `auto`, `float32`, `float16` or `bfloat16`.
    dtype: String,
    /// `none`, `int8` or `nf4`: what is done to linear layers while they load.
    quantization: String,
});

section!(EngineSection {
    replicas: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    block_size: u32,
    /// Blocks of the KV cache of each replica.
    kv_blocks: u32,
    max_queued_requests: u32,
    max_queued_tokens: u64,
});

section!(PoliciesSection {
    /// The name of a shipped policy, or a component's file.
    admission: String,
    routing: String,
    batching: String,
});

section!(LogSection {
    /// `auto` is `text` on a terminal and `json` elsewhere.
    format: String,
    /// In the syntax of tracing's `EnvFilter`.
    filter: String,
});

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub server: ServerSection,
    pub model: ModelSection,
    pub engine: EngineSection,
    pub policies: PoliciesSection,
    pub log: LogSection,
}

impl Settings {
    pub(crate) const SECTIONS: &[(&str, &[&str])] = &[
        ("server", ServerSection::KEYS),
        ("model", ModelSection::KEYS),
        ("engine", EngineSection::KEYS),
        ("policies", PoliciesSection::KEYS),
        ("log", LogSection::KEYS),
    ];

    /// What is here stands over what is `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            server: self.server.over(below.server),
            model: self.model.over(below.model),
            engine: self.engine.over(below.engine),
            policies: self.policies.over(below.policies),
            log: self.log.over(below.log),
        }
    }
}
