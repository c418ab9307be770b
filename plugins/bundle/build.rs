//! Builds every shipped policy into `OUT_DIR/NAME.wasm`.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use sluice_componentize::{Crates, build, nested_target_dir};

/// The folders in `policies/`; `src/lib.rs` embeds what is built here.
const POLICIES: [&str; 6] =
    ["bounded-queue", "fair-share", "first-come", "least-loaded", "two-choices", "utilization-band"];

fn main() -> ExitCode {
    match build_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn build_all() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../..");
    for input in ["policies", "plugins/sdk", "wit", "rust-toolchain.toml"] {
        writeln!(std::io::stdout(), "cargo::rerun-if-changed={}", root.join(input).display())?;
    }
    let crates =
        Crates { manifest: &root.join("Cargo.toml"), packages: &POLICIES, target_dir: &nested_target_dir(&out_dir) };
    for component in build(&crates)? {
        std::fs::write(out_dir.join(format!("{}.wasm", component.name)), component.bytes)?;
    }
    Ok(())
}
