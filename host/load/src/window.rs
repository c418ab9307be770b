//! The time that figures are of, and what was in flight or came in within it.

use std::iter;
use std::time::Duration;

use crate::record::Record;

/// Both ends since the load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Window {
    pub(crate) fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    /// The most requests in flight at any moment. One that ends when another is sent was not beside it.
    pub(crate) fn peak(self, records: &[Record]) -> u64 {
        let mut changes: Vec<(Duration, i64)> =
            self.in_flight(records).flat_map(|(sent, ended)| [(sent, 1), (ended, -1)]).collect();
        changes.sort_unstable();
        let now = changes.iter().scan(0, |now, (_, change)| {
            *now += change;
            Some(*now)
        });
        now.max().unwrap_or(0).unsigned_abs()
    }

    /// Requests in flight, by the area under them.
    pub(crate) fn mean(self, records: &[Record]) -> f64 {
        self.rate(self.in_flight(records).map(|(sent, ended)| (ended - sent).as_secs_f64()).sum())
    }

    /// Tokens of prompts that were done within it, a second.
    pub(crate) fn input_throughput(self, records: &[Record]) -> f64 {
        let done = |record: &&Record| self.holds(record.answer.first_output.unwrap_or(record.ended()));
        let began = |record: &&Record| record.succeeded() || record.answer.first_output.is_some();
        let came = worked_on(records).filter(began).filter(done);
        self.rate(came.map(|record| record.input_tokens() as f64).sum())
    }

    /// Tokens that came in within it, a second. Each chunk of an answer has its share of the answer's tokens.
    pub(crate) fn output_throughput(self, records: &[Record]) -> f64 {
        self.rate(worked_on(records).map(|record| record.output_tokens() as f64 * self.share(record)).sum())
    }

    /// Of an answer's chunks, those that came within it. An answer in one piece came at its end.
    fn share(self, record: &Record) -> f64 {
        let answer = &record.answer;
        let first = answer.first_output.unwrap_or(answer.ended);
        let later = answer.gaps.iter().scan(first, |now, gap| {
            *now += *gap;
            Some(*now)
        });
        let within = iter::once(first).chain(later).filter(|at| self.holds(*at)).count();
        within as f64 / (answer.gaps.len() + 1) as f64
    }

    /// When each was in flight, as far as it was within.
    fn in_flight(self, records: &[Record]) -> impl Iterator<Item = (Duration, Duration)> {
        let within = move |record: &Record| (record.sent.max(self.from), record.ended().min(self.to));
        records.iter().map(within).filter(|(sent, ended)| sent < ended)
    }

    fn holds(self, at: Duration) -> bool {
        (self.from..=self.to).contains(&at)
    }

    fn rate(self, amount: f64) -> f64 {
        if self.length().is_zero() { 0.0 } else { amount / self.length().as_secs_f64() }
    }
}

/// What failed gave nobody anything; what was cut short was on its way.
fn worked_on(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|record| record.succeeded() || record.is_cut_short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;
    use crate::failure::Failure;
    use crate::record::Asked;

    /// In milliseconds. Its prompt is of ten tokens, and its answer of one for each chunk.
    fn record(sent: u64, chunks: &[u64], ended: u64, failure: Option<Failure>) -> Record {
        let at = Duration::from_millis;
        let mut answer = Answer::default();
        answer.first_output = chunks.first().copied().map(at);
        answer.gaps = chunks.windows(2).map(|two| at(two[1] - two[0])).collect();
        answer.chunks = chunks.len() as u32;
        answer.ended = at(ended);
        answer.failure = failure;
        let asked = Asked { input_tokens: Some(10), exact_input_tokens: None, output_tokens: None };
        Record { index: 0, asked, planned: at(sent), held: Duration::ZERO, sent: at(sent), answer }
    }

    #[test]
    fn only_what_was_within_counts() {
        let window = Window { from: Duration::from_secs(1), to: Duration::from_secs(3) };
        let records = [
            // Two that were over before, and of no peak.
            record(0, &[100, 900], 950, None),
            record(0, &[100, 900], 1000, None),
            // Half of it before, with its first token.
            record(500, &[900, 1200], 1500, None),
            record(1500, &[2000, 2500], 2500, None),
            // Not over at the end, once on its way and once stuck.
            record(2000, &[2200], 3000, Some(Failure::CutShort)),
            record(2500, &[], 3000, Some(Failure::CutShort)),
            // Failed, but in flight.
            record(2500, &[2600], 3500, Some(Failure::Truncated)),
        ];
        assert_eq!(window.peak(&records), 3);
        assert_eq!(window.mean(&records), (0.5 + 1.0 + 1.0 + 0.5 + 0.5) / 2.0);
        assert_eq!(window.output_throughput(&records), (1.0 + 2.0 + 1.0) / 2.0);
        assert_eq!(window.input_throughput(&records), (10.0 + 10.0) / 2.0);
    }

    #[test]
    fn no_time_has_no_rate() {
        let window = Window { from: Duration::from_secs(1), to: Duration::from_secs(1) };
        let records = [record(500, &[1000], 1500, None)];
        assert_eq!((window.peak(&records), window.mean(&records), window.output_throughput(&records)), (0, 0.0, 0.0));
    }
}
