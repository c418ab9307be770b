//! Builds the hostile guests into components. They are tested against and never shipped.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use sluice_componentize::{Crates, build, nested_target_dir};

const GUESTS: [&str; 4] = ["hostile-admission", "hostile-batching", "hostile-describe", "hostile-routing"];

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
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("..");
    for input in ["tests/guests", "plugins/sdk", "wit", "rust-toolchain.toml"] {
        writeln!(std::io::stdout(), "cargo::rerun-if-changed={}", root.join(input).display())?;
    }
    let crates =
        Crates { manifest: &root.join("Cargo.toml"), packages: &GUESTS, target_dir: &nested_target_dir(&out_dir) };
    for component in build(&crates)? {
        std::fs::write(out_dir.join(format!("{}.wasm", component.name)), component.bytes)?;
    }
    Ok(())
}
