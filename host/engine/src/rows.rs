//! How a sequence's share of a step is written down for the executor.

use std::sync::Arc;

use sluice_core::{Batch, Draw, Row, Score, TokenSource};

use crate::sequence::{Sequence, length};

/// Adds a row of so many of the sequence's tokens, from the first that is not computed on.
pub(crate) fn add(batch: &mut Batch, sequence: &Sequence, tokens: u32) {
    let (start, known) = (sequence.computed, length(sequence.tokens.len()));
    let draw = sequence.draws_after(tokens).then(|| draw(sequence, &mut batch.history));
    batch.rows.push(Row {
        sequence: sequence.id(),
        start,
        tokens,
        prompt_tokens: sequence.admitted.request.prompt_tokens(),
        token_offset: batch.tokens.len(),
        block_offset: batch.blocks.len(),
        block_count: sequence.blocks.len(),
        draw,
        score: score(sequence, start + tokens),
    });
    batch.tokens.extend((start..start + tokens).map(|position| match position < known {
        true => TokenSource::Known(sequence.tokens[position as usize]),
        false => TokenSource::PreviousStep,
    }));
    batch.blocks.extend_from_slice(&sequence.blocks);
}

fn draw(sequence: &Sequence, history: &mut Vec<u32>) -> Draw {
    let history_offset = history.len();
    if sequence.sampling.penalises() {
        history.extend_from_slice(&sequence.tokens);
    }
    Draw {
        params: Arc::clone(&sequence.sampling),
        history_offset,
        history_tokens: history.len() - history_offset,
        forbidden: forbidden(sequence),
    }
}

/// What would end the answer before it has its least length.
fn forbidden(sequence: &Sequence) -> Option<Arc<[u32]>> {
    let request = &sequence.admitted.request;
    let early = sequence.generated + sequence.drawing < request.min_new_tokens;
    (early && !request.stop_tokens.is_empty()).then(|| Arc::clone(&request.stop_tokens))
}

/// Of a run to `end`, where it starts within the prompt and the client has not been told everything of it. What is still
/// in flight is not known to be told.
fn score(sequence: &Sequence, end: u32) -> Option<Score> {
    let request = &sequence.admitted.request;
    let alternatives = request.prompt_logprobs?;
    let within = sequence.computed + 1 < request.prompt_tokens();
    let wanted = within && sequence.awaits_scores() && end > sequence.scored;
    wanted.then(|| Score { alternatives, next: request.prompt.get(end as usize).copied() })
}
