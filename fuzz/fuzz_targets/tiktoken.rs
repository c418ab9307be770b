//! A `qwen.tiktoken`: refused, or a tokenizer that takes any text and any token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::use_text;
use sluice_text::{Text, TextFiles, TokenizerFile};

fuzz_target!(|ranks: &[u8]| {
    if let Ok(text) = Text::new(&TextFiles::new(TokenizerFile::Tiktoken(ranks.to_vec()))) {
        use_text(&text);
    }
});
