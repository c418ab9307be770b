//! What text costs beside the step threads: a token on its way to the client, and a chat on its way to the model.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice_text::{Answer, ChatMessage, ChatRequest, Text, TextFiles, TokenizerFile, UnixSeconds};

const TOKENIZER: &str = include_str!("../../host/model/embedded/tokenizer.json");
const PROSE: &str = "The KV cache is divided into blocks of a fixed number of tokens. A sequence takes a block when it \
                     needs one and gives all of them back when it ends, so no memory is lost to gaps. Déjà vu: 水門 🦀.";

fn text(tokenizer: &str) -> Text {
    let tokenizer = TokenizerFile::Json(tokenizer.as_bytes().to_vec());
    Text::new(&TextFiles::new(tokenizer)).expect("the embedded tokenizer is valid")
}

/// The same tokenizer, written so that its decoder is not known to work token by token.
fn general() -> Text {
    let (before, decoder) = TOKENIZER.split_once("\"decoder\":").expect("it has a decoder");
    let end = decoder.find('}').expect("the decoder is an object") + 1;
    let sequence = format!("{{\"type\":\"Sequence\",\"decoders\":[{}]}}", &decoder[..end]);
    text(&format!("{before}\"decoder\":{sequence}{}", &decoder[end..]))
}

fn stream(answer: &mut Answer, tokens: &[u32], out: &mut String) {
    for &token in tokens {
        out.clear();
        answer.push(token, out);
        black_box(&*out);
    }
}

fn tokens_to_text(c: &mut Criterion) {
    let byte_level = text(TOKENIZER);
    let tokens = byte_level.prompt_for_completion(&PROSE.repeat(16), u32::MAX).expect("it is short");
    let mut group = c.benchmark_group("detokenize");
    group.throughput(Throughput::Elements(tokens.len() as u64));
    let stops = ["\n\n", "User:", "###", "a stop string that never comes"];
    let cases = [
        ("byte-level", &byte_level, &stops[..0]),
        ("byte-level, four stop strings", &byte_level, &stops[..]),
        ("general", &general(), &stops[..0]),
    ];
    for (name, text, stops) in cases {
        let mut out = String::new();
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || text.answer(stops).expect("few and short"),
                |answer| stream(answer, &tokens, &mut out),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn text_to_tokens(c: &mut Criterion) {
    let text = text(TOKENIZER);
    let chat = [("system", "You are a helpful assistant."), ("user", PROSE)];
    let chat = ChatRequest::new(chat.map(|(role, content)| ChatMessage::new(role, content)).to_vec());
    c.bench_function("a chat of two messages to tokens", |b| {
        b.iter(|| text.prompt_for_chat(black_box(&chat), u32::MAX, UnixSeconds(0)));
    });
}

criterion_group!(benches, tokens_to_text, text_to_tokens);
criterion_main!(benches);
