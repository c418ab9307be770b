//! What a policy may ask of the host. Natively, in tests, nobody listens.

/// How much a log line matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Level {
    Error = 0,
    Warn = 1,
    Info = 2,
    Debug = 3,
}

/// The host keeps 1 KiB of a line and 16 KiB a second.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::shared::sluice::policy::host::log(level as u8, message);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, message);
}

/// Sets a gauge of this policy. Names are `[a-z_][a-z0-9_]*`; the host keeps the first 64.
pub fn metric(name: &str, value: f64) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::shared::sluice::policy::host::metric(name, value);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (name, value);
}
