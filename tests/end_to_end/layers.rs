//! Holds the layer map: which crate may depend on which, and which crate owns a heavy dependency.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every crate here, and what it may depend on here. Bottom-up, as in the workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sluice-sdk", &[]),
    ("sluice-core", &[]),
    ("sluice-text", &["sluice-core"]),
    ("sluice-checkpoint", &["sluice-core"]),
    ("sluice-kernels", &[]),
    ("sluice-model", &["sluice-core", "sluice-checkpoint", "sluice-kernels"]),
    ("sluice-engine", &["sluice-core"]),
    ("sluice-control", &["sluice-core", "sluice-engine"]),
    ("sluice-telemetry", &["sluice-core"]),
    ("sluice-native", &["sluice-core", "sluice-sdk"]),
    ("sluice-runtime", &["sluice-core"]),
    ("sluice-componentize", &[]),
    ("sluice-bundle", &["sluice-componentize"]),
    // A client: what it measures is what any other would see.
    ("sluice-load", &[]),
    ("sluice-http", &["sluice-core", "sluice-text", "sluice-engine", "sluice-control", "sluice-telemetry"]),
    (
        "sluice",
        &[
            "sluice-core",
            "sluice-text",
            "sluice-checkpoint",
            "sluice-kernels",
            "sluice-model",
            "sluice-engine",
            "sluice-control",
            "sluice-telemetry",
            "sluice-runtime",
            "sluice-bundle",
            "sluice-http",
            "sluice-load",
        ],
    ),
];

/// What a policy may depend on here, and nothing else: a folder in `policies/` needs no line in this table.
const POLICY: &[&str] = &["sluice-sdk"];

/// Crates outside the product: tests and benches may look at everything, and guests are written against the SDK.
const OUTSIDE: &[&str] = &["sluice-tests", "sluice-benches"];

/// Who alone may name a heavy dependency.
const OWNERS: &[(&str, &[&str])] = &[
    ("wasmtime", &["sluice-runtime"]),
    ("wit-component", &["sluice-componentize"]),
    ("wit-bindgen", &["sluice-sdk"]),
    ("safetensors", &["sluice-checkpoint"]),
    ("memmap2", &["sluice-checkpoint"]),
    ("pulp", &["sluice-model"]),
    ("cudarc", &["sluice-kernels"]),
    ("nvml-wrapper", &["sluice-telemetry"]),
    ("tokenizers", &["sluice-text"]),
    ("minijinja", &["sluice-text"]),
    ("prometheus", &["sluice-telemetry"]),
    ("axum", &["sluice-http"]),
    ("tokio", &["sluice-http", "sluice-load", "sluice"]),
    ("tokio-rustls", &["sluice-http"]),
    ("subtle", &["sluice-http"]),
    ("reqwest", &["sluice"]),
    ("hyper-rustls", &["sluice-load"]),
    ("clap", &["sluice-load", "sluice"]),
    ("indicatif", &["sluice-load", "sluice"]),
];

/// What must not be reachable at all, however far.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("sluice-core", &["tokio", "wasmtime", "rand", "serde_json"]),
    ("sluice-checkpoint", &["tokio", "wasmtime"]),
    ("sluice-model", &["tokio", "wasmtime", "tokenizers"]),
    ("sluice-engine", &["tokio", "wasmtime", "rand", "serde_json"]),
    ("sluice-control", &["tokio", "wasmtime", "axum"]),
    ("sluice-runtime", &["tokio", "wasi-common", "wasmtime-wasi"]),
    ("sluice-http", &["wasmtime"]),
    // A reference that tests compare with, and nothing that is served.
    ("sluice", &["candle-core"]),
];

/// What `cargo metadata` says.
struct Workspace {
    packages: Vec<Value>,
    nodes: Vec<Value>,
    members: BTreeSet<String>,
}

impl Workspace {
    fn read() -> Self {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let arguments = ["metadata", "--format-version", "1", "--offline", "--locked", "--manifest-path", manifest];
        // What only other platforms need was never downloaded.
        let output = Command::new(env!("CARGO")).args(arguments).args(["--filter-platform", &host()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let list = |value: &Value| value.as_array().unwrap().clone();
        Self {
            packages: list(&metadata["packages"]),
            nodes: list(&metadata["resolve"]["nodes"]),
            members: list(&metadata["workspace_members"]).iter().map(|id| text(id).to_owned()).collect(),
        }
    }

    /// The crates here, less the guests, which are written against the SDK as anybody's policy is.
    fn members(&self) -> impl Iterator<Item = &Value> {
        let here = |package: &&Value| self.members.contains(text(&package["id"]));
        self.packages.iter().filter(here).filter(|package| !text(&package["manifest_path"]).contains("/tests/guests/"))
    }
}

/// Whether it is a folder in `policies/`.
fn is_policy(package: &&Value) -> bool {
    text(&package["manifest_path"]).contains("/policies/")
}

/// The platform that the compiler is for.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn name(package: &Value) -> &str {
    text(&package["name"])
}

/// The names that a crate depends on when it is not being tested.
fn shipped(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"].as_array().unwrap().iter().filter(|dep| dep["kind"] != "dev").map(name)
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let workspace = Workspace::read();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, list)| (*name, list.iter().copied().collect())).collect();
    let here: BTreeSet<&str> = workspace.members().map(name).collect();
    let policies: BTreeSet<&str> = workspace.members().filter(is_policy).map(name).collect();
    let listed: BTreeSet<&str> = allowed.keys().copied().chain(OUTSIDE.iter().copied()).chain(policies).collect();
    assert_eq!(here, listed, "every crate stands in the table, and the table names no other");
    for package in workspace.members() {
        let policy = is_policy(&package).then(|| POLICY.iter().copied().collect());
        let Some(allowed) = policy.as_ref().or_else(|| allowed.get(name(package))) else { continue };
        let used: BTreeSet<&str> = shipped(package).filter(|name| here.contains(name)).collect();
        let forbidden: Vec<&&str> = used.difference(allowed).collect();
        assert!(forbidden.is_empty(), "{} must not depend on {forbidden:?}", name(package));
    }
}

#[test]
fn heavy_dependencies_have_one_owner() {
    let workspace = Workspace::read();
    for package in workspace.members().filter(|package| !OUTSIDE.contains(&name(package))) {
        for (dependency, owners) in OWNERS {
            let named = shipped(package).any(|name| name == *dependency);
            assert!(!named || owners.contains(&name(package)), "{} names {dependency}", name(package));
        }
    }
}

#[test]
fn what_a_crate_forbids_is_not_reachable_from_it() {
    let workspace = Workspace::read();
    let names: BTreeMap<&str, &str> =
        workspace.packages.iter().map(|package| (text(&package["id"]), name(package))).collect();
    let is_normal = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
    let edges: BTreeMap<&str, Vec<&str>> = (workspace.nodes.iter())
        .map(|node| {
            let normal = node["deps"].as_array().unwrap().iter().filter(is_normal);
            (text(&node["id"]), normal.map(|dep| text(&dep["pkg"])).collect())
        })
        .collect();
    for (start, forbidden) in FORBIDDEN {
        let id = names.iter().find(|(_, name)| *name == start).map(|(id, _)| *id).unwrap();
        let (mut seen, mut open) = (BTreeSet::from([id]), vec![id]);
        while let Some(id) = open.pop() {
            open.extend(edges[id].iter().copied().filter(|next| seen.insert(next)));
        }
        for id in seen {
            assert!(!forbidden.contains(&names[id]), "{start} reaches {}", names[id]);
        }
    }
}
