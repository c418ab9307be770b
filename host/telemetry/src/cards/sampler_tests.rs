//! Which replica sees which card, and what there is without a library, a card or the thread.

use nvml_wrapper::error::NvmlError;
use sluice_core::Nanos;

use super::*;
use crate::cards::fake::{FakeCard, FakeLibrary, POWER};

/// Stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Nanos {
        7
    }
}

fn uuids(uuids: &[Option<&str>]) -> Vec<Option<String>> {
    uuids.iter().map(|uuid| uuid.map(str::to_owned)).collect()
}

/// What is known of so many replicas, and one more, once the thread has gone after its first reading.
fn check<L: Library>(open: impl FnOnce() -> Answer<L> + Send + 'static, of: &[Option<&str>], expected: &[bool]) {
    let sampler = CardSampler::over(open, uuids(of), Arc::new(Still)).unwrap();
    let readings = sampler.readings();
    drop(sampler);
    let known = (0..).map(|id| readings.latest(ReplicaId(id))).take(of.len() + 1);
    let known: Vec<bool> = known.map(|reading| reading.is_some_and(|reading| reading.taken == 7)).collect();
    assert_eq!(known, expected, "{of:?}");
}

fn library() -> FakeLibrary {
    FakeLibrary(vec![("GPU-a", FakeCard::default()), ("GPU-b", FakeCard::default())])
}

#[test]
fn each_replica_sees_its_own_card() {
    check(|| Ok(library()), &[], &[false]);
    check(|| Ok(library()), &[Some("GPU-a")], &[true, false]);
    check(|| Ok(library()), &[None, Some("GPU-b"), Some("GPU-b")], &[false, true, true, false]);
    check(|| Ok(library()), &[Some("GPU-b"), Some("GPU-c"), Some("GPU-a")], &[true, false, true, false]);
}

#[test]
fn replicas_on_one_card_ask_it_once() {
    let card = FakeCard::default();
    let library = FakeLibrary(vec![("GPU-a", card.clone())]);
    let of = uuids(&[Some("GPU-a"), Some("GPU-a")]);
    drop(CardSampler::over(|| Ok(library), of, Arc::new(Still)).unwrap());
    assert_eq!(card.told().asked.iter().filter(|asked| **asked == POWER).count(), 1);
}

#[test]
fn without_a_library_or_a_card_nothing_is_known() {
    check(|| Err::<FakeLibrary, _>(NvmlError::DriverNotLoaded), &[Some("GPU-a")], &[false, false]);
    check::<FakeLibrary>(|| unreachable!("there is no card to open it for"), &[None, None], &[false, false, false]);
}

#[test]
fn a_machine_without_nvml_is_no_error() {
    let sampler = CardSampler::start(uuids(&[Some("GPU-00000000-0000-0000-0000-000000000000")]), Arc::new(Still));
    let readings = sampler.map(|sampler| sampler.readings()).unwrap();
    assert_eq!(readings.latest(ReplicaId(0)), None);
}
