//! All requests of a run, each made when it is asked for: the same seed makes the same ones.

use std::time::Duration;

use bytes::Bytes;

use crate::body::BodyTemplate;
use crate::lengths::Spread;
use crate::prompt::{Maker, Prompt};
use crate::prompt_file::FilePrompt;
use crate::record::Asked;
use crate::schedule::{Schedule, Slot};
use crate::seed::Stream;

/// Ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct PlannedRequest {
    pub(crate) index: u64,
    /// Counted from the start of the load. None is: as soon as there is room.
    pub(crate) at: Option<Duration>,
    pub(crate) body: Bytes,
    pub(crate) asked: Asked,
}

#[derive(Clone, Debug)]
pub(crate) enum Prompts {
    Made {
        maker: Maker,
        input: Spread,
    },
    /// In the file's order, and again from its beginning.
    Read(Vec<FilePrompt>),
}

#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) seed: u64,
    pub(crate) schedule: Schedule,
    pub(crate) prompts: Prompts,
    /// Where neither a trace nor a file says how long an answer is.
    pub(crate) output: Spread,
    pub(crate) template: BodyTemplate,
    /// How many requests there are at most, and until when.
    pub(crate) count: Option<u64>,
    pub(crate) duration: Option<Duration>,
}

impl Workload {
    pub(crate) fn requests(&self) -> impl Iterator<Item = PlannedRequest> + Send {
        let within = |slot: &Slot| slot.at.is_none_or(|at| self.duration.is_none_or(|end| at < end));
        let slots = self.schedule.slots(self.seed).take_while(within);
        let indices = 0..self.count.unwrap_or(u64::MAX);
        indices.zip(slots).map(|(index, slot)| self.request(index, slot, Stream::Request(index)))
    }

    /// Requests of the same kind. Of a file they take other prompts than the first, whose prefixes a cache would keep.
    pub(crate) fn warm_up(&self, count: u64) -> impl Iterator<Item = PlannedRequest> + Send {
        let slots = self.schedule.slots(self.seed).map(|slot| Slot { at: None, ..slot });
        (0..count).zip(slots).map(|(index, slot)| self.request(u64::MAX - index, slot, Stream::WarmUp(index)))
    }

    /// So many as can be known ahead.
    pub(crate) fn expected(&self) -> Option<u64> {
        if self.schedule.is_closed_loop() && self.duration.is_some() {
            return None;
        }
        let within = |slot: &Slot| slot.at.is_none_or(|at| self.duration.is_none_or(|end| at < end));
        match (self.count, self.duration, &self.schedule) {
            (count, None, Schedule::Generated(_)) => count,
            (count, ..) => {
                let most = count.unwrap_or(u64::MAX).min(MAX_COUNTED_AHEAD);
                let slots = self.schedule.slots(self.seed).take_while(within).take(most as usize).count() as u64;
                (slots < MAX_COUNTED_AHEAD).then_some(slots)
            }
        }
    }

    /// The duration, where it ended the sending after so many requests, and neither their number nor a trace's end did.
    pub(crate) fn ended_by_time(&self, sent: u64) -> Option<Duration> {
        let slot_after = self.schedule.slots(self.seed).nth(sent as usize)?;
        let may_be_more = self.count.is_none_or(|count| sent < count);
        self.duration.filter(|end| may_be_more && slot_after.at.is_some_and(|at| at >= *end))
    }

    fn request(&self, index: u64, slot: Slot, stream: Stream) -> PlannedRequest {
        let mut random = stream.of(self.seed);
        let output = self.output.draw(&mut random);
        let (prompt, input_tokens, output) = match &self.prompts {
            Prompts::Made { maker, input } => {
                let own = input.draw(&mut random);
                let own = slot.recorded.map_or(own, |recorded| recorded.input);
                let output = slot.recorded.map_or(output, |recorded| recorded.output);
                (maker.make(own, &mut random), Some(maker.length(own)), output)
            }
            Prompts::Read(prompts) => {
                let read = &prompts[(index % prompts.len() as u64) as usize];
                let recorded = slot.recorded.map(|recorded| recorded.output);
                (read.prompt.clone(), None, read.output_tokens.or(recorded).unwrap_or(output))
            }
        };
        let ids = match &prompt {
            Prompt::Ids(ids) => Some(ids.len() as u32),
            Prompt::Text(_) | Prompt::Messages(_) => None,
        };
        let asked = Asked {
            input_tokens: input_tokens.or(ids),
            exact_input_tokens: ids.filter(|_| self.template.sends_prompt_as_it_is()),
            output_tokens: Some(output).filter(|_| self.template.bounds_answer()),
        };
        PlannedRequest { index, at: slot.at, body: self.template.bytes(prompt, output).into(), asked }
    }
}

/// Beyond it a progress bar shows no end.
const MAX_COUNTED_AHEAD: u64 = 1_000_000;
