//! The nested cargo build: its own target folder, its own profile, and none of the outer build's environment.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ComponentizeError;
use crate::target::TARGET;

/// Small, and quick to compile when they are deployed.
const PROFILE: [&str; 8] = [
    "profile.component.inherits='release'",
    "profile.component.codegen-units=1",
    "profile.component.debug=false",
    "profile.component.incremental=false",
    "profile.component.lto=true",
    "profile.component.opt-level='s'",
    "profile.component.panic='abort'",
    "profile.component.strip=true",
];

/// Of the outer cargo's variables, those that are about the network and where its home is.
const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];

/// Set by cargo, clippy or a user for the outer build; any of them would change or break this one.
const DROPPED: [&str; 10] = [
    "CLIPPY_ARGS",
    "MAKEFLAGS",
    "OUT_DIR",
    "PROFILE",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "TARGET",
    "OPT_LEVEL",
    "__CARGO_",
];

/// Which crates to build, and where.
#[derive(Clone, Copy, Debug)]
pub struct Crates<'a> {
    /// Of a package or a workspace.
    pub manifest: &'a Path,
    /// Members of the workspace; none stands for the manifest's own package.
    pub packages: &'a [&'a str],
    pub target_dir: &'a Path,
}

pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Crates<'_> {
    /// The core modules, in the order of `packages`.
    pub(crate) fn compile(&self) -> Result<Vec<Module>, ComponentizeError> {
        match self.packages {
            [] => Ok(vec![self.compile_one(None)?]),
            packages => packages.iter().map(|package| self.compile_one(Some(package))).collect(),
        }
    }

    fn compile_one(&self, package: Option<&str>) -> Result<Module, ComponentizeError> {
        let mut command = self.command(package);
        let output = command.output().map_err(|source| ComponentizeError::Spawn {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        let name = || package.map_or_else(|| self.manifest.display().to_string(), str::to_owned);
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(ComponentizeError::Build { name: name(), output });
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let mut modules = messages.lines().filter_map(|line| module(&serde_json::from_str(line).ok()?));
        modules.next().ok_or_else(|| ComponentizeError::NoModule { name: name() })
    }

    /// `cargo rustc` and not `build`: it makes a library of this kind alone, which is what lets the linker's
    /// optimiser see all of it.
    fn command(&self, package: Option<&str>) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["rustc", "--lib", "--crate-type", "cdylib", "--target", TARGET, "--profile", "component"]);
        command.args(["--message-format", "json-render-diagnostics"]);
        PROFILE.iter().for_each(|setting| {
            command.args(["--config", setting]);
        });
        command.arg("--manifest-path").arg(self.manifest);
        command.arg("--target-dir").arg(self.target_dir);
        if let Some(package) = package {
            command.args(["--package", package]);
        }
        let leaking = std::env::vars_os().map(|(name, _)| name).filter(|name| leaks(&name.to_string_lossy()));
        leaking.for_each(|name| {
            command.env_remove(name);
        });
        command.stdin(Stdio::null());
        command
    }
}

/// What cargo says that it made.
fn module(message: &Value) -> Option<Module> {
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let files = message["filenames"].as_array()?;
    let path = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"))?;
    let name = package_name(message["package_id"].as_str()?)?;
    Some(Module { name: name.to_owned(), path: path.into() })
}

/// From a package id, `path+file:///policies/first-come#0.1.0` or `…#first-come@0.1.0`.
fn package_name(id: &str) -> Option<&str> {
    let (url, fragment) = id.split_once('#')?;
    match fragment.split_once('@') {
        Some((name, _)) => Some(name),
        None => url.rsplit('/').next(),
    }
}

fn leaks(name: &str) -> bool {
    let starts = |prefix: &&str| name.starts_with(*prefix);
    DROPPED.iter().any(starts) || (name.starts_with("CARGO_") && !KEPT.iter().any(starts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outer_builds_own_environment_is_dropped() {
        for name in ["CARGO_MANIFEST_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "OUT_DIR"]
        {
            assert!(leaks(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "PATH", "RUSTUP_TOOLCHAIN", "CARGO"] {
            assert!(!leaks(name), "{name}");
        }
    }

    #[test]
    fn a_package_is_named_by_its_id() {
        assert_eq!(package_name("path+file:///policies/first-come#0.1.0"), Some("first-come"));
        assert_eq!(package_name("path+file:///somewhere/else#first-come@0.1.0"), Some("first-come"));
        assert_eq!(package_name("nonsense"), None);
    }
}
