//! Holds the layer map: which crate may depend on which, and which crate owns a heavy dependency.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Every crate here, and what it may depend on here. Bottom-up, as in the workspace.
const ALLOWED: &[(&str, &[&str])] = &[
    ("sluice-sdk", &[]),
    ("first-come", &["sluice-sdk"]),
    ("utilization-band", &["sluice-sdk"]),
    ("least-loaded", &["sluice-sdk"]),
    ("two-choices", &["sluice-sdk"]),
    ("bounded-queue", &["sluice-sdk"]),
    ("fair-share", &["sluice-sdk"]),
    ("sluice-core", &[]),
    ("sluice-text", &["sluice-core"]),
    ("sluice-model", &["sluice-core"]),
    ("sluice-engine", &["sluice-core"]),
    ("sluice-control", &["sluice-core", "sluice-engine"]),
    ("sluice-telemetry", &["sluice-core"]),
    (
        "sluice-native",
        &[
            "sluice-core",
            "sluice-sdk",
            "first-come",
            "utilization-band",
            "least-loaded",
            "two-choices",
            "bounded-queue",
            "fair-share",
        ],
    ),
    ("sluice-runtime", &["sluice-core"]),
    ("sluice-componentize", &[]),
    ("sluice-bundle", &["sluice-componentize"]),
    ("sluice-http", &["sluice-core", "sluice-text", "sluice-engine", "sluice-control", "sluice-telemetry"]),
    (
        "sluice",
        &[
            "sluice-core",
            "sluice-text",
            "sluice-model",
            "sluice-engine",
            "sluice-control",
            "sluice-telemetry",
            "sluice-runtime",
            "sluice-bundle",
            "sluice-http",
        ],
    ),
];

/// Crates outside the product: tests and benches may look at everything, and guests are written against the SDK.
const OUTSIDE: &[&str] = &["sluice-tests", "sluice-benches"];

/// Who alone may name a heavy dependency.
const OWNERS: &[(&str, &[&str])] = &[
    ("wasmtime", &["sluice-runtime"]),
    ("wit-component", &["sluice-componentize"]),
    ("wit-bindgen", &["sluice-sdk"]),
    ("candle-core", &["sluice-model"]),
    ("candle-nn", &["sluice-model"]),
    ("tokenizers", &["sluice-text"]),
    ("minijinja", &["sluice-text"]),
    ("prometheus", &["sluice-telemetry"]),
    ("axum", &["sluice-http"]),
    ("tokio", &["sluice-http", "sluice"]),
    ("reqwest", &["sluice"]),
    ("clap", &["sluice"]),
];

/// What must not be reachable at all, however far.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("sluice-core", &["tokio", "wasmtime", "candle-core", "rand", "serde_json"]),
    ("sluice-engine", &["tokio", "wasmtime", "candle-core", "rand", "serde_json"]),
    ("sluice-control", &["tokio", "wasmtime", "candle-core", "axum"]),
    ("sluice-runtime", &["tokio", "candle-core", "wasi-common", "wasmtime-wasi"]),
    ("sluice-http", &["wasmtime", "candle-core"]),
];

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(vec!["--offline".into(), "--locked".into()])
        .exec()
        .expect("cargo metadata")
}

fn shipped(package: &Package) -> impl Iterator<Item = &str> {
    package.dependencies.iter().filter(|dep| dep.kind != DependencyKind::Development).map(|dep| dep.name.as_str())
}

fn members(metadata: &Metadata) -> Vec<&Package> {
    let guests = |package: &Package| package.manifest_path.as_str().contains("/tests/guests/");
    metadata.workspace_packages().into_iter().filter(|package| !guests(package)).collect()
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, list)| (*name, list.iter().copied().collect())).collect();
    let here: BTreeSet<&str> = members(&metadata).iter().map(|package| package.name.as_str()).collect();
    let listed: BTreeSet<&str> = allowed.keys().copied().chain(OUTSIDE.iter().copied()).collect();
    assert_eq!(here, listed, "every crate stands in the table, and the table names no other");
    for package in members(&metadata) {
        let Some(allowed) = allowed.get(package.name.as_str()) else { continue };
        let used: BTreeSet<&str> = shipped(package).filter(|name| here.contains(name)).collect();
        let forbidden: Vec<&&str> = used.difference(allowed).collect();
        assert!(forbidden.is_empty(), "{} must not depend on {forbidden:?}", package.name);
    }
}

#[test]
fn heavy_dependencies_have_one_owner() {
    let metadata = metadata();
    for package in members(&metadata).iter().filter(|package| !OUTSIDE.contains(&package.name.as_str())) {
        for (dependency, owners) in OWNERS {
            let named = shipped(package).any(|name| name == *dependency);
            assert!(!named || owners.contains(&package.name.as_str()), "{} names {dependency}", package.name);
        }
    }
}

#[test]
fn what_a_crate_forbids_is_not_reachable_from_it() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let names: BTreeMap<_, &str> =
        metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let edges: BTreeMap<_, Vec<_>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal =
                node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dep| &dep.pkg).collect())
        })
        .collect();
    for (name, forbidden) in FORBIDDEN {
        let start =
            metadata.packages.iter().find(|package| package.name.as_str() == *name).expect("a crate of the table");
        let (mut seen, mut open) = (BTreeSet::from([&start.id]), vec![&start.id]);
        while let Some(id) = open.pop() {
            for next in edges.get(id).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        for id in seen {
            assert!(!forbidden.contains(&names[id]), "{name} reaches {}", names[id]);
        }
    }
}
