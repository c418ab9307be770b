//! What a batching decision costs a step, whole: the view of a decoding replica is built, the policy asked, its decision
//! checked. Natively and as a component, in microseconds, median and 99th percentile.

use std::sync::Arc;
use std::time::Instant;

use sluice_benches::decoding::{Decoding, quantile};
use sluice_core::{BatchingPolicy, Clock, DeploymentClass, Instantiate, PolicyLoader, Revision, Slot};
use sluice_engine::check;
use sluice_native::NativeRevision;
use sluice_runtime::{Runtime, Silent};

const CALLS: usize = 5000;

fn native() -> Box<dyn BatchingPolicy> {
    let source = NativeRevision::<utilization_band::UtilizationBand>::new(Slot::Batching, "{}");
    Instantiate::<dyn BatchingPolicy>::instantiate(&source).expect("an instance")
}

fn component() -> Box<dyn BatchingPolicy> {
    let runtime = Runtime::new(Arc::new(Silent)).expect("a runtime");
    let shipped = sluice_bundle::shipped("utilization-band").expect("a shipped policy");
    let loaded = runtime.load(shipped.component, DeploymentClass::Standard).expect("a shipped policy loads");
    match loaded.revision("{}") {
        Revision::Batching(source) => source.instantiate().expect("an instance"),
        _ => panic!("utilization-band is a batching policy"),
    }
}

fn measure(sequences: u32, mut policy: Box<dyn BatchingPolicy>) -> (f64, f64) {
    let mut decoding = Decoding::new(sequences);
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..CALLS {
        if call % 10 == 0 {
            decoding.step();
        }
        let begin = Instant::now();
        let now = decoding.clock.now();
        let view = decoding.replica.view(now);
        let decision = policy.plan(view).expect("a decision");
        check::batching(view, &decision).expect("a decision that can be carried out");
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    (quantile(&mut times, 0.5), quantile(&mut times, 0.99))
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    println!("sequences   native µs (p99)     component µs (p99)");
    for sequences in [16, 64, 256, 1024] {
        let (native, component) = (measure(sequences, native()), measure(sequences, component()));
        let line = |(median, p99): (f64, f64)| format!("{median:>7.2} ({p99:>6.2})");
        println!("{sequences:>9}   {}    {}", line(native), line(component));
    }
}
