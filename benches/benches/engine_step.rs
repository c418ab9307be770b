//! The engine alone, on one thread: plan, submit and collect of a decoding batch, with an executor that computes
//! nothing and sinks that count. Prints microseconds a step, median and 99th percentile.

use std::time::Instant;

use sluice_benches::decoding::{Decoding, quantile};

const STEPS: usize = 4000;

fn measure(sequences: u32) -> (f64, f64) {
    let mut decoding = Decoding::new(sequences);
    let mut times = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let begin = Instant::now();
        decoding.step();
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    assert_eq!(decoding.tokens(), u64::from(sequences) * (STEPS as u64 + 1), "a token per sequence and step");
    (quantile(&mut times, 0.5), quantile(&mut times, 0.99))
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    println!("sequences   median µs   p99 µs   per sequence ns");
    for sequences in [1, 16, 32, 64, 128, 256, 1024] {
        let (median, p99) = measure(sequences);
        println!("{sequences:>9}   {median:>9.1}   {p99:>6.1}   {:>8.0}", median * 1000.0 / f64::from(sequences));
    }
}
