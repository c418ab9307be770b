//! A `tokenizer.json`: refused, or a tokenizer that takes any text and any token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::use_text;
use sluice_text::{Text, TextFiles, TokenizerFile};

fuzz_target!(init: std::panic::set_hook(Box::new(quiet)), |json: &[u8]| {
    if let Ok(text) = Text::new(&TextFiles::new(TokenizerFile::Json(json.to_vec()))) {
        use_text(&text);
    }
});

/// The library's panics are caught where a file is read. One that is not caught still ends the run.
fn quiet(_: &std::panic::PanicHookInfo<'_>) {}
