//! The whole of a build script that embeds components: builds them into `OUT_DIR/NAME.wasm`.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::shipped::{shipped_in, source};
use crate::{Crates, build};

/// What components are made of besides the crates' own folder.
const INPUTS: [&str; 3] = ["plugins/sdk", "wit", "rust-toolchain.toml"];

/// Builds these members of the workspace at `root`, given from the package's folder; they lie in `folder` there.
pub fn embed(root: &str, folder: &str, packages: &[&str]) -> ExitCode {
    exit(Script::new(root, folder).and_then(|script| script.embed(packages)))
}

/// Builds every policy that lies in `folder`, and writes `OUT_DIR/shipped.rs`: a slice of `Shipped`, one for each.
pub fn embed_policies(root: &str, folder: &str) -> ExitCode {
    exit(Script::new(root, folder).and_then(|script| {
        let shipped = shipped_in(&script.root, folder)?;
        std::fs::write(script.out_dir.join("shipped.rs"), source(&shipped))?;
        script.embed(&shipped.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>())
    }))
}

fn exit(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed as well, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

struct Script {
    root: PathBuf,
    out_dir: PathBuf,
}

impl Script {
    /// Tells cargo when to run the script again.
    fn new(root: &str, folder: &str) -> Result<Self, Box<dyn Error>> {
        let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
        let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join(root).canonicalize()?;
        for input in INPUTS.into_iter().chain([folder]) {
            writeln!(std::io::stdout(), "cargo::rerun-if-changed={}", root.join(input).display())?;
        }
        Ok(Self { root, out_dir })
    }

    fn embed(&self, packages: &[&str]) -> Result<(), Box<dyn Error>> {
        let target_dir = nested_target_dir(&self.out_dir);
        let crates = Crates { manifest: &self.root.join("Cargo.toml"), packages, target_dir: &target_dir };
        for component in build(&crates)? {
            std::fs::write(self.out_dir.join(format!("{}.wasm", component.name)), component.bytes)?;
        }
        Ok(())
    }
}

/// A target folder of its own beside the outer build's profiles, so that neither waits for the other's lock.
fn nested_target_dir(out_dir: &Path) -> PathBuf {
    let target = out_dir.ancestors().nth(4).unwrap_or(out_dir);
    target.join("components")
}
