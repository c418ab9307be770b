//! The blocks that those who run will hold at the worst moment to come.
//!
//! Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees" (ASPLOS 2025): the sum of final lengths
//! is never needed at once, because who ends early gives its blocks back before who ends late has grown. The most is
//! held just before some sequence ends; at that moment those that end earlier are gone, and those that stay have
//! grown by as many tokens as it had left.

/// What a sequence holds alone once its prompt is computed, and how much longer it goes on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Future {
    /// Tokens whose blocks no other sequence holds.
    pub(crate) tokens: f64,
    pub(crate) remaining: u32,
}

/// Sequences, the one that goes on longest first.
pub(crate) struct Memory {
    futures: Vec<Future>,
    block_tokens: f64,
    /// Blocks that several sequences share.
    shared: f64,
}

impl Memory {
    pub(crate) fn new(mut futures: Vec<Future>, block_tokens: u32, shared: f64) -> Self {
        futures.sort_unstable_by_key(|future| std::cmp::Reverse(future.remaining));
        Self { futures, block_tokens: f64::from(block_tokens.max(1)), shared }
    }

    /// Blocks at the worst moment to come. The last block of a sequence counts whole, however little is in it.
    pub(crate) fn peak(&self) -> f64 {
        let (mut tokens, mut sequences, mut peak) = (0.0, 0.0, 0.0_f64);
        for future in &self.futures {
            tokens += future.tokens;
            sequences += 1.0;
            let grown = tokens + sequences * f64::from(future.remaining);
            peak = peak.max(grown / self.block_tokens + sequences);
        }
        self.shared + peak
    }

    /// Takes one more in if the peak then stays within so many blocks.
    pub(crate) fn admit(&mut self, future: Future, blocks: f64) -> bool {
        let place = self.futures.partition_point(|other| other.remaining > future.remaining);
        self.futures.insert(place, future);
        let fits = self.peak() <= blocks;
        if !fits {
            self.futures.remove(place);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(futures: &[(u32, u32)]) -> Memory {
        let future = |&(tokens, remaining): &(u32, u32)| Future { tokens: tokens.into(), remaining };
        Memory::new(futures.iter().map(future).collect(), 10, 0.0)
    }

    /// The peak by running every token of the future.
    fn simulated(futures: &[(u32, u32)]) -> f64 {
        let held = |at: u32| -> f64 {
            let running = futures.iter().filter(|(_, remaining)| *remaining >= at);
            running.map(|(tokens, _)| f64::from(tokens + at) / 10.0 + 1.0).sum()
        };
        (0..=1000).map(held).fold(0.0, f64::max)
    }

    #[test]
    fn the_peak_is_that_of_the_future_run_token_by_token() {
        for futures in [
            vec![],
            vec![(100, 50)],
            vec![(100, 10), (100, 500)],
            vec![(1000, 5), (10, 900), (50, 300), (50, 300), (700, 1)],
        ] {
            let difference = memory(&futures).peak() - simulated(&futures);
            assert!(difference.abs() < 1e-9, "{futures:?}: {difference}");
        }
    }

    #[test]
    fn who_ends_early_makes_room_for_who_ends_late() {
        assert!(memory(&[(100, 1), (100, 100)]).peak() < 23.0);
        assert!(memory(&[(100, 100), (100, 100)]).peak() > 41.0);
    }

    #[test]
    fn one_more_is_taken_in_while_the_peak_fits_and_changes_nothing_where_it_does_not() {
        let mut memory = memory(&[(100, 100)]);
        let future = Future { tokens: 100.0, remaining: 50 };
        assert!(!memory.admit(future, 31.9));
        assert_eq!(memory.peak(), 21.0);
        assert!(memory.admit(future, 32.0));
        assert_eq!(memory.futures.len(), 2);
        assert!(memory.futures[0].remaining > memory.futures[1].remaining);
    }

    #[test]
    fn shared_blocks_count_once() {
        let memory = Memory::new(vec![Future { tokens: 10.0, remaining: 10 }], 10, 7.0);
        assert_eq!(memory.peak(), 10.0);
    }
}
