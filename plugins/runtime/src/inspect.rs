//! What a file is, read before anything is compiled: which slot it fits, or why it fits none.

use sluice_core::{LoadError, Slot};
use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload};

const LIFECYCLE: &str = "sluice:policy/lifecycle@0.1.0";
const ALLOWED_IMPORTS: [&str; 2] = ["sluice:policy/host@0.1.0", "sluice:policy/types@0.1.0"];

/// The interface whose export makes a component fit the slot.
fn decision(slot: Slot) -> String {
    format!("sluice:policy/{slot}-policy@0.1.0")
}

pub(crate) fn slot_of(bytes: &[u8], limit: usize) -> Result<Slot, LoadError> {
    if bytes.len() > limit {
        return Err(LoadError::TooLarge { bytes: bytes.len(), limit });
    }
    let outline = Outline::read(bytes)?;
    if let Some(import) = outline.imports.iter().find(|import| !ALLOWED_IMPORTS.contains(&import.as_str())) {
        return Err(LoadError::ForbiddenImport { import: import.clone() });
    }
    let exports = |name: &str| outline.exports.iter().any(|export| export == name);
    let mut slots = Slot::ALL.into_iter().filter(|slot| exports(&decision(*slot)));
    match (slots.next(), slots.next()) {
        (Some(slot), None) if exports(LIFECYCLE) => Ok(slot),
        _ => Err(LoadError::WrongWorld { exports: listed(&outline.exports) }),
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

/// The component's own imports and exports, not those of what it contains.
#[derive(Default)]
struct Outline {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Outline {
    fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        if !bytes.starts_with(b"\0asm") {
            return Err(not_a_component("it does not start with the WebAssembly magic number", "Deploy a .wasm file"));
        }
        let mut outline = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| malformed(&error))? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => return Err(core_module()),
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        outline.imports.push(import.map_err(|error| malformed(&error))?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        let export = export.map_err(|error| malformed(&error))?;
                        outline.exports.extend(
                            (export.kind == ComponentExternalKind::Instance).then(|| export.name.name.to_owned()),
                        );
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

fn core_module() -> LoadError {
    not_a_component(
        "it is a core module",
        "Build the crate with sluice-componentize, or wrap the module by `wasm-tools component new`",
    )
}

pub(crate) fn malformed(error: &dyn std::fmt::Display) -> LoadError {
    not_a_component(&format!("{error}"), "The file is truncated or damaged: build or copy it again")
}

fn not_a_component(reason: &str, remedy: &str) -> LoadError {
    LoadError::NotAComponent { reason: reason.to_owned(), remedy: remedy.to_owned() }
}
