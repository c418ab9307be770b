//! What the program says once it serves.

use std::fmt::Write as _;

use crate::config::EngineConfig;
use crate::server::Server;

/// What there is to know of the model, for people.
pub(crate) struct ModelLine {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) max_model_len: u32,
    pub(crate) blocks: u32,
    pub(crate) engine: EngineConfig,
}

pub(crate) fn banner(server: &Server, model: &ModelLine) -> String {
    let (url, admin) = (&server.url, &server.admin_url);
    let mut text = format!("sluice {}\n", env!("CARGO_PKG_VERSION"));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  model      {} ({}), context {}", model.name, model.description, model.max_model_len);
    let (replicas, blocks, tokens) = (model.engine.replicas, model.blocks, model.engine.block_tokens);
    let _ = writeln!(text, "  replicas   {replicas}, each with {blocks} KV blocks of {tokens} tokens");
    for policy in &server.policies {
        let revision = &policy.revision;
        let digest = revision.digest.get(..12).unwrap_or(&revision.digest);
        let _ = writeln!(text, "  {:<10} {}@{} {digest}", policy.slot, revision.name, revision.version);
    }
    let _ = writeln!(text, "  listening  {url} (API), {admin} (admin)");
    let body = r#"{"stream": true, "messages": [{"role": "user", "content": "What is Sluice?"}]}"#;
    let _ = write!(text, "\ncurl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'");
    text
}
