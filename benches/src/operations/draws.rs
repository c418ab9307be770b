//! Draws are compared row by row: what a row was not asked for may be anything.

use sluice_kernels::op::Sample;
use sluice_kernels::sampling::{DRAWN, SampleResult, SampleRow, TOP};
use sluice_kernels::{Address, Region};

use super::view::element;

/// Below it a temperature takes the most likely token.
const GREEDY: f32 = 1e-5;

/// A draw by chance falls on the edge between two tokens' shares once in a long while; where sums that were added up in
/// another order put that edge is nobody's fault. More than one in so many draws is.
const DRAWS_PER_EDGE: usize = 100;

/// Of log-probabilities, which are rounded to f32 once.
const LOGPROB: f32 = 2e-5;

pub(crate) fn written(op: &Sample) -> Vec<Region> {
    let rows = u64::from(op.rows);
    let region = |at: Address, bytes: u64| Region { at, bytes: rows * bytes };
    let alternatives = 4 * TOP as u64;
    // A slot for each row at most.
    let counts = region(op.counts, 4 * u64::from(op.vocab));
    vec![
        region(op.drawn, 4),
        region(op.results, size_of::<SampleResult>() as u64),
        region(op.top_tokens, alternatives),
        region(op.top_logprobs, alternatives),
        counts,
    ]
}

/// What one device made of a row.
struct Row<'a> {
    memory: &'a [u8],
    op: &'a Sample,
    row: usize,
}

/// Gives the share of draws that differ.
pub(crate) fn hold(op: &Sample, before: &[u8], found: &[u8], expected: &[u8]) -> Result<f64, String> {
    let (mut edges, mut by_chance) = (0, 0);
    for row in 0..op.rows as usize {
        let draw: SampleRow = element(before, op.draws, row);
        let [found, expected] = [found, expected].map(|memory| Row { memory, op, row });
        let same = found.agrees(&expected, &draw, before).map_err(|wrong| format!("row {row}: {wrong}: {draw:?}"))?;
        by_chance += usize::from(draw.temperature >= GREEDY && draw.given < 0);
        edges += usize::from(!same);
    }
    counts_agree(op, before, found)?;
    if edges > by_chance.div_ceil(DRAWS_PER_EDGE) {
        return Err(format!("{edges} of {by_chance} draws are of another token"));
    }
    Ok(edges as f64 / by_chance.max(1) as f64)
}

/// What was drawn was counted, once and where it should be, and nothing else.
fn counts_agree(op: &Sample, before: &[u8], found: &[u8]) -> Result<(), String> {
    let vocab = op.vocab as usize;
    let count = |memory, place| element::<u32>(memory, op.counts, place);
    let mut expected: Vec<u32> = (0..op.rows as usize * vocab).map(|place| count(before, place)).collect();
    for row in 0..op.rows as usize {
        let draw: SampleRow = element(before, op.draws, row);
        let result: SampleResult = element(found, op.results, row);
        if let (Ok(slot), Ok(token)) = (usize::try_from(draw.slot), usize::try_from(result.token))
            && draw.given < 0
            && result.status == DRAWN
        {
            expected[slot * vocab + token] += 1;
        }
    }
    for (place, expected) in expected.into_iter().enumerate() {
        let found = count(found, place);
        if found != expected {
            let (slot, token) = (place / vocab, place % vocab);
            return Err(format!("token {token} is counted {found:#x} in slot {slot}, expected {expected:#x}"));
        }
    }
    Ok(())
}

impl Row<'_> {
    /// Whether the tokens are the same; if not, that may be chance.
    fn agrees(&self, expected: &Self, draw: &SampleRow, before: &[u8]) -> Result<bool, String> {
        let (found, wanted) = (self.result(), expected.result());
        if found.status != wanted.status {
            return Err(format!("status {}, expected {}", found.status, wanted.status));
        }
        let same = found.token == wanted.token;
        let by_chance = draw.temperature >= GREEDY && draw.given < 0 && found.status == DRAWN;
        if !same && !by_chance {
            return Err(format!("token {}, expected {}", found.token, wanted.token));
        }
        self.agrees_with_itself(found, before)?;
        if found.status == DRAWN && (draw.given >= 0 || draw.logprobs >= 0) {
            if same {
                close("its log-probability", found.logprob, wanted.logprob)?;
            }
            self.alternatives_agree(expected, draw)?;
        }
        Ok(same)
    }

    /// Its token is where the next step finds it.
    fn agrees_with_itself(&self, found: SampleResult, before: &[u8]) -> Result<(), String> {
        let drawn = found.status == DRAWN;
        let token: i32 = element(self.memory, self.op.drawn, self.row);
        let expected = if drawn { found.token } else { element(before, self.op.drawn, self.row) };
        if token != expected {
            return Err(format!("token {token} for the next step, expected {expected}"));
        }
        Ok(())
    }

    fn alternatives_agree(&self, expected: &Self, draw: &SampleRow) -> Result<(), String> {
        for place in 0..(draw.logprobs.max(0) as usize).min(TOP) {
            let ((found, by), (wanted, expected)) = (self.alternative(place), expected.alternative(place));
            if found != wanted {
                return Err(format!("token {found} in place {place}, expected {wanted}"));
            }
            close("an alternative's log-probability", by, expected)?;
        }
        Ok(())
    }

    fn result(&self) -> SampleResult {
        element(self.memory, self.op.results, self.row)
    }

    fn alternative(&self, place: usize) -> (i32, f32) {
        let index = self.row * TOP + place;
        (element(self.memory, self.op.top_tokens, index), element(self.memory, self.op.top_logprobs, index))
    }
}

fn close(what: &str, found: f32, expected: f32) -> Result<(), String> {
    let near = (found - expected).abs() <= LOGPROB * expected.abs().max(1.0);
    if near || found == expected { Ok(()) } else { Err(format!("{what} is {found}, expected {expected}")) }
}
