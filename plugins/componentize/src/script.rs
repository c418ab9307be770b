//! The whole of a build script that embeds components: builds them into `OUT_DIR/NAME.wasm`.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::{Crates, build};

/// What components are made of besides the crates' own folder.
const INPUTS: [&str; 3] = ["plugins/sdk", "wit", "rust-toolchain.toml"];

/// Builds these members of the workspace at `root`, given from the package's folder; they lie in `folder` there.
pub fn embed(root: &str, folder: &str, packages: &[&str]) -> ExitCode {
    match try_embed(root, folder, packages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed as well, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn try_embed(root: &str, folder: &str, packages: &[&str]) -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join(root);
    for input in INPUTS.into_iter().chain([folder]) {
        writeln!(std::io::stdout(), "cargo::rerun-if-changed={}", root.join(input).display())?;
    }
    let crates = Crates { manifest: &root.join("Cargo.toml"), packages, target_dir: &nested_target_dir(&out_dir) };
    for component in build(&crates)? {
        std::fs::write(out_dir.join(format!("{}.wasm", component.name)), component.bytes)?;
    }
    Ok(())
}

/// A target folder of its own beside the outer build's profiles, so that neither waits for the other's lock.
fn nested_target_dir(out_dir: &Path) -> PathBuf {
    let target = out_dir.ancestors().nth(4).unwrap_or(out_dir);
    target.join("components")
}
