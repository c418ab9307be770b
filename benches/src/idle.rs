//! An executor that computes nothing: every row draws the same token at once, so what is left is the host's own time.

use std::collections::VecDeque;

use sluice_core::{Batch, Executor, ExecutorError, Nanos, Sampled, SampledToken, StepOutput, StepTimes, Ticket};

/// The token it always draws.
pub const TOKEN: u32 = 300;

#[derive(Default)]
pub struct IdleExecutor {
    done: VecDeque<(Ticket, StepOutput)>,
    tickets: u64,
}

impl Executor for IdleExecutor {
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        let sampling = batch.rows.iter().filter(|row| row.sample.is_some());
        let sampled = sampling.map(|row| (row.sequence, Sampled::Token(SampledToken::plain(TOKEN)))).collect();
        self.tickets += 1;
        let times = StepTimes { submitted: now, finished: now, device: 0 };
        self.done.push_back((Ticket(self.tickets), StepOutput { sampled, times }));
        Ok(Ticket(self.tickets))
    }

    fn collect(&mut self, _: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        Ok(self.done.pop_front())
    }
}
