//! Good files with random damage: whatever happens to them, they are read or refused, and never bring a panic.

use proptest::prelude::*;

use super::allocations::largest;
use super::folder::{Folder, serialize};
use super::{ALLOCATION, damage, gguf};
use crate::{LoadError, LoadOptions};

/// What happens to a file, at a place that is taken modulo its length.
#[derive(Clone, Debug)]
enum Mutation {
    Overwrite(usize, Vec<u8>),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match self {
            Self::Overwrite(place, new) => {
                bytes.iter_mut().skip(place % length).zip(new).for_each(|(byte, new)| *byte = *new);
            }
            Self::Cut(place) => bytes.truncate(place % length),
            Self::Insert(place, new) => {
                let place = (place % length).min(bytes.len());
                drop(bytes.splice(place..place, new.iter().copied()));
            }
            Self::Remove(place, count) => {
                let place = (place % length).min(bytes.len());
                let end = (place + count).min(bytes.len());
                drop(bytes.drain(place..end));
            }
        }
    }
}

/// Half of them hit the first bytes, where a header is.
fn mutations(header: usize) -> impl Strategy<Value = Vec<Mutation>> {
    let place = move || prop_oneof![0..header, any::<usize>()];
    let bytes = || prop_oneof![Just(vec![0xff; 8]), Just(vec![0; 8]), prop::collection::vec(any::<u8>(), 1..9)];
    let one = prop_oneof![
        4 => (place(), bytes()).prop_map(|(place, bytes)| Mutation::Overwrite(place, bytes)),
        1 => place().prop_map(Mutation::Cut),
        1 => (place(), bytes()).prop_map(|(place, bytes)| Mutation::Insert(place, bytes)),
        1 => (place(), 1usize..64).prop_map(|(place, count)| Mutation::Remove(place, count)),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(whole: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
    bytes
}

/// A panic fails the test; the answer may be either.
fn check(read: impl FnOnce() -> Result<(), LoadError>) -> Result<(), TestCaseError> {
    let (read, largest) = largest(read);
    prop_assert!(largest <= ALLOCATION, "{} bytes were allocated at once", largest);
    prop_assert!(read.is_ok() || read.unwrap_err().to_string().len() < 1000);
    Ok(())
}

#[test]
fn gguf_files() {
    let (whole, folder) = (gguf::model().bytes(), Folder::new());
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(mutations in mutations(1024))| {
        let path = folder.write("tiny.gguf", damaged(&whole, &mutations));
        check(|| gguf::read_all(&path))?;
    });
}

#[test]
fn safetensors_files() {
    let whole = serialize(&damage::made());
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    let folder = Folder::new();
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(mutations in mutations(header))| {
        folder.write("model.safetensors", damaged(&whole, &mutations));
        check(|| damage::read_all(&folder, LoadOptions::default()))?;
    });
}

/// Damage that leaves the header as it is reaches what lies behind it: states, codes and scales.
#[test]
fn quantised_tensors() {
    let tensors = damage::made();
    let names: Vec<_> = tensors.keys().filter(|name| name.contains("plain") || name.contains("nested")).collect();
    let config = ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(which in any::<prop::sample::Index>(), mutations in mutations(64), resize: bool)| {
        let mut tensors = tensors.clone();
        let (_, shape, bytes) = tensors.get_mut(*which.get(&names)).unwrap();
        let damaged = damaged(bytes, &mutations);
        if resize && shape.len() == 1 {
            // As many whole numbers as are left.
            let size = bytes.len() / shape[0];
            shape[0] = damaged.len() / size;
            *bytes = damaged[..shape[0] * size].to_vec();
        } else {
            bytes.iter_mut().zip(damaged).for_each(|(byte, new)| *byte = new);
        }
        let folder = Folder::of(&tensors);
        check(|| damage::read_all(&folder, LoadOptions::default()))?;
    });
}
