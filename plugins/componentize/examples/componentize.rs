//! `componentize CRATE_FOLDER…`: builds policy crates, given by their folders, into `NAME.wasm` beside the caller.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use sluice_componentize::{Crates, build};

fn main() -> Result<(), Box<dyn Error>> {
    let folders: Vec<String> = std::env::args().skip(1).collect();
    if folders.is_empty() {
        return Err("usage: componentize CRATE_FOLDER…".into());
    }
    for folder in &folders {
        let folder = Path::new(folder);
        let manifest = folder.join("Cargo.toml");
        let crates = Crates { manifest: &manifest, packages: &[], target_dir: Path::new("target/components") };
        for component in build(&crates)? {
            let file = format!("{}.wasm", component.name);
            std::fs::write(&file, &component.bytes)?;
            writeln!(std::io::stdout(), "{file}: {} bytes", component.bytes.len())?;
        }
    }
    Ok(())
}
