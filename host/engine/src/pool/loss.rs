//! What becomes of a lost replica's requests: those that sent nothing are served again, the others fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_core::view::replica_state;
use sluice_core::{EngineEvent, Failure, FailureKind, FinishReason, Nanos, ReplicaId, Request, RequestId};

use super::{Pool, replica_id};
use crate::link::Admitted;

impl Pool {
    /// What a lost replica held goes back into the queue if it has sent nothing yet, and fails otherwise.
    pub(super) fn lose(&mut self, index: usize, now: Nanos) {
        let id = replica_id(index);
        self.replicas[index].state = replica_state::LOST;
        self.replicas[index].prefixes.clear();
        self.replicas[index].suspect = None;
        let mut there: Vec<RequestId> =
            self.in_flight.iter().filter(|(_, in_flight)| in_flight.replica == index).map(|(&id, _)| id).collect();
        there.sort_unstable();
        let (mut requeued, mut failed) = (0, 0);
        for request in there {
            let Some(in_flight) = self.take_in_flight(request) else { continue };
            self.flows.ended(in_flight.admitted.request.tenant.0, 0);
            match self.offer_again(&in_flight.admitted, id, now) {
                Ok(()) => requeued += 1,
                Err(failure) => {
                    self.end_unserved(&in_flight.admitted, id, FinishReason::Failed, Some(failure), now);
                    failed += 1;
                }
            }
        }
        self.observer.observe(&EngineEvent::ReplicaLost { replica: id, requeued, failed });
        self.report_queue();
    }

    fn offer_again(&mut self, admitted: &Admitted, lost: ReplicaId, now: Nanos) -> Result<(), Failure> {
        // Whoever had not run yet has nothing to do with the loss.
        let ran = admitted.scheduled.load(Ordering::Acquire);
        let attempt = admitted.request.attempt + u32::from(ran);
        if attempt > self.config.max_attempts {
            return Err(poison(self.config.max_attempts));
        }
        if admitted.started.load(Ordering::Acquire) {
            return Err(Failure { retry_after: Some(self.retry_after(now)), ..cut_short(lost) });
        }
        self.flows.push(Arc::new(Admitted {
            request: Request { attempt, ..admitted.request.clone() },
            priority: admitted.priority,
            max_new_tokens: admitted.max_new_tokens,
            queued: now,
            patience: admitted.patience,
            scheduled: AtomicBool::new(false),
            started: AtomicBool::new(false),
        }));
        Ok(())
    }
}

fn poison(attempts: u32) -> Failure {
    let message = format!(
        "this request ran on {attempts} replicas when they were lost, so it is held to be the reason and is not served again"
    );
    Failure::new(FailureKind::Poison, message)
}

fn cut_short(replica: ReplicaId) -> Failure {
    let message = format!("replica {} was lost after it had sent a part of this request's answer", replica.0);
    Failure::new(FailureKind::ReplicaLost, message)
}
