//! Every hostile guest is stopped by the runtime, for the reason that it deserves, and the next instance is well.

mod batching;
mod files;
mod others;

use std::sync::{Arc, LazyLock, Mutex};

use sluice_core::view::{ArrivalView, BatchingView, EngineLimits, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingPolicy, DeploymentClass, Digest, LoadedPolicy, PolicyFault, PolicyLoader, Revision,
    RoutingPolicy,
};
use sluice_runtime::{Level, PolicyLog, Runtime};
use sluice_tests::Guest;

/// Counts what policies say.
#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<usize>>,
    gauges: Mutex<Vec<String>>,
}

impl PolicyLog for Heard {
    fn line(&self, _: &str, _: Digest, _: Level, message: &str) {
        self.lines.lock().unwrap().push(message.len());
    }

    fn gauge(&self, _: &str, _: Digest, name: &str, _: f64) {
        self.gauges.lock().unwrap().push(name.to_owned());
    }

    fn dropped(&self, _: &str, _: Digest, _: u64, _: u64) {}
}

static HEARD: LazyLock<Arc<Heard>> = LazyLock::new(Arc::default);
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let heard: Arc<Heard> = Arc::clone(&HEARD);
    Runtime::new(heard).unwrap()
});

fn load(guest: &Guest) -> Arc<dyn LoadedPolicy> {
    RUNTIME.load(guest.component, DeploymentClass::Standard).unwrap()
}

fn batching(mode: &str) -> Result<Box<dyn BatchingPolicy>, PolicyFault> {
    let Revision::Batching(source) = load(&sluice_tests::BATCHING).revision(&Guest::config(mode)) else {
        panic!("slot")
    };
    source.instantiate()
}

fn routing(mode: &str) -> Box<dyn RoutingPolicy> {
    let Revision::Routing(source) = load(&sluice_tests::ROUTING).revision(&Guest::config(mode)) else { panic!("slot") };
    source.instantiate().unwrap()
}

fn admission(mode: &str) -> Box<dyn AdmissionPolicy> {
    let Revision::Admission(source) = load(&sluice_tests::ADMISSION).revision(&Guest::config(mode)) else {
        panic!("slot")
    };
    source.instantiate().unwrap()
}

/// Two sequences of tenants 1 and 2, one of which decodes.
fn batching_view() -> BatchingView {
    let mut view = BatchingView {
        limits: EngineLimits { max_sequences: 8, max_batched_tokens: 64, ..EngineLimits::default() },
        ..BatchingView::default()
    };
    let table = &mut view.sequences;
    table.id = vec![10, 20];
    table.tenant = vec![1, 2];
    table.phase = vec![3, 1];
    table.priority = vec![0; 2];
    for column in [
        &mut table.prompt_tokens,
        &mut table.computed_tokens,
        &mut table.generated_tokens,
        &mut table.max_new_tokens,
        &mut table.blocks_held,
        &mut table.blocks_exclusive,
        &mut table.preemptions,
    ] {
        *column = vec![1; 2];
    }
    for column in [&mut table.arrival, &mut table.first_token_time, &mut table.last_token_time, &mut table.deadline] {
        *column = vec![1; 2];
    }
    view
}

fn routing_view() -> RoutingView {
    RoutingView::default()
}

fn arrival_view() -> ArrivalView {
    ArrivalView::default()
}
