//! Which policies a folder holds: what the manifest of each says of its slot.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ComponentizeError;

/// A policy's manifest says where it fits: `[package.metadata.sluice]`, `slot = "batching"`, and `default = true` for
/// what a server starts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shipped {
    pub(crate) name: String,
    pub(crate) slot: String,
    pub(crate) default: bool,
}

/// The members of the workspace that lie in `folder`, by name.
pub(crate) fn shipped_in(root: &Path, folder: &str) -> Result<Vec<Shipped>, ComponentizeError> {
    let metadata = metadata(&root.join("Cargo.toml"))?;
    let folder = root.join(folder);
    let folder = folder.canonicalize().map_err(|source| ComponentizeError::Read { path: folder, source })?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let here = packages.filter(|package| manifest(package).is_some_and(|manifest| manifest.starts_with(&folder)));
    let mut shipped = here.map(read).collect::<Result<Vec<_>, _>>()?;
    shipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shipped)
}

/// As Rust source: what each is, and the file that it was built into.
pub(crate) fn source(shipped: &[Shipped]) -> String {
    let entry = |Shipped { name, slot, default }: &Shipped| {
        format!(
            "    Shipped {{ slot: {slot:?}, name: {name:?}, default: {default}, \
             component: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.wasm\")) }},\n"
        )
    };
    let entries: String = shipped.iter().map(entry).collect();
    format!("&[\n{entries}]\n")
}

fn read(package: &Value) -> Result<Shipped, ComponentizeError> {
    let name = package["name"].as_str().unwrap_or_default().to_owned();
    let said = &package["metadata"]["sluice"];
    match said["slot"].as_str() {
        Some(slot @ ("admission" | "routing" | "batching")) => {
            Ok(Shipped { slot: slot.to_owned(), default: said["default"].as_bool().unwrap_or(false), name })
        }
        _ => Err(ComponentizeError::Slot { name }),
    }
}

fn manifest(package: &Value) -> Option<&Path> {
    package["manifest_path"].as_str().map(Path::new)
}

/// What cargo says of the workspace. Without dependencies it needs neither a network nor a lock file.
fn metadata(manifest: &Path) -> Result<Value, ComponentizeError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| ComponentizeError::Spawn { program, source })?;
    serde_json::from_slice(&output.stdout).map_err(|_| ComponentizeError::Metadata {
        manifest: manifest.to_owned(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(metadata: &Value, expected: Option<(&str, bool)>) {
        let package = json!({"name": "mine", "metadata": metadata});
        let shipped = read(&package).ok().map(|shipped| (shipped.slot, shipped.default));
        assert_eq!(shipped, expected.map(|(slot, default)| (slot.to_owned(), default)), "{metadata}");
    }

    #[test]
    fn a_manifest_names_the_slot_and_may_claim_the_default() {
        check(&json!({"sluice": {"slot": "batching"}}), Some(("batching", false)));
        check(&json!({"sluice": {"slot": "routing", "default": true}}), Some(("routing", true)));
        for silent in [json!(null), json!({}), json!({"sluice": {"slot": "caching"}})] {
            check(&silent, None);
        }
    }

    #[test]
    fn the_folder_of_this_repository_holds_policies_of_every_slot() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        let shipped = shipped_in(&root, "policies").unwrap();
        for slot in ["admission", "routing", "batching"] {
            assert_eq!(shipped.iter().filter(|policy| policy.slot == slot && policy.default).count(), 1, "{slot}");
        }
        let source = source(&shipped);
        assert!(source.contains("slot: \"batching\", name: \"first-come\", default: true"), "{source}");
    }
}
