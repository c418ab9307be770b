//! `sluice policy …` against a running server.

use crate::server::{Server, file, run, shipped};

fn check(arguments: &[&str], parts: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
    said
}

#[test]
fn list_deploy_rollback_history() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let component = file(folder.path(), "first-come.wasm", shipped("first-come"));
    let config = file(folder.path(), "config.json", br#"{"max_running": 7}"#);
    let admin = ["--admin", &server.admin];

    check(&[&["policy", "list"], &admin[..]].concat(), &["admission", "routing", "batching"]);
    check(&[&["policy", "deploy", &component, "--config", &config], &admin[..]].concat(), &["first-come"]);
    check(&[&["policy", "list"], &admin[..]].concat(), &["first-come", "max_running"]);
    check(&[&["policy", "rollback", "batching"], &admin[..]].concat(), &["batching"]);
    check(&[&["policy", "history"], &admin[..]].concat(), &["first-come"]);
}

#[test]
fn inspect_needs_no_server() {
    let folder = tempfile::tempdir().unwrap();
    for policy in sluice_bundle::SHIPPED {
        let component = file(folder.path(), "policy.wasm", policy.component);
        check(&["policy", "inspect", &component], &[policy.name, policy.slot, "deadline", "fuel", "memory"]);
    }
    let broken = file(folder.path(), "broken.wasm", b"nothing");
    assert!(!run(&["policy", "inspect", &broken]).status.success());
}

#[test]
fn an_admin_listener_that_is_not_there_is_named() {
    let output = run(&["policy", "list", "--admin", "http://127.0.0.1:9"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9"));
}
