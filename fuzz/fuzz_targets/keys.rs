//! A keys file: refused with its culprit, or keys that lock everybody else out.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::Scratch;
use sluice_http::Keys;

thread_local! {
    static SCRATCH: LazyCell<Scratch> = LazyCell::new(|| Scratch::new("keys.toml"));
}

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        let path = scratch.write(bytes).to_owned();
        match Keys::load(Vec::new(), Some(path)) {
            Ok(keys) => assert!(!keys.is_open(), "a file of keys lets nobody in without one"),
            Err(error) => assert!(error.to_string().contains("key"), "{error}"),
        }
    });
});
