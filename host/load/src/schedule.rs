//! What is to be sent when, before it is known what it says.

use std::time::Duration;

use crate::arrivals::{Arrivals, seconds};
use crate::lengths::Fit;
use crate::trace::TraceRow;

#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    Generated(Arrivals),
    Recorded(Replay),
}

/// A trace from some point on, at its own pace or another.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) rows: Vec<TraceRow>,
    /// What of the trace is passed over.
    pub(crate) start: Duration,
    /// 2 is twice as fast.
    pub(crate) time_scale: f64,
    pub(crate) fit: Fit,
}

/// One request to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counted from the start of the load. None is: as soon as there is room.
    pub(crate) at: Option<Duration>,
    pub(crate) recorded: Option<RecordedLengths>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedLengths {
    pub(crate) input: u32,
    pub(crate) output: u32,
}

impl Schedule {
    /// Without end where arrivals are generated.
    pub(crate) fn slots(&self, seed: u64) -> Box<dyn Iterator<Item = Slot> + Send + '_> {
        match self {
            Self::Generated(arrivals) => Box::new(arrivals.times(seed).map(|at| Slot { at, recorded: None })),
            Self::Recorded(replay) => Box::new(replay.slots()),
        }
    }

    pub(crate) fn is_closed_loop(&self) -> bool {
        matches!(self, Self::Generated(Arrivals::ClosedLoop))
    }
}

impl Replay {
    fn slots(&self) -> impl Iterator<Item = Slot> + Send {
        self.rows.iter().filter_map(|row| {
            let since = row.at.checked_sub(self.start)?;
            let recorded =
                RecordedLengths { input: self.fit.input(row.input_tokens), output: self.fit.output(row.output_tokens) };
            // As floats: a trace that is slowed down enough outlasts any clock.
            let at = seconds(since.as_secs_f64() / self.time_scale);
            Some(Slot { at: Some(at), recorded: Some(recorded) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seconds: u64, input_tokens: u32, output_tokens: u32) -> TraceRow {
        TraceRow { at: Duration::from_secs(seconds), input_tokens, output_tokens }
    }

    #[test]
    fn a_replay_begins_at_its_start_and_keeps_its_pace() {
        let replay = Replay {
            rows: vec![row(0, 10, 1), row(10, 20, 2), row(13, 30, 3)],
            start: Duration::from_secs(9),
            time_scale: 2.0,
            fit: Fit { scale: 1.0, max_input: Some(25), max_output: None },
        };
        let slots: Vec<_> = Schedule::Recorded(replay).slots(0).collect();
        let slot = |millis, input, output| Slot {
            at: Some(Duration::from_millis(millis)),
            recorded: Some(RecordedLengths { input, output }),
        };
        assert_eq!(slots, [slot(500, 20, 2), slot(2000, 25, 3)]);
    }

    #[test]
    fn no_time_scale_is_too_much() {
        for time_scale in [1e-18, f64::MIN_POSITIVE, f64::MAX] {
            let replay = Replay {
                rows: vec![row(0, 1, 1), row(10, 1, 1)],
                start: Duration::ZERO,
                time_scale,
                fit: Fit { scale: 1.0, max_input: None, max_output: None },
            };
            let times: Vec<_> = Schedule::Recorded(replay).slots(0).map(|slot| slot.at).collect();
            assert_eq!(times, [Some(Duration::ZERO), Some(seconds(10.0 / time_scale))]);
        }
    }
}
