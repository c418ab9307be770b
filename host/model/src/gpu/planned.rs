//! One batch as a GPU computes it: its rows in the device's order, and what is written down about them.

use std::collections::HashMap;

use sluice_core::{Batch, BlockId, Draw, RequestId, Row, Score, TokenSource};
use sluice_kernels::attention::{Path, Run, is_long, starts, tiles};
use sluice_kernels::op::BLOCK_TOKENS;
use sluice_kernels::product::padded_rows;
use sluice_kernels::sampling::SampleRow;
use sluice_kernels::{Region, WeightForm};

use crate::gpu::executor::Served;
use crate::gpu::forward::{Group, Tokens};
use crate::gpu::memory::{Places, only_decodes};
use crate::gpu::outcome::{Asked, AskedDraw, AskedScores};
use crate::gpu::staging::Staging;
use crate::step::{BadBatch, RowProblem};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Planned {
    /// By its place among those that are recorded.
    Recorded {
        index: usize,
        long: bool,
    },
    Other {
        tokens: Tokens,
        groups: Vec<Group>,
    },
}

/// Reads a batch that was checked.
pub(crate) struct Planner<'a> {
    pub(crate) served: &'a Served,
    pub(crate) batch: &'a Batch,
    /// For each row, where its tokens are counted; -1 where they are not.
    pub(crate) slots: &'a [i32],
    /// Where the step before drew for each sequence.
    pub(crate) drawn: &'a HashMap<RequestId, u32>,
}

/// How much of the lists is in use.
#[derive(Default)]
struct Lists {
    biases: usize,
    forbidden: usize,
}

/// Says nothing of a block.
const NO_SLOT: i32 = -1;

impl Planner<'_> {
    pub(crate) fn plan(&self, staging: &mut Staging<'_>) -> Result<(Planned, Asked), BadBatch> {
        let rows = self.batch.rows.len();
        let recorded = self.served.memory.rows.recorded.iter().position(|most| rows <= *most as usize);
        match recorded {
            Some(index) if only_decodes(self.batch) => self.recorded(index, staging),
            _ => self.other(staging),
        }
    }

    fn recorded(&self, index: usize, staging: &mut Staging<'_>) -> Result<(Planned, Asked), BadBatch> {
        let memory = &self.served.memory;
        let (places, rows) = (&memory.inputs.recorded, memory.rows.recorded[index] as usize);
        let (mut lists, mut draws) = (Lists::default(), Vec::with_capacity(self.batch.rows.len()));
        for (index, row) in self.batch.rows.iter().enumerate() {
            self.write_tokens(staging, places, row, index)?;
            let sample = row.draw.as_ref().map_or_else(SampleRow::greedy, |draw| {
                draws.push(asked(row, draw, index));
                self.sample_row(staging, &mut lists, draw, self.slots[index])
            });
            self.write_sample(staging, places, index, index, row.start, sample);
        }
        let longest = self.write_decoding(staging, places, self.batch.rows.iter(), rows);
        for padding in self.batch.rows.len()..rows {
            pad_token(staging, places, padding);
            self.write_sample(staging, places, padding, 0, 0, SampleRow::greedy());
        }
        staging.send::<u8>(places.all, places.all.bytes as usize);
        self.send_tables(staging, self.batch.rows.iter());
        lists.send(staging, self.served);
        Ok((Planned::Recorded { index, long: is_long(longest) }, Asked::new(draws, Vec::new())))
    }

    fn other(&self, staging: &mut Staging<'_>) -> Result<(Planned, Asked), BadBatch> {
        let memory = &self.served.memory;
        let places = &memory.inputs.others;
        let (mut order, runs): (Vec<usize>, Vec<usize>) =
            (0..self.batch.rows.len()).partition(|index| decodes(&self.batch.rows[*index]));
        let decoding = order.len();
        order.extend(runs);
        let mut first_tokens = vec![0; order.len()];
        let mut count = 0;
        for index in &order {
            let row = &self.batch.rows[*index];
            first_tokens[*index] = count;
            self.write_tokens(staging, places, row, count)?;
            count += row.tokens as usize;
        }
        let rows = memory.rows.padded(&self.served.card, count as u32);
        (count..rows as usize).for_each(|padding| pad_token(staging, places, padding));
        let in_order = || order.iter().map(|index| &self.batch.rows[*index]);
        let longest = self.write_decoding(staging, places, in_order().take(decoding), decoding);
        let tiles = self.write_runs(staging, places, order[decoding..].iter().copied(), &first_tokens);
        let (groups, asked) = self.write_samples(staging, places, &first_tokens);
        send_tokens(staging, places, rows as usize);
        self.send_tables(staging, in_order());
        let path = Path::choose(decoding as u32, is_long(longest));
        Ok((Planned::Other { tokens: Tokens { rows, decoding: decoding as u32, path, tiles }, groups }, asked))
    }

    /// A row's tokens stand side by side from `first` on.
    fn write_tokens(
        &self,
        staging: &mut Staging<'_>,
        places: &Places,
        row: &Row,
        first: usize,
    ) -> Result<(), BadBatch> {
        let variant = self.served.variants.of(row.prompt_tokens);
        let blocks = self.batch.blocks_of(row);
        for ((index, token), position) in (first..).zip(self.batch.tokens_of(row)).zip(row.start..) {
            staging.put(places.tokens, index, self.token(row, *token)?);
            staging.put(places.angle_rows, index, (variant * self.served.limits.max_model_len + position) as i32);
            staging.put(places.slots, index, slot(blocks, position));
            if let Some(logn) = &self.served.logn {
                staging.put(places.query_scale, index, logn.factor(position));
            }
        }
        Ok(())
    }

    fn token(&self, row: &Row, token: TokenSource) -> Result<i32, BadBatch> {
        match token {
            TokenSource::Known(token) => Ok(token as i32),
            TokenSource::PreviousStep => match self.drawn.get(&row.sequence) {
                Some(index) => Ok(-1 - *index as i32),
                None => Err(BadBatch::Row { sequence: row.sequence, problem: RowProblem::PreviousStep }),
            },
        }
    }

    /// Lengths and starts of so many rows, padding included. Gives the longest context.
    fn write_decoding<'r>(
        &self,
        staging: &mut Staging<'_>,
        places: &Places,
        rows: impl Iterator<Item = &'r Row>,
        padded: usize,
    ) -> u32 {
        let mut lengths: Vec<u32> = rows.map(|row| row.start + 1).collect();
        lengths.resize(padded, 0);
        for (index, length) in lengths.iter().enumerate() {
            staging.put(places.lengths, index, *length as i32);
        }
        for (index, start) in starts(&lengths, self.served.shape.heads.kv).enumerate() {
            staging.put(places.starts, index, start as i32);
        }
        lengths.into_iter().max().unwrap_or(0)
    }

    /// Gives the number of tiles.
    fn write_runs(
        &self,
        staging: &mut Staging<'_>,
        places: &Places,
        rows: impl Iterator<Item = usize>,
        first_tokens: &[usize],
    ) -> u32 {
        let run = |index: usize| {
            let row = &self.batch.rows[index];
            Run { first_row: first_tokens[index] as i32, start: row.start as i32, count: row.tokens as i32, unused: 0 }
        };
        let runs: Vec<Run> = rows.map(run).collect();
        let mut all = Vec::new();
        tiles(&runs, &mut all);
        staging.put_all(places.runs, 0, &runs);
        staging.put_all(places.tiles, 0, &all);
        staging.send::<Run>(places.runs, runs.len());
        staging.send::<sluice_kernels::attention::Tile>(places.tiles, all.len());
        all.len() as u32
    }

    /// What is drawn, then what is scored, each in groups of as many rows of logits as there is room for.
    fn write_samples(&self, staging: &mut Staging<'_>, places: &Places, first_tokens: &[usize]) -> (Vec<Group>, Asked) {
        let mut lists = Lists::default();
        let mut groups = Grouped::new(self.served.memory.rows.samples);
        let mut draws = Vec::new();
        for (index, row) in self.batch.rows.iter().enumerate() {
            let Some(draw) = &row.draw else { continue };
            let place = groups.next(true);
            draws.push(asked(row, draw, place));
            let sample = self.sample_row(staging, &mut lists, draw, self.slots[index]);
            let last = row.tokens as usize - 1;
            self.write_sample(staging, places, place, first_tokens[index] + last, row.start + last as u32, sample);
        }
        groups.close();
        let mut scores = Vec::new();
        for (index, row) in self.batch.rows.iter().enumerate() {
            let Some(score) = row.score else { continue };
            scores.push(self.write_scores(staging, places, row, score, first_tokens[index], &mut groups));
        }
        groups.close();
        for padding in groups.padding(&self.served.card) {
            self.write_sample(staging, places, padding, 0, 0, SampleRow::greedy());
        }
        let count = groups.groups.last().map_or(0, |group| (group.first + group.rows) as usize);
        staging.send::<i32>(places.indices, count);
        staging.send::<SampleRow>(places.draws, count);
        staging.send::<i32>(places.positions, count);
        lists.send(staging, self.served);
        (groups.groups, Asked::new(draws, scores))
    }

    fn write_scores(
        &self,
        staging: &mut Staging<'_>,
        places: &Places,
        row: &Row,
        score: Score,
        first_token: usize,
        groups: &mut Grouped,
    ) -> AskedScores {
        let later = self.batch.tokens_of(row)[1..].iter().filter_map(|token| match token {
            TokenSource::Known(token) => Some(*token),
            TokenSource::PreviousStep => None,
        });
        let (mut first, mut count) = (0, 0);
        for (after, given) in (0..).zip(later.chain(score.next)) {
            let place = groups.next(false);
            (first, count) = (if count == 0 { place as u32 } else { first }, count + 1);
            let logprobs = i32::from(score.alternatives);
            let sample = SampleRow { given: given as i32, logprobs, ..SampleRow::greedy() };
            self.write_sample(staging, places, place, first_token + after, row.start + after as u32, sample);
        }
        let (position, alternatives) = (row.start + 1, score.alternatives);
        AskedScores { sequence: row.sequence, first, count, position, alternatives }
    }

    /// `token` is the one whose logits it is about, at `position`.
    fn write_sample(
        &self,
        staging: &mut Staging<'_>,
        places: &Places,
        index: usize,
        token: usize,
        position: u32,
        sample: SampleRow,
    ) {
        staging.put(places.indices, index, token as i32);
        staging.put(places.positions, index, position as i32);
        staging.put(places.draws, index, sample);
    }

    fn sample_row(&self, staging: &mut Staging<'_>, lists: &mut Lists, draw: &Draw, slot: i32) -> SampleRow {
        let inputs = &self.served.memory.inputs;
        let (params, forbidden) = (&draw.params, draw.forbidden.as_deref().unwrap_or_default());
        let (bias_first, forbidden_first) = (lists.biases, lists.forbidden);
        for (token, bias) in &params.logit_bias {
            staging.put(inputs.bias_tokens, lists.biases, *token as i32);
            staging.put(inputs.bias_values, lists.biases, *bias);
            lists.biases += 1;
        }
        for token in forbidden {
            staging.put(inputs.forbidden, lists.forbidden, *token as i32);
            lists.forbidden += 1;
        }
        SampleRow {
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            top_k: i32::try_from(params.top_k).unwrap_or(i32::MAX),
            logprobs: params.logprobs.map_or(-1, i32::from),
            seed: params.seed,
            bias_first: bias_first as i32,
            bias_count: params.logit_bias.len() as i32,
            forbidden_first: forbidden_first as i32,
            forbidden_count: forbidden.len() as i32,
            slot,
            given: -1,
        }
    }

    fn send_tables<'r>(&self, staging: &mut Staging<'_>, rows: impl Iterator<Item = &'r Row> + Clone) {
        let memory = &self.served.memory;
        let (tables, stride) = (memory.inputs.tables, memory.rows.table_stride as usize);
        let (mut widest, mut count) = (0, 0);
        for (index, row) in rows.enumerate() {
            let used = (row.start + row.tokens).div_ceil(BLOCK_TOKENS) as usize;
            for (place, block) in self.batch.blocks_of(row)[..used].iter().enumerate() {
                staging.put(tables, index * stride + place, block.0 as i32);
            }
            (widest, count) = (used.max(widest), index + 1);
        }
        staging.send_rows(tables, 4 * widest, count, 4 * stride);
    }
}

impl Lists {
    fn send(&self, staging: &mut Staging<'_>, served: &Served) {
        let inputs = &served.memory.inputs;
        staging.send::<i32>(inputs.bias_tokens, self.biases);
        staging.send::<f32>(inputs.bias_values, self.biases);
        staging.send::<i32>(inputs.forbidden, self.forbidden);
    }
}

/// Hands out places for what is drawn or scored; a group begins where the one before it could have ended.
struct Grouped {
    /// Of a group.
    most: u32,
    groups: Vec<Group>,
    open: bool,
}

impl Grouped {
    fn new(most: u32) -> Self {
        Self { most, groups: Vec::new(), open: false }
    }

    fn next(&mut self, draws: bool) -> usize {
        let full = self.groups.last().is_none_or(|group| group.rows == self.most);
        if full || !self.open {
            let first = self.groups.len() as u32 * self.most;
            self.groups.push(Group { first, rows: 0, draws });
            self.open = true;
        }
        let Some(group) = self.groups.last_mut() else { return 0 };
        group.rows += 1;
        (group.first + group.rows - 1) as usize
    }

    /// What comes next is in a group of its own.
    fn close(&mut self) {
        self.open = false;
    }

    /// Makes the rows of all groups what is computed, and gives the places that this adds.
    fn padding(&mut self, card: &sluice_kernels::Card) -> Vec<usize> {
        let mut added = Vec::new();
        for group in &mut self.groups {
            let rows = padded_rows(card, WeightForm::Bf16, group.rows);
            added.extend((group.first + group.rows) as usize..(group.first + rows) as usize);
            group.rows = rows;
        }
        added
    }
}

/// Whether a row is one token of an answer: any other is a run.
fn decodes(row: &Row) -> bool {
    row.tokens == 1 && row.score.is_none()
}

fn asked(row: &Row, draw: &Draw, index: usize) -> AskedDraw {
    AskedDraw {
        sequence: row.sequence,
        index: index as u32,
        position: row.start + row.tokens,
        logprobs: draw.params.logprobs,
    }
}

/// Where a token's keys and values go.
fn slot(blocks: &[BlockId], position: u32) -> i32 {
    let block = blocks[(position / BLOCK_TOKENS) as usize];
    (block.0 * BLOCK_TOKENS + position % BLOCK_TOKENS) as i32
}

fn pad_token(staging: &mut Staging<'_>, places: &Places, index: usize) {
    staging.put(places.tokens, index, 0i32);
    staging.put(places.angle_rows, index, 0i32);
    staging.put(places.slots, index, NO_SLOT);
    staging.put(places.query_scale, index, 1.0f32);
}

fn send_tokens(staging: &mut Staging<'_>, places: &Places, rows: usize) {
    let arrays: [Region; 4] = [places.tokens, places.angle_rows, places.slots, places.query_scale];
    arrays.into_iter().for_each(|array| staging.send::<i32>(array, rows));
    staging.send::<u8>(places.lengths, places.lengths.bytes as usize);
    staging.send::<u8>(places.starts, places.starts.bytes as usize);
}
