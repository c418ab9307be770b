//! Builds policy crates into components: a nested cargo build for wasm32, encoded by wit-component.

mod cargo;
mod error;
mod script;
mod shipped;
mod target;

use std::path::Path;

pub use cargo::Crates;
pub use error::ComponentizeError;
pub use script::{embed, embed_policies};

/// A component that was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Component {
    /// Its crate's name.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Builds the crates and encodes each as a component.
pub fn build(crates: &Crates<'_>) -> Result<Vec<Component>, ComponentizeError> {
    target::ensure_installed()?;
    crates.compile()?.into_iter().map(|module| encode_file(&module.name, &module.path)).collect()
}

/// Wraps a core module, which says in its custom sections which world it implements, as a component.
pub fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))
}

fn encode_file(name: &str, path: &Path) -> Result<Component, ComponentizeError> {
    let module = std::fs::read(path).map_err(|source| ComponentizeError::Read { path: path.to_owned(), source })?;
    let bytes = encode(&module).map_err(|reason| ComponentizeError::Encode { name: name.to_owned(), reason })?;
    Ok(Component { name: name.to_owned(), bytes })
}
