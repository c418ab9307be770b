//! The pool's side of a replica: what it has counted itself, and what the replica last reported.

use std::collections::HashSet;

use sluice_core::view::replica_state;
use sluice_core::{BlockHash, RequestId};

use crate::blocks::PrefixChange;
use crate::link::{Admitted, ReplicaPort, Report};

pub(crate) struct Replica {
    pub(crate) port: ReplicaPort,
    pub(crate) report: Report,
    pub(crate) state: u8,
    pub(crate) in_flight: u32,
    pub(crate) in_flight_tokens: u64,
    pub(crate) prefixes: HashSet<BlockHash>,
    /// A request that was with a replica when it was lost: it is served alone, so that it takes nobody along.
    pub(crate) suspect: Option<RequestId>,
}

impl Replica {
    pub(crate) fn new(port: ReplicaPort) -> Self {
        let report = port.report();
        Self {
            port,
            report,
            state: replica_state::READY,
            in_flight: 0,
            in_flight_tokens: 0,
            prefixes: HashSet::new(),
            suspect: None,
        }
    }

    /// Room to start soon: its limit in force and a small look-ahead.
    pub(crate) fn has_room(&self, look_ahead: u32) -> bool {
        let limit = self.report.max_running.saturating_add(look_ahead);
        self.state == replica_state::READY && self.suspect.is_none() && self.in_flight < limit
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state == replica_state::READY && self.in_flight == 0
    }

    /// Whether this request can go there now.
    pub(crate) fn is_open_to(&self, admitted: &Admitted, look_ahead: u32) -> bool {
        self.has_room(look_ahead) && (!admitted.is_suspect() || self.is_idle())
    }

    pub(crate) fn cached_prefix_tokens(&self, hashes: &[BlockHash]) -> u32 {
        let blocks = hashes.iter().take_while(|hash| self.prefixes.contains(hash)).count();
        u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(self.report.block_tokens)
    }

    pub(crate) fn prefix_changed(&mut self, change: PrefixChange) {
        match change {
            PrefixChange::Cached(hash) => self.prefixes.insert(hash),
            PrefixChange::Evicted(hash) => self.prefixes.remove(&hash),
        };
    }
}
