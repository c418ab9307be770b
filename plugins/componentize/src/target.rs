//! The WebAssembly target of the toolchain in use: added where it is missing.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::ComponentizeError;

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

pub(crate) fn ensure_installed() -> Result<(), ComponentizeError> {
    if is_installed() {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).status();
    match added {
        Ok(status) if status.success() && is_installed() => Ok(()),
        _ => Err(ComponentizeError::TargetMissing),
    }
}

/// Whether the compiler has a standard library for it. A compiler that cannot be asked will complain by itself.
fn is_installed() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    asked.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}
