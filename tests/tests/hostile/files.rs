//! Files that are no policy: each is refused with what it is and what to do, and nothing is compiled for it.

use sluice_core::{DeploymentClass, FaultKind, LoadError, PolicyLoader};

use super::RUNTIME;

fn refused(bytes: &[u8]) -> LoadError {
    match RUNTIME.load(bytes, DeploymentClass::Standard) {
        Ok(loaded) => panic!("loaded as {}", loaded.slot()),
        Err(error) => error,
    }
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn check(bytes: &[u8], expected: &[&str]) {
    let error = refused(bytes).to_string();
    for part in expected {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_not_webassembly_is_refused() {
    check(b"#!/bin/sh", &["not a WebAssembly component", "magic number"]);
    check(b"", &["not a WebAssembly component"]);
}

#[test]
fn a_core_module_is_refused_with_the_way_to_wrap_it() {
    check(&component("(module)"), &["core module", "sluice-componentize"]);
}

#[test]
fn a_truncated_component_is_refused_wherever_it_ends() {
    let whole = sluice_tests::BATCHING.component;
    for end in [6, 8, 100, whole.len() / 2, whole.len() - 1] {
        let error = refused(&whole[..end]);
        assert!(matches!(error, LoadError::NotAComponent { .. } | LoadError::WrongWorld { .. }), "{end}: {error}");
    }
}

#[test]
fn a_damaged_component_is_refused() {
    let mut bytes = sluice_tests::BATCHING.component.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xff);
    refused(&bytes);
}

#[test]
fn a_file_beyond_the_bound_is_refused_unread() {
    assert_eq!(refused(&vec![0; (32 << 20) + 1]), LoadError::TooLarge { bytes: (32 << 20) + 1, limit: 32 << 20 });
}

#[test]
fn a_component_of_another_world_is_refused_with_what_it_exports() {
    check(&component("(component)"), &["nothing", "wit/"]);
    let other = r#"(component (instance $i) (export "wasi:http/handler@0.2.0" (instance $i)))"#;
    check(&component(other), &["wasi:http/handler@0.2.0"]);
    let decision_alone = r#"(component (instance $i) (export "sluice:policy/batching-policy@0.1.0" (instance $i)))"#;
    check(&component(decision_alone), &["together with"]);
}

#[test]
fn a_component_that_decides_in_two_slots_is_refused() {
    let both = r#"(component (instance $i)
        (export "sluice:policy/lifecycle@0.1.0" (instance $i))
        (export "sluice:policy/routing-policy@0.1.0" (instance $i))
        (export "sluice:policy/batching-policy@0.1.0" (instance $i)))"#;
    assert!(matches!(refused(&component(both)), LoadError::WrongWorld { .. }));
}

#[test]
fn an_import_of_wasi_is_forbidden_by_name() {
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance
        (export "get-arguments" (func (result (list string)))))))"#;
    let import = "wasi:cli/environment@0.2.0".to_owned();
    assert_eq!(refused(&component(wasi)), LoadError::ForbiddenImport { import });
}

#[test]
fn exports_of_another_shape_do_not_match() {
    let empty = r#"(component (instance $i)
        (export "sluice:policy/lifecycle@0.1.0" (instance $i))
        (export "sluice:policy/batching-policy@0.1.0" (instance $i)))"#;
    let error = refused(&component(empty));
    assert!(matches!(&error, LoadError::Mismatch(reason) if reason.contains("describe")), "{error}");
}

#[test]
fn a_host_function_that_does_not_exist_does_not_match() {
    let more = r#"(component
        (import "sluice:policy/host@0.1.0" (instance (export "clock" (func (result u64)))))
        (instance $i)
        (export "sluice:policy/lifecycle@0.1.0" (instance $i))
        (export "sluice:policy/batching-policy@0.1.0" (instance $i)))"#;
    let error = refused(&component(more));
    assert!(matches!(&error, LoadError::Mismatch(reason) if reason.contains("clock")), "{error}");
}

#[test]
fn a_component_that_traps_in_describe_cannot_be_loaded() {
    let error = refused(sluice_tests::DESCRIBE.component);
    let LoadError::Describe(fault) = &error else { panic!("{error}") };
    assert!(matches!(fault.kind, FaultKind::Trap(_)), "{fault}");
}
