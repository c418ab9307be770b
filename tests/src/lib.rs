//! What the end-to-end tests share: the hostile guests, built as components.

/// A component whose configuration's `mode` says what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The slot that it fits: `admission`, `routing` or `batching`.
    pub slot: &'static str,
    pub name: &'static str,
    pub component: &'static [u8],
}

macro_rules! guest {
    ($slot:literal, $name:literal) => {
        Guest { slot: $slot, name: $name, component: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")) }
    };
}

pub static ADMISSION: Guest = guest!("admission", "hostile-admission");
pub static ROUTING: Guest = guest!("routing", "hostile-routing");
pub static BATCHING: Guest = guest!("batching", "hostile-batching");
/// Traps in `describe`, so it has no mode.
pub static DESCRIBE: Guest = guest!("batching", "hostile-describe");

pub static GUESTS: &[&Guest] = &[&ADMISSION, &ROUTING, &BATCHING, &DESCRIBE];

impl Guest {
    /// The configuration that makes it wrong in this way.
    pub fn config(mode: &str) -> String {
        format!(r#"{{"mode": "{mode}"}}"#)
    }
}
