//! An executor that computes nothing: every row draws the same token, so what is left is the host's own time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_core::{Batch, Executor, ExecutorError, Nanos, Sampled, SampledToken, StepOutput, StepTimes, Ticket};

/// The token it always draws.
pub const TOKEN: u32 = 300;

/// Finishes steps at once, or no more often than once an interval, as a device would.
#[derive(Default)]
pub struct IdleExecutor {
    done: VecDeque<(Ticket, StepOutput)>,
    tickets: u64,
    pace: Option<Pace>,
}

struct Pace {
    interval: Duration,
    due: Instant,
    /// When the host was given the last step's results.
    handed: Option<Instant>,
    times: Arc<HostTimes>,
}

/// The host's own time of each step, from the results of one to the submission of the next, by rows in the batch.
#[derive(Default)]
pub struct HostTimes(Mutex<Vec<(usize, Duration)>>);

impl HostTimes {
    /// Of the steps with so many rows, sorted.
    pub fn of(&self, rows: usize) -> Vec<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut times: Vec<Duration> = all.iter().filter(|(count, _)| *count == rows).map(|(_, time)| *time).collect();
        times.sort_unstable();
        times
    }
}

impl IdleExecutor {
    pub fn paced(interval: Duration, times: Arc<HostTimes>) -> Self {
        Self { pace: Some(Pace { interval, due: Instant::now(), handed: None, times }), ..Self::default() }
    }
}

impl Executor for IdleExecutor {
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        if let Some(pace) = &mut self.pace {
            if let Some(handed) = pace.handed.take() {
                pace.times.0.lock().unwrap_or_else(PoisonError::into_inner).push((batch.rows.len(), handed.elapsed()));
            }
            pace.due = (pace.due + pace.interval).max(Instant::now());
        }
        let sampling = batch.rows.iter().filter(|row| row.draw.is_some());
        let sampled = sampling.map(|row| (row.sequence, Sampled::Token(SampledToken::plain(TOKEN)))).collect();
        self.tickets += 1;
        let times = StepTimes { submitted: now, finished: now, ..StepTimes::default() };
        self.done.push_back((Ticket(self.tickets), StepOutput { sampled, times, ..StepOutput::default() }));
        Ok(Ticket(self.tickets))
    }

    fn collect(&mut self, _: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        Ok(self.done.pop_front())
    }

    fn wait(&mut self) -> Result<(), ExecutorError> {
        if let Some(pace) = &mut self.pace {
            std::thread::sleep(pace.due.saturating_duration_since(Instant::now()));
            pace.handed = Some(Instant::now());
        }
        Ok(())
    }
}
