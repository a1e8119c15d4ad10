//! What is wanted of the pod now: run, or end with which grace period.
use super::{Desired, Ended, How, Worker};
use crate::backoff::{Nanos, SECOND};
use crate::clock::{now, wall};
use crate::events::Kind as Severity;
use crate::pod::decide::{Intent, Operation};
use crate::pods::Source;
use crate::spec;

impl Worker {
    pub(super) fn end_if_told(&mut self, desired: &Desired) {
        if self.ended.as_ref().is_some_and(|ended| ended.how != How::Paused) {
            return;
        }
        self.ended.clone_from(&desired.ended);
        if self.ended.is_some() {
            return;
        }
        let started = self.status.start_time.as_ref().map(|t| t.0.as_second());
        let deadline = spec::spec(&desired.pod).active_deadline_seconds;
        if let (Some(started), Some(deadline)) = (started, deadline)
            && wall() / SECOND >= started + deadline
        {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.ctx.events.pod(&desired.pod, Severity::Normal, "DeadlineExceeded", message.clone());
            let grace = spec::spec(&desired.pod).termination_grace_period_seconds.unwrap_or(30);
            self.ended = Some(Ended { reason: "DeadlineExceeded".into(), message, grace, how: How::Failed });
        }
    }

    pub(super) fn intent(&self, desired: &Desired) -> Intent {
        let own = spec::spec(&desired.pod).termination_grace_period_seconds.unwrap_or(30);
        let m = &desired.pod.metadata;
        if m.deletion_timestamp.is_some() {
            let grace = m.deletion_grace_period_seconds.unwrap_or(own);
            // A pod that is being deleted does not outstay a shutdown.
            return Intent::Stop { grace: self.ended.as_ref().map_or(grace, |ended| grace.min(ended.grace)) };
        }
        match &self.ended {
            Some(Ended { how: How::Paused, grace, .. }) if !desired.removed => {
                return Intent::Pause { grace: *grace };
            }
            Some(ended) => return Intent::Stop { grace: ended.grace },
            None => {}
        }
        if desired.removed {
            return Intent::Stop { grace: own };
        }
        // A pod that the API server has as ended is not started again, whatever the runtime has forgotten.
        let terminal = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if terminal && desired.source == Source::Api { Intent::Stop { grace: own } } else { Intent::Run }
    }

    /// A shorter grace period takes effect at once; what was being started is given up.
    pub(super) fn shorten_grace(&mut self, intent: &Intent) {
        let Some(grace) = intent.grace() else {
            self.last_grace = None;
            return;
        };
        let shorter = self.last_grace.is_some_and(|last| grace < last);
        let first = self.last_grace.is_none();
        self.last_grace = Some(grace);
        if first || shorter {
            // Whoever asks again is not kept waiting.
            self.memory.retries.retain(|operation, _| !matches!(operation, Operation::Stop(_)));
        }
        for (operation, handle) in self.running.values() {
            let give_up = match operation {
                Operation::Start(_) | Operation::Sandbox => first,
                Operation::Stop(_) => shorter,
                _ => false,
            };
            if give_up {
                handle.abort();
                self.memory.in_flight.remove(operation);
            }
        }
    }

    pub(super) fn deadline(&self, desired: &Desired) -> Option<Nanos> {
        let deadline = spec::spec(&desired.pod).active_deadline_seconds?;
        let started = self.status.start_time.as_ref()?.0.as_second();
        let left = (started + deadline) * SECOND - wall();
        (left > 0).then(|| now() + left)
    }
}
