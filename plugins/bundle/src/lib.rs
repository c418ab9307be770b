//! The shipped policies: built into components when the host is built, and embedded.

/// A component that comes with the server.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// The slot that it fits: `admission`, `routing` or `batching`.
    pub slot: &'static str,
    pub name: &'static str,
    pub component: &'static [u8],
    /// What the server starts with, one per slot.
    pub default: bool,
}

/// What the folders in `policies/` hold, by name; each says in its Cargo.toml where it fits.
///
/// The defaults are what serves a machine that nobody has tuned. `fair-share` is first come, first served while one
/// key sends, and keeps one key from shutting out the others when more do. `first-come` and not `utilization-band`:
/// on a CPU there is no NVML, and the engine is busy whenever anything runs, so the band would pin the batch at its
/// minimum just when work piles up.
pub static SHIPPED: &[Shipped] = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// The shipped policy of that name.
pub fn shipped(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|policy| policy.name == name)
}

/// What the slot starts with.
pub fn default_for(slot: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|policy| policy.slot == slot && policy.default)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wasmparser::{Parser, Payload};

    use super::*;

    /// What a component imports itself, and not what the modules in it import from each other.
    fn imports(component: &[u8]) -> Vec<String> {
        let (mut imports, mut depth) = (Vec::new(), 0_u32);
        for payload in Parser::new(0).parse_all(component) {
            match payload.unwrap() {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    imports.extend(section.into_iter().map(|import| import.unwrap().name.name.to_owned()));
                }
                _ => {}
            }
        }
        imports
    }

    #[test]
    fn every_slot_has_one_default() {
        for slot in ["admission", "routing", "batching"] {
            let defaults = SHIPPED.iter().filter(|policy| policy.slot == slot && policy.default).count();
            assert_eq!(defaults, 1, "{slot}");
            assert_eq!(default_for(slot).map(|policy| policy.slot), Some(slot));
        }
    }

    #[test]
    fn what_is_shipped_is_what_lies_in_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
        let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
        let policies = entries.filter(|entry| entry.path().join("Cargo.toml").exists());
        let mut names: Vec<_> = policies.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(SHIPPED.iter().map(|policy| policy.name).collect::<Vec<_>>(), names);
    }

    #[test]
    fn components_are_small_and_import_nothing_but_the_host() {
        for policy in SHIPPED {
            assert!(policy.component.len() <= 96 * 1024, "{} has {} bytes", policy.name, policy.component.len());
            for import in imports(policy.component) {
                assert!(import.starts_with("sluice:policy/"), "{} imports {import}", policy.name);
            }
        }
    }

    #[test]
    fn an_import_from_anywhere_else_is_seen() {
        let component = wat::parse_str(
            r#"(component
                (core module (import "env" "clock" (func)))
                (import "sluice:policy/host@0.1.0" (instance))
                (import "acme:clock/now@1.0.0" (instance)))"#,
        );
        assert_eq!(imports(&component.unwrap()), ["sluice:policy/host@0.1.0", "acme:clock/now@1.0.0"]);
    }
}
