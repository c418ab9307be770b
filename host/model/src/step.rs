//! A batch, checked and flattened for a model: nothing in it can lead outside the cache or the vocabulary.

use std::ops::Range;

use sluice_core::{Batch, BlockId, RequestId, Row, Score, TokenSource};

/// What a step may hold; everything that grows with a step is allocated for this much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepLimits {
    /// Blocks of the KV cache.
    pub blocks: u32,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Tokens of all rows together.
    pub max_tokens: u32,
    /// Rows.
    pub max_rows: u32,
}

/// Of the model: what tokens and positions there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ModelLimits {
    pub(crate) vocab: u32,
    pub(crate) max_model_len: u32,
}

/// The tokens of all rows side by side, each with its position and its sequence's block table.
#[derive(Default)]
pub struct Step {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    /// Indices into `tokens` of those after which a token is drawn.
    pub(crate) sampled: Vec<usize>,
    /// Those after which a token of the prompt is scored.
    pub(crate) scored: Vec<ScoredPlace>,
    /// Each token's row.
    rows: Vec<usize>,
    /// Each row's prompt, as long as it came.
    prompts: Vec<u32>,
    /// Each row's block table.
    tables: Vec<Range<usize>>,
    blocks: Vec<u32>,
    block_tokens: usize,
}

/// A token of a prompt that is to be scored by the logits after the token before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ScoredPlace {
    /// Index into `tokens` of the token before.
    pub(crate) after: usize,
    pub(crate) token: u32,
    pub(crate) position: u32,
    pub(crate) alternatives: u8,
}

/// The engine asked for something that cannot be computed: a bug of the engine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BadBatch {
    #[error("the batch has {rows} rows and {tokens} tokens, and at most {max_rows} and {max_tokens} are computed")]
    TooLarge { rows: usize, tokens: usize, max_rows: u32, max_tokens: u32 },
    #[error("the row of sequence {} {problem}", sequence.0)]
    Row { sequence: RequestId, problem: RowProblem },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RowProblem {
    #[error("reaches outside the batch's tokens, blocks or history")]
    Range,
    #[error("has no tokens")]
    Empty,
    #[error("reaches position {end}, and the model's length is {limit}")]
    TooLong { end: u64, limit: u32 },
    #[error("reaches position {end}, and its block table covers {covered}")]
    Blocks { end: u64, covered: u64 },
    #[error("names block {block} of {blocks}")]
    Block { block: u32, blocks: u32 },
    #[error("has token {token}, and the vocabulary has {vocab}")]
    Token { token: u32, vocab: u32 },
    #[error("has {biases} biases and {forbidden} forbidden tokens, for which there is no room on the device")]
    Lists { biases: usize, forbidden: usize },
    #[error("takes a token from a step before it that is not collected, and there is none that drew one for it")]
    PreviousStep,
}

impl Step {
    pub(crate) fn new(limits: &StepLimits) -> Self {
        let tokens = limits.max_tokens as usize;
        Self {
            tokens: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            rows: Vec::with_capacity(tokens),
            block_tokens: limits.block_tokens as usize,
            ..Self::default()
        }
    }

    pub(crate) fn fill(&mut self, batch: &Batch, limits: &StepLimits, model: &ModelLimits) -> Result<(), BadBatch> {
        check_size(batch, limits)?;
        self.clear();
        for row in &batch.rows {
            let filled = self.add(batch, row, limits, model);
            filled.map_err(|problem| BadBatch::Row { sequence: row.sequence, problem })?;
        }
        Ok(())
    }

    pub(crate) fn table_of(&self, token: usize) -> &[u32] {
        &self.blocks[self.tables[self.rows[token]].clone()]
    }

    /// The block that a token's own keys and values go to.
    pub(crate) fn block_of(&self, token: usize) -> u32 {
        self.table_of(token)[self.positions[token] as usize / self.block_tokens]
    }

    /// The length of the prompt that a token's request came with.
    pub(crate) fn prompt_of(&self, token: usize) -> u32 {
        self.prompts[self.rows[token]]
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sampled.clear();
        self.scored.clear();
        self.rows.clear();
        self.prompts.clear();
        self.tables.clear();
        self.blocks.clear();
    }

    fn add(&mut self, batch: &Batch, row: &Row, limits: &StepLimits, model: &ModelLimits) -> Result<(), RowProblem> {
        let (tokens, blocks) = check(batch, row, limits, model)?;
        for (token, position) in tokens.iter().zip(row.start..) {
            self.tokens.push(known(*token)?);
            self.positions.push(position);
            self.rows.push(self.tables.len());
        }
        self.prompts.push(row.prompt_tokens);
        let table = self.blocks.len();
        self.blocks.extend(blocks.iter().map(|block| block.0));
        self.tables.push(table..self.blocks.len());
        if row.draw.is_some() {
            self.sampled.push(self.tokens.len() - 1);
        }
        if let Some(score) = row.score {
            self.add_scored(row, score);
        }
        Ok(())
    }

    /// The row's tokens are the last that were added.
    fn add_scored(&mut self, row: &Row, score: Score) {
        let first = self.tokens.len() - row.tokens as usize;
        let given = self.tokens[first + 1..].iter().copied().chain(score.next);
        let places = given.zip(first..).zip(row.start + 1..).map(|((token, after), position)| ScoredPlace {
            after,
            token,
            position,
            alternatives: score.alternatives,
        });
        self.scored.extend(places);
    }
}

/// Nothing in a batch that passes is too much of something.
pub(crate) fn check_size(batch: &Batch, limits: &StepLimits) -> Result<(), BadBatch> {
    let tokens = batch.rows.iter().map(|row| row.tokens as usize).sum();
    if batch.rows.len() > limits.max_rows as usize || tokens > limits.max_tokens as usize {
        let (max_rows, max_tokens) = (limits.max_rows, limits.max_tokens);
        return Err(BadBatch::TooLarge { rows: batch.rows.len(), tokens, max_rows, max_tokens });
    }
    Ok(())
}

/// A row's tokens and its block table, all of whose parts are where they say and lead nowhere outside.
pub(crate) fn check<'b>(
    batch: &'b Batch,
    row: &Row,
    limits: &StepLimits,
    model: &ModelLimits,
) -> Result<(&'b [TokenSource], &'b [BlockId]), RowProblem> {
    let tokens = slice(&batch.tokens, row.token_offset, row.tokens as usize).ok_or(RowProblem::Range)?;
    let blocks = slice(&batch.blocks, row.block_offset, row.block_count).ok_or(RowProblem::Range)?;
    let end = u64::from(row.start) + u64::from(row.tokens);
    let covered = blocks.len() as u64 * u64::from(limits.block_tokens);
    if tokens.is_empty() {
        return Err(RowProblem::Empty);
    }
    if end > u64::from(model.max_model_len) {
        return Err(RowProblem::TooLong { end, limit: model.max_model_len });
    }
    if end > covered {
        return Err(RowProblem::Blocks { end, covered });
    }
    if let Some(block) = blocks.iter().find(|block| block.0 >= limits.blocks) {
        return Err(RowProblem::Block { block: block.0, blocks: limits.blocks });
    }
    if let Some(draw) = &row.draw {
        slice(&batch.history, draw.history_offset, draw.history_tokens).ok_or(RowProblem::Range)?;
    }
    let next = row.score.and_then(|score| score.next).map(TokenSource::Known);
    for token in tokens.iter().copied().chain(next) {
        if let TokenSource::Known(token) = token
            && token >= model.vocab
        {
            return Err(RowProblem::Token { token, vocab: model.vocab });
        }
    }
    Ok((tokens, blocks))
}

fn known(token: TokenSource) -> Result<u32, RowProblem> {
    match token {
        TokenSource::Known(token) => Ok(token),
        TokenSource::PreviousStep => Err(RowProblem::PreviousStep),
    }
}

fn slice<T>(all: &[T], offset: usize, count: usize) -> Option<&[T]> {
    all.get(offset..offset.checked_add(count)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::{Draw, SamplingParams};

    const LIMITS: StepLimits = StepLimits { blocks: 4, block_tokens: 2, max_tokens: 4, max_rows: 2 };
    const MODEL: ModelLimits = ModelLimits { vocab: 10, max_model_len: 7 };

    /// Three tokens from position 2 on, with a table of three blocks.
    fn batch() -> Batch {
        let row = Row {
            sequence: RequestId(7),
            start: 2,
            tokens: 3,
            prompt_tokens: 5,
            token_offset: 0,
            block_offset: 0,
            block_count: 3,
            draw: None,
            score: None,
        };
        let tokens = [1, 2, 9].map(TokenSource::Known).to_vec();
        Batch { step: 1, rows: vec![row], tokens, blocks: [3, 0, 2].map(BlockId).to_vec(), history: vec![1, 2] }
    }

    fn check(change: impl FnOnce(&mut Batch), expected: Result<(), RowProblem>) {
        let mut batch = batch();
        change(&mut batch);
        let expected = expected.map_err(|problem| BadBatch::Row { sequence: RequestId(7), problem });
        assert_eq!(Step::new(&LIMITS).fill(&batch, &LIMITS, &MODEL), expected);
    }

    #[test]
    fn rows_that_cannot_be_computed_are_refused() {
        check(|_| {}, Ok(()));
        check(|batch| batch.rows[0].token_offset = 1, Err(RowProblem::Range));
        check(|batch| batch.rows[0].token_offset = usize::MAX, Err(RowProblem::Range));
        check(|batch| batch.rows[0].block_offset = 1, Err(RowProblem::Range));
        check(|batch| batch.rows[0].tokens = 0, Err(RowProblem::Empty));
        check(|batch| batch.rows[0].start = 5, Err(RowProblem::TooLong { end: 8, limit: 7 }));
        check(
            |batch| batch.rows[0].start = u32::MAX,
            Err(RowProblem::TooLong { end: u64::from(u32::MAX) + 3, limit: 7 }),
        );
        check(|batch| batch.rows[0].start = 4, Err(RowProblem::Blocks { end: 7, covered: 6 }));
        check(|batch| batch.blocks[1] = BlockId(4), Err(RowProblem::Block { block: 4, blocks: 4 }));
        check(|batch| batch.tokens[1] = TokenSource::Known(10), Err(RowProblem::Token { token: 10, vocab: 10 }));
        check(|batch| batch.tokens[2] = TokenSource::PreviousStep, Err(RowProblem::PreviousStep));
        check(|batch| batch.rows[0].score = score(Some(10)), Err(RowProblem::Token { token: 10, vocab: 10 }));
        let draw = |history_offset, history_tokens| {
            Some(Draw { history_offset, history_tokens, ..Draw::new(SamplingParams::greedy()) })
        };
        check(|batch| batch.rows[0].draw = draw(0, 2), Ok(()));
        check(|batch| batch.rows[0].draw = draw(1, 2), Err(RowProblem::Range));
        check(|batch| batch.rows[0].draw = draw(usize::MAX, 2), Err(RowProblem::Range));
    }

    #[test]
    fn a_batch_beyond_the_limits_is_refused() {
        let mut batch = batch();
        batch.rows[0].tokens = 5;
        let refused = Step::new(&LIMITS).fill(&batch, &LIMITS, &MODEL);
        assert_eq!(refused, Err(BadBatch::TooLarge { rows: 1, tokens: 5, max_rows: 2, max_tokens: 4 }));
    }

    fn score(next: Option<u32>) -> Option<Score> {
        Some(Score { alternatives: 3, next })
    }

    #[test]
    fn a_run_is_scored_after_each_of_its_tokens_but_where_nothing_follows() {
        for next in [None, Some(4)] {
            let mut batch = batch();
            batch.rows[0].score = score(next);
            let mut step = Step::new(&LIMITS);
            step.fill(&batch, &LIMITS, &MODEL).unwrap();
            let place = |(after, token)| ScoredPlace { after, token, position: after as u32 + 3, alternatives: 3 };
            let expected: Vec<_> = (0..).zip([2, 9].into_iter().chain(next)).map(place).collect();
            assert_eq!(step.scored, expected);
        }
    }

    #[test]
    fn every_token_finds_its_block() {
        let mut step = Step::new(&LIMITS);
        step.fill(&batch(), &LIMITS, &MODEL).unwrap();
        assert_eq!((0..3).map(|token| step.block_of(token)).collect::<Vec<_>>(), [0, 0, 2]);
        assert_eq!(step.positions, [2, 3, 4]);
        assert_eq!((0..3).map(|token| step.prompt_of(token)).collect::<Vec<_>>(), [5; 3]);
    }
}
