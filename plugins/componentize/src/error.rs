//! Why a crate did not become a component, and what to do about it.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ComponentizeError {
    #[error("the WebAssembly target is missing and could not be added; run `rustup target add wasm32-unknown-unknown`")]
    TargetMissing,
    #[error("cannot run `{program}`: {source}")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("building `{name}` for wasm32-unknown-unknown failed:\n{output}")]
    Build { name: String, output: String },
    #[error("`{name}` made no .wasm file: a policy is a library crate")]
    NoModule { name: String },
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "`{name}` does not say which slot it fits: give its Cargo.toml `[package.metadata.sluice]` and \
         `slot = \"admission\"`, `\"routing\"` or `\"batching\"`"
    )]
    Slot { name: String },
    #[error("cargo cannot read {}:\n{output}", manifest.display())]
    Metadata { manifest: PathBuf, output: String },
    #[error("`{name}` is no policy: {reason}. Does it end with one of the SDK's export macros?")]
    Encode { name: String, reason: String },
}
