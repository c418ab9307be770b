//! A GGUF file: its configuration, tokenizer and weights are read or refused, by what the file itself says of them.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use sluice_checkpoint::{ConfigFile, GgufTokenizer, LoadError, LoadOptions, ModelFiles, Silent, Weights};
use sluice_fuzz::{Scratch, use_text};
use sluice_text::{GgufVocabulary, Text};

thread_local! {
    static SCRATCH: LazyCell<Scratch> = LazyCell::new(|| Scratch::new("model.gguf"));
}

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        let path = scratch.write(bytes);
        let files = ModelFiles::path(path);
        let _weights = read_weights(&files);
        if let Ok(Some(tokenizer)) = GgufTokenizer::read(&files)
            && let Ok(text) = Text::from_gguf(&vocabulary(tokenizer))
        {
            use_text(&text);
        }
    });
});

/// One of each kind.
fn read_weights(files: &ModelFiles) -> Result<(), LoadError> {
    let config = ConfigFile::read(files)?;
    let (hidden, vocabulary) = (config.size("hidden_size")?, config.size("vocab_size")?);
    let weights = Weights::open(files, LoadOptions::default(), Box::new(Silent))?;
    let table = weights.table("model.embed_tokens.weight", vocabulary, hidden)?;
    assert_eq!(table.to_f32().len(), vocabulary * hidden);
    weights.vector("model.norm.weight", hidden)?;
    let heads = config.size("num_attention_heads")?;
    let width = heads * config.optional_size("head_dim")?.unwrap_or(hidden / heads);
    let query = weights.projection("model.layers.0.self_attn.q_proj.weight", width, hidden)?;
    assert_eq!(query.to_f32().len(), width * hidden);
    Ok(())
}

fn vocabulary(read: GgufTokenizer) -> GgufVocabulary {
    GgufVocabulary {
        model: read.model.unwrap_or_default(),
        pre: read.pre.unwrap_or_default(),
        tokens: read.tokens,
        merges: read.merges,
        token_types: read.token_types,
        bos: read.bos_id,
        eos: read.eos_id,
        eot: read.eot_id,
        add_bos: read.add_bos.unwrap_or(false),
        chat_template: read.chat_template,
    }
}
