//! The flight recorder: a bounded ring of everything that reached a policy and what came of it.
//!
//! A ring starts at a checkpoint, so that what follows can be replayed; the oldest go when it is full. The layout of
//! a file is `MAGIC`, the host's versions, then the entries, each behind its length.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_core::{CallCost, Digest, Events, Nanos, PolicyFault, RevisionId, State};

use crate::codec::{Codec, DecodeError, Reader};
use crate::decide::Decide;

pub const MAGIC: &[u8; 8] = b"SLUICE01";

/// What the host was when it recorded. Fuel and traps are comparable only between equal versions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostVersions {
    pub host: String,
    pub wasmtime: String,
    pub interface: String,
}

/// One thing that reached a policy, or that came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    /// A fresh instance of this revision takes over, with this state if it has any.
    Started {
        now: Nanos,
        revision: RevisionRecord,
        state: Option<State>,
    },
    /// The instance in force exported this state.
    Checkpoint {
        now: Nanos,
        revision: RevisionRecord,
        state: State,
    },
    Observed(Events),
    Decided(DecisionRecord),
    /// The policy faulted outside a decision.
    Faulted {
        now: Nanos,
        fault: PolicyFault,
    },
}

impl Entry {
    /// The revision that a replay can start here.
    pub fn revision(&self) -> Option<&RevisionRecord> {
        match self {
            Self::Started { revision, .. } | Self::Checkpoint { revision, .. } => Some(revision),
            Self::Observed(_) | Self::Decided(_) | Self::Faulted { .. } => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevisionRecord {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub config: String,
}

/// A decision with its view, both encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecisionRecord {
    pub tag: u8,
    pub view: Vec<u8>,
    pub outcome: Outcome,
    pub nanos: Nanos,
    pub fuel: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Decision(Vec<u8>),
    /// A deadline is wall clock, so what came of it is an input to a replay.
    Fault(PolicyFault),
}

/// One per seat.
pub struct Recorder {
    entries: VecDeque<Arc<[u8]>>,
    bytes: usize,
    limit: usize,
    dropped: u64,
    /// Bytes since an entry that a replay can start from.
    unanchored: usize,
    /// What is encoded now.
    scratch: Vec<u8>,
}

/// What a recorder holds at one boundary. Shares the entries, so that the thread that steps copies none of them.
#[derive(Clone, Debug)]
pub struct Ring {
    dropped: u64,
    entries: Vec<Arc<[u8]>>,
}

impl Recorder {
    /// Keeps at most `limit` bytes; 0 records nothing.
    pub fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, limit, dropped: 0, unanchored: 0, scratch: Vec::new() }
    }

    pub fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Whether the ring needs a checkpoint: without a few in it, dropping the oldest would leave nothing to start from.
    pub fn wants_checkpoint(&self) -> bool {
        self.is_on() && self.unanchored > self.limit / CHECKPOINTS
    }

    pub fn started(&mut self, now: Nanos, revision: &RevisionId, state: Option<&State>) {
        self.push(|out| {
            u8::encode(&STARTED, out);
            now.encode(out);
            encode_revision(revision, out);
            state.cloned().encode(out);
        });
    }

    pub fn checkpoint(&mut self, now: Nanos, revision: &RevisionId, state: &State) {
        self.push(|out| {
            u8::encode(&CHECKPOINT, out);
            now.encode(out);
            encode_revision(revision, out);
            state.encode(out);
        });
    }

    pub fn observed(&mut self, events: &Events) {
        self.push(|out| {
            u8::encode(&OBSERVED, out);
            events.encode(out);
        });
    }

    pub fn decided<D: Decide>(&mut self, view: &D::View, outcome: Result<&D::Decision, &PolicyFault>, cost: CallCost) {
        self.push(|out| {
            u8::encode(&DECIDED, out);
            D::TAG.encode(out);
            encode_sized(out, |out| view.encode(out));
            outcome.is_ok().encode(out);
            match outcome {
                Ok(decision) => encode_sized(out, |out| decision.encode(out)),
                Err(fault) => fault.encode(out),
            }
            cost.nanos.encode(out);
            cost.fuel.encode(out);
        });
    }

    pub fn faulted(&mut self, now: Nanos, fault: &PolicyFault) {
        self.push(|out| {
            u8::encode(&FAULTED, out);
            now.encode(out);
            fault.encode(out);
        });
    }

    pub fn ring(&self) -> Ring {
        Ring { dropped: self.dropped, entries: self.entries.iter().cloned().collect() }
    }

    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_on() {
            return;
        }
        self.scratch.clear();
        write(&mut self.scratch);
        if is_start(&self.scratch) {
            self.unanchored = 0;
        } else if self.entries.is_empty() {
            // Nothing could be replayed from here.
            self.dropped += 1;
            return;
        } else {
            self.unanchored += self.scratch.len();
        }
        self.bytes += self.scratch.len();
        self.entries.push_back(Arc::from(self.scratch.as_slice()));
        self.trim();
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    /// Drops the oldest entries until the ring fits and starts at a state that a replay can start from.
    fn trim(&mut self) {
        while self.bytes > self.limit && self.entries.len() > 1 {
            self.pop();
            while self.entries.front().is_some_and(|entry| !is_start(entry)) {
                self.pop();
            }
        }
    }
}

impl Ring {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The ring as a file.
    pub fn to_bytes(&self, versions: &HostVersions) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        versions.host.encode(&mut out);
        versions.wasmtime.encode(&mut out);
        versions.interface.encode(&mut out);
        self.dropped.encode(&mut out);
        out.reserve(self.entries.iter().map(|entry| 4 + entry.len()).sum());
        for entry in &self.entries {
            encode_sized(&mut out, |out| out.extend_from_slice(entry));
        }
        out
    }
}

/// A recording that was read back.
#[derive(Clone, PartialEq, Debug)]
pub struct Recording {
    pub versions: HostVersions,
    /// Entries that the ring dropped before the first one here.
    pub dropped: u64,
    pub entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("not a recording of this host: it does not begin with SLUICE01")]
    Foreign,
    #[error("entry {index}: {source}")]
    Entry { index: usize, source: DecodeError },
    #[error("the head of the recording: {0}")]
    Head(DecodeError),
}

impl Recording {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordingError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(RecordingError::Foreign)?;
        let mut input = Reader::new(body);
        let (versions, dropped) = decode_head(&mut input).map_err(RecordingError::Head)?;
        let mut entries = Vec::new();
        while !input.is_empty() {
            let index = entries.len();
            let entry = decode_entry(&mut input).map_err(|source| RecordingError::Entry { index, source })?;
            entries.push(entry);
        }
        Ok(Self { versions, dropped, entries })
    }

    /// Who decided, the oldest first, again wherever a replay can start.
    pub fn revisions(&self) -> impl DoubleEndedIterator<Item = &RevisionRecord> {
        self.entries.iter().filter_map(Entry::revision)
    }
}

/// So many checkpoints are in a full ring, about.
const CHECKPOINTS: usize = 4;

const STARTED: u8 = 1;
const CHECKPOINT: u8 = 2;
const OBSERVED: u8 = 3;
const DECIDED: u8 = 4;
const FAULTED: u8 = 5;

fn is_start(entry: &[u8]) -> bool {
    matches!(entry.first(), Some(&(STARTED | CHECKPOINT)))
}

fn encode_sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - at - 4).expect("an entry is far smaller than 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn encode_revision(revision: &RevisionId, out: &mut Vec<u8>) {
    revision.name.encode(out);
    revision.version.encode(out);
    revision.digest.encode(out);
    revision.config.encode(out);
}

fn decode_head(input: &mut Reader<'_>) -> Result<(HostVersions, u64), DecodeError> {
    let versions = HostVersions {
        host: String::decode(input)?,
        wasmtime: String::decode(input)?,
        interface: String::decode(input)?,
    };
    Ok((versions, u64::decode(input)?))
}

fn decode_sized<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = u32::decode(input)? as usize;
    input.take(length)
}

fn decode_entry(input: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let mut input = Reader::new(decode_sized(input)?);
    let input = &mut input;
    match u8::decode(input)? {
        STARTED => Ok(Entry::Started {
            now: Codec::decode(input)?,
            revision: decode_revision(input)?,
            state: Codec::decode(input)?,
        }),
        CHECKPOINT => Ok(Entry::Checkpoint {
            now: Codec::decode(input)?,
            revision: decode_revision(input)?,
            state: Codec::decode(input)?,
        }),
        OBSERVED => Ok(Entry::Observed(Codec::decode(input)?)),
        DECIDED => decode_decision(input).map(Entry::Decided),
        FAULTED => Ok(Entry::Faulted { now: Codec::decode(input)?, fault: Codec::decode(input)? }),
        other => Err(DecodeError::Unknown { what: "an entry", value: other.into() }),
    }
}

fn decode_revision(input: &mut Reader<'_>) -> Result<RevisionRecord, DecodeError> {
    Ok(RevisionRecord {
        name: Codec::decode(input)?,
        version: Codec::decode(input)?,
        digest: Codec::decode(input)?,
        config: Codec::decode(input)?,
    })
}

fn decode_decision(input: &mut Reader<'_>) -> Result<DecisionRecord, DecodeError> {
    let tag = u8::decode(input)?;
    let view = decode_sized(input)?.to_vec();
    let outcome = match bool::decode(input)? {
        true => Outcome::Decision(decode_sized(input)?.to_vec()),
        false => Outcome::Fault(Codec::decode(input)?),
    };
    Ok(DecisionRecord { tag, view, outcome, nanos: Codec::decode(input)?, fuel: Codec::decode(input)? })
}
