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
    use super::*;

    #[test]
    fn every_slot_has_one_default() {
        for slot in ["admission", "routing", "batching"] {
            let defaults = SHIPPED.iter().filter(|policy| policy.slot == slot && policy.default).count();
            assert_eq!(defaults, 1, "{slot}");
            assert_eq!(default_for(slot).map(|policy| policy.slot), Some(slot));
        }
    }

    #[test]
    fn components_are_small_and_import_nothing_but_the_host() {
        for policy in SHIPPED {
            assert!(policy.component.len() <= 96 * 1024, "{} has {} bytes", policy.name, policy.component.len());
            let text = String::from_utf8_lossy(policy.component);
            assert!(!text.contains("wasi:"), "{} imports WASI", policy.name);
        }
    }
}
