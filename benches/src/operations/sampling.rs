//! Cases of draws and of counts: random logits, parameters of every kind side by side, and rows from which nothing can be
//! drawn.

use half::bf16;
use sluice_kernels::op::{Count, Sample};
use sluice_kernels::sampling::{CountSpan, IN_PROMPT, SampleResult, SampleRow, TOP};
use sluice_kernels::{Address, Op, Region};

use super::Subject;
use super::case::{Case, Compared};

/// Tokens, and from one row's logits to the next one's.
const VOCABULARIES: [(u32, u32); 4] = [(2048, 2048), (1003, 1008), (151_936, 151_936), (152_064, 152_064)];

/// Kinds of rows: see [`Lists::draw`].
const KINDS: u32 = 12;

/// Tokens that may all be forbidden.
const FEW: u32 = 2000;

/// Logits of a bell curve are so wide.
const WIDTHS: [f32; 3] = [1.0, 3.0, 6.0];

pub(super) fn subjects(full: bool) -> Vec<Subject> {
    let vocabularies = if full { &VOCABULARIES[..] } else { &VOCABULARIES[..2] };
    let sizes = vocabularies.iter().flat_map(|vocabulary| WIDTHS.map(|width| (*vocabulary, width)));
    let rows = if full { 4 * KINDS } else { KINDS };
    let counts = vocabularies.iter().map(|(vocab, _)| *vocab);
    vec![
        Subject::new("count", counts, count),
        Subject::new("sample", sizes, move |case, (vocabulary, width)| sample(case, vocabulary, width, rows)),
    ]
}

/// Two of four slots; a token of each is none of the vocabulary's.
fn count(case: &mut Case, vocab: u32) {
    let span = |first, prompt, answer, slot| CountSpan { first, prompt, answer, slot };
    let spans = [span(3, 700, 90, 2), span(800, 0, 50, 0), span(850, 40, 0, 3)];
    let mut tokens: Vec<i32> = (0..900).map(|_| case.random.below(vocab) as i32).collect();
    // Often.
    tokens[720..760].fill(7);
    for place in [10, 730, 810] {
        tokens[place] = vocab as i32 + 5;
    }
    let counts = case.room::<u32>(4 * vocab);
    let slot = |slot: i32| {
        let bytes = 4 * u64::from(vocab);
        Region { at: counts.at.offset(slot as u64 * bytes), bytes }
    };
    let written = spans.iter().map(|span| slot(span.slot)).collect();
    let (tokens, span_count) = (case.put(&tokens), spans.len() as u32);
    let op = Op::Count(Count { tokens, spans: case.put(&spans), span_count, counts: counts.at, vocab });
    case.check(format!("count of {vocab}"), op, vec![Compared::Same(written)]);
}

fn sample(case: &mut Case, (vocab, stride): (u32, u32), width: f32, rows: u32) {
    let mut lists = Lists::default();
    let draws: Vec<SampleRow> = (0..rows).map(|row| lists.draw(case, row, vocab)).collect();
    let positions: Vec<i32> = (0..rows).map(|_| case.random.below(30_000) as i32).collect();
    let op = Sample {
        logits: logits(case, (vocab, stride), width, rows),
        stride,
        vocab,
        draws: case.put(&draws),
        positions: case.put(&positions),
        bias_tokens: case.put(&lists.bias_tokens),
        bias_values: case.put(&lists.bias_values),
        forbidden: case.put(&lists.forbidden),
        counts: counts(case, vocab, rows),
        drawn: case.room::<i32>(rows).at,
        results: case.room::<SampleResult>(rows).at,
        top_tokens: case.room::<[i32; TOP]>(rows).at,
        top_logprobs: case.room::<[f32; TOP]>(rows).at,
        rows,
    };
    let name = format!("sample {rows} rows of {vocab}, logits of {width}");
    case.check(name, Op::Sample(op), vec![Compared::Draws(op)]);
}

/// What all rows' lists are made of. The first entries are nobody's.
struct Lists {
    bias_tokens: Vec<i32>,
    bias_values: Vec<f32>,
    forbidden: Vec<i32>,
}

impl Default for Lists {
    fn default() -> Self {
        Self { bias_tokens: vec![0], bias_values: vec![100.0], forbidden: vec![0] }
    }
}

impl Lists {
    fn draw(&mut self, case: &mut Case, row: u32, vocab: u32) -> SampleRow {
        let seed = case.random.seed();
        let logprobs = case.random.below(TOP as u32 + 2) as i32 - 1;
        let temperature = case.random.between(0.3, 1.5);
        let greedy = SampleRow { seed, logprobs, ..SampleRow::greedy() };
        let chance = SampleRow { temperature, ..greedy };
        let (top_p, min_p) = (case.random.between(0.2, 0.99), case.random.between(0.01, 0.3));
        let top_k = case.random.below(60) as i32 + 1;
        let (penalty, each) = (case.random.between(0.7, 1.5), case.random.between(-1.0, 1.0));
        let penalised = SampleRow { repetition_penalty: penalty, presence_penalty: each, slot: row as i32, ..chance };
        match row % KINDS {
            0 | 1 => greedy,
            2 => chance,
            3 => SampleRow { top_p, ..chance },
            4 => SampleRow { top_k, ..chance },
            5 => SampleRow { min_p, top_k: 2000, top_p, ..chance },
            6 => penalised,
            7 => SampleRow { frequency_penalty: each, temperature: 0.0, ..penalised },
            8 => self.biased(case, vocab, SampleRow { top_p, top_k, ..chance }),
            9 => self.forbidding(case, vocab, SampleRow { min_p, ..penalised }),
            10 => SampleRow { given: case.random.below(vocab) as i32, logprobs: logprobs.max(0), ..penalised },
            _ if vocab < FEW => self.forbidding_all(vocab, chance),
            _ => self.forbidding(case, vocab, greedy),
        }
    }

    fn forbidding_all(&mut self, vocab: u32, draw: SampleRow) -> SampleRow {
        let forbidden_first = self.forbidden.len() as i32;
        self.forbidden.extend(0..vocab as i32);
        SampleRow { forbidden_first, forbidden_count: vocab as i32, ..draw }
    }

    fn biased(&mut self, case: &mut Case, vocab: u32, draw: SampleRow) -> SampleRow {
        let bias_first = self.bias_tokens.len() as i32;
        let first = case.random.below(vocab - 40);
        self.bias_tokens.extend((first..first + 40).map(|token| token as i32));
        self.bias_values.extend((0..40).map(|_| case.random.between(-5.0, 9.0)));
        SampleRow { bias_first, bias_count: 40, ..draw }
    }

    fn forbidding(&mut self, case: &mut Case, vocab: u32, draw: SampleRow) -> SampleRow {
        let forbidden_first = self.forbidden.len() as i32;
        self.forbidden.extend((0..90).map(|_| case.random.below(vocab) as i32));
        SampleRow { forbidden_first, forbidden_count: 90, ..draw }
    }
}

/// Nothing is drawn from the second of each kind of row; nothing is known behind a row's end.
fn logits(case: &mut Case, (vocab, stride): (u32, u32), width: f32, rows: u32) -> Address {
    let mut logits = case.random.halves((rows * stride) as usize, width);
    for (row, logits) in (0..).zip(logits.chunks_exact_mut(stride as usize)) {
        logits[vocab as usize..].fill(bf16::NAN.to_bits());
        if row % KINDS == 1 {
            logits[case.random.below(vocab) as usize] = bf16::NAN.to_bits();
            logits[vocab as usize - 1] = bf16::INFINITY.to_bits();
        }
    }
    case.put(&logits)
}

/// A slot for each row: some tokens of a prompt, some of an answer.
fn counts(case: &mut Case, vocab: u32, rows: u32) -> Address {
    let mut counts = vec![0u32; (rows * vocab) as usize];
    for counts in counts.chunks_exact_mut(vocab as usize) {
        for place in 0..200 {
            let count = &mut counts[case.random.below(vocab) as usize];
            *count = if place % 3 == 0 { *count | IN_PROMPT } else { *count + 1 };
        }
    }
    case.put(&counts)
}
