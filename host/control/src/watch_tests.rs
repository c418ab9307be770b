//! A real folder against an engine of two replicas whose seats are threads.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use sluice_engine::recorder::HostVersions;
use tempfile::TempDir;

use super::*;
use crate::control::{ControlLimits, ControlParts};
use crate::fake::{Gate, TextLoader, engine};

struct Watching {
    folder: TempDir,
    control: Control,
    watch: DirectoryWatch,
    gates: [Gate; 3],
}

impl Watching {
    fn new() -> Self {
        let limits = ControlLimits { answer: Duration::from_secs(5), ..ControlLimits::default() };
        let control = Control::new(ControlParts {
            loader: Arc::new(TextLoader),
            clock: Arc::new(|| 42),
            limits,
            versions: HostVersions::default(),
            audit: None,
        });
        let (seats, gates) = engine();
        control.connect(seats);
        let folder = tempfile::tempdir().unwrap();
        let limits = WatchLimits { component_bytes: 100, configuration_bytes: 50 };
        let watch = DirectoryWatch::open(folder.path(), limits).unwrap();
        Self { folder, control, watch, gates }
    }

    /// In one go, as an editor or a deployment would.
    fn put(&self, name: &str, content: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.folder.path().join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    /// What comes of the next look.
    fn poll(&mut self) -> Vec<String> {
        let found = self.watch.poll(&self.control);
        found.into_iter().map(|(slot, outcome)| format!("{slot}: {}", in_short(outcome))).collect()
    }

    /// What comes of the look after the next: what changed has rested then.
    fn rested(&mut self) -> Vec<String> {
        assert_eq!(self.poll(), [""; 0]);
        self.poll()
    }

    fn committed(&self, slot: Slot) -> Option<String> {
        let revision = self.control.committed(slot)?;
        Some(format!("{} {}", revision.id().version, revision.id().config))
    }
}

fn in_short(outcome: Result<Deployment, WatchError>) -> String {
    match outcome {
        Ok(done) => format!("{}@{} {}", done.revision.name, done.revision.version, done.revision.config),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_file_is_deployed_when_it_has_rested_and_again_when_it_changes() {
    let mut watching = Watching::new();
    assert_eq!(watching.rested(), [""; 0]);
    watching.put("batching.wasm", "batching calm 1.0");
    watching.put("routing.wasm", "routing even 1.0");
    watching.put("routing.json", r#"{"a": 1}"#);
    assert_eq!(watching.rested(), [r#"routing: even@1.0 {"a": 1}"#, "batching: calm@1.0 {}"]);
    assert_eq!(watching.rested(), [""; 0]);
    watching.put("batching.wasm", "batching calm 2.0");
    assert_eq!(watching.rested(), ["batching: calm@2.0 {}"]);
    watching.put("routing.json", r#"{"a": 2}"#);
    assert_eq!(watching.rested(), [r#"routing: even@1.0 {"a": 2}"#]);
    assert!(
        watching
            .control
            .history()
            .iter()
            .all(|entry| (entry.by.as_str(), entry.action.as_str()) == ("directory", "deploy"))
    );
}

#[test]
fn a_file_that_is_still_written_waits() {
    let mut watching = Watching::new();
    let file = watching.folder.path().join("batching.wasm");
    for part in ["bat", "batching ca", "batching calm 1.0"] {
        fs::write(&file, part).unwrap();
        assert_eq!(watching.poll(), [""; 0]);
    }
    assert_eq!(watching.poll(), ["batching: calm@1.0 {}"]);
}

#[test]
fn the_same_bytes_are_not_deployed_again_and_what_goes_away_changes_nothing() {
    let mut watching = Watching::new();
    watching.put("batching.wasm", "batching calm 1.0");
    watching.put("batching.json", r#"{"a": 1}"#);
    assert_eq!(watching.rested().len(), 1);
    watching.put("batching.wasm", "batching calm 1.0");
    assert_eq!(watching.rested(), [""; 0]);
    watching.remove("batching.json");
    assert_eq!(watching.rested(), [""; 0]);
    watching.remove("batching.wasm");
    assert_eq!(watching.rested(), [""; 0]);
    assert_eq!(watching.committed(Slot::Batching).as_deref(), Some(r#"1.0 {"a": 1}"#));
    watching.put("batching.wasm", "batching calm 1.0");
    assert_eq!(watching.rested(), [""; 0]);
    watching.put("batching.wasm", "batching calm 2.0");
    assert_eq!(watching.rested(), ["batching: calm@2.0 {}"]);
}

#[test]
fn what_is_refused_is_told_once_and_tried_again_when_it_changes() {
    let mut watching = Watching::new();
    let cases = [
        ("batching.wasm", "nonsense".to_owned(), "not a WebAssembly component"),
        ("batching.wasm", "routing even 1.0".to_owned(), "is a policy for routing"),
        ("batching.wasm", "batching traps 1.0".to_owned(), "failed its probe"),
        ("batching.wasm", "x".repeat(101), "has more than 100 bytes"),
        ("batching.json", "x".repeat(51), "has more than 100 bytes"),
        ("batching.wasm", "batching calm 1.0".to_owned(), "batching.json has more than 50 bytes"),
        ("batching.json", "[]".to_owned(), "not a JSON object"),
    ];
    for (count, (name, content, message)) in cases.into_iter().enumerate() {
        watching.put(name, &content);
        let found = watching.rested();
        assert!(found.len() == 1 && found[0].contains(message), "{found:?} instead of {message}");
        assert_eq!(watching.rested(), [""; 0]);
        let refused = watching.control.history();
        assert!(refused.last().unwrap().evidence.contains(message));
        assert_eq!(refused.iter().filter(|entry| entry.outcome == "refused").count(), count + 1);
    }
    fs::write(watching.folder.path().join("batching.json"), [b'"', 0xff, b'"']).unwrap();
    assert!(watching.rested()[0].contains("is not text"));
    watching.put("batching.json", "{}");
    assert_eq!(watching.rested(), ["batching: calm@1.0 {}"]);
}

#[test]
fn what_is_not_a_file_is_refused() {
    let mut watching = Watching::new();
    fs::create_dir(watching.folder.path().join("batching.wasm")).unwrap();
    assert!(watching.rested()[0].contains("it is not a file"));
    let folder = watching.folder.path().join("absent");
    let error = DirectoryWatch::open(&folder, watching.watch.limits).err().unwrap().to_string();
    assert!(error.contains("absent cannot be watched"), "{error}");
}

#[test]
fn a_folder_of_kubernetes_is_swapped_by_its_link() {
    let mut watching = Watching::new();
    let root = watching.folder.path().to_owned();
    let turn = |version: &str| {
        let data = root.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("batching.wasm"), format!("batching calm {version}")).unwrap();
        symlink(&data, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    turn("1.0");
    symlink("..data/batching.wasm", root.join("batching.wasm")).unwrap();
    assert_eq!(watching.rested(), ["batching: calm@1.0 {}"]);
    turn("2.0");
    fs::remove_dir_all(root.join("..1.0")).unwrap();
    assert_eq!(watching.rested(), ["batching: calm@2.0 {}"]);
}

#[test]
fn what_is_there_at_the_start_stands_over_what_is_configured() {
    let mut watching = Watching::new();
    let class = DeploymentClass::Standard;
    let configured = b"batching calm 1.0";
    let request = DeployRequest { component: configured, config: None, class, slot: None, by: "startup" };
    watching.control.deploy(&request).unwrap();
    watching.put("batching.wasm", "batching calm 2.0");
    watching.put("admission.wasm", "nonsense");
    let found = watching.watch.deploy_present(&watching.control);
    assert_eq!(
        found.iter().map(|(slot, outcome)| (*slot, outcome.is_ok())).collect::<Vec<_>>(),
        [(Slot::Admission, false), (Slot::Batching, true)]
    );
    assert_eq!(watching.committed(Slot::Batching).as_deref(), Some("2.0 {}"));
    assert_eq!(watching.rested(), [""; 0]);
}

#[test]
fn what_was_not_the_components_fault_is_tried_again_later_and_later() {
    let mut watching = Watching::new();
    for gate in &watching.gates {
        gate.stop();
    }
    watching.put("batching.wasm", "batching calm 1.0");
    assert_eq!(watching.poll(), [""; 0]);
    let tried: Vec<usize> = (0..20).filter(|_| !watching.poll().is_empty()).collect();
    assert_eq!(tried, [0, 2, 5, 10, 19]);
}
