//! What becomes of an action that has ended.
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::Id;

use super::{Done, Worker};
use crate::allocation::{self, Allocation};
use crate::backoff::{Retry, SECOND};
use crate::clock::now;
use crate::events::Kind as Severity;
use crate::pod::decide::{Failure, Operation};
use crate::pod::resize::Resized;

impl Worker {
    pub(super) fn finished(&mut self, done: Result<(Id, Done), tokio::task::JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, Some(done)),
            Err(error) => (error.id(), None),
        };
        let operation = self.running.remove(&id).map(|(operation, _)| operation);
        if let Some(operation) = &operation {
            // A second operation of the same name may have begun after this one was given up.
            if !self.running.values().any(|(other, _)| other == operation) {
                self.memory.in_flight.remove(operation);
            }
        }
        self.refresh.over(id);
        let done = done.map(|done| self.settle(operation.as_ref(), done));
        match done {
            None | Some(Done::Removed(_) | Done::Stopped(_)) => {}
            Some(Done::Refreshed(result)) => self.refreshed(result),
            Some(Done::Sandbox(Ok(volumes), size)) => {
                self.memory.actuated_pod = Some(size);
                self.keep_sizes();
                self.memory.sandbox_failure = None;
                self.memory.released = false;
                self.volumes = Some(volumes);
            }
            Some(Done::Sandbox(Err(failure), _)) => self.memory.sandbox_failure = Some(failure),
            Some(Done::Started(name, attempt, result, size)) => {
                self.memory.actuated.insert(name.clone(), size);
                self.keep_sizes();
                let began = result.is_ok();
                match result {
                    Ok(_) => self.memory.failures.remove(&name),
                    Err(failure) => self.memory.failures.insert(name.clone(), failure),
                };
                // A container that could not be made has taken no number.
                if began {
                    self.memory.restarts.insert(name, attempt);
                }
            }
            Some(Done::Resized(resized)) => self.resized(resized),
            Some(Done::Released(Ok(()))) => {
                self.memory.released = true;
                self.volumes = None;
            }
            Some(Done::Released(Err(_))) => {}
            Some(Done::Posted(status, result)) => self.was_posted(status, result),
            Some(Done::Deleted(result)) => {
                self.deleting = false;
                if let Err(error) = result {
                    self.delete_after = now() + 2 * SECOND;
                    tracing::debug!("delete pod {}: {error}", self.uid);
                } else {
                    self.delete_after = now() + 10 * SECOND;
                }
            }
        }
    }

    /// Counts failures that are to be repeated each time later, and says once what is wrong.
    fn settle(&mut self, operation: Option<&Operation>, mut done: Done) -> Done {
        let Some(operation) = operation else { return done };
        let failure = match &mut done {
            Done::Sandbox(Err(failure), _)
            | Done::Started(_, _, Err(failure), _)
            | Done::Stopped(Err(failure))
            | Done::Removed(Err(failure))
            | Done::Released(Err(failure)) => failure,
            _ => {
                self.memory.retries.remove(operation);
                return done;
            }
        };
        let start = matches!(operation, Operation::Sandbox | Operation::Start(_));
        if start && failure.retry_at != Failure::BY_BACK_OFF {
            return done;
        }
        let previous = self.memory.retries.get(operation);
        let is_news = previous.is_none_or(|previous| previous.message != failure.message);
        let retry = Retry::after(previous, now(), &failure.message);
        failure.retry_at = retry.at;
        if is_news && !start {
            tracing::warn!("pod {}: {}", self.uid, failure.message);
            if matches!(operation, Operation::Stop(_)) {
                let message = format!("error killing pod: {}", failure.message);
                let pod = self.desired.borrow().pod.clone();
                self.ctx.events.pod(&pod, Severity::Warning, "FailedKillPod", message);
            }
        }
        self.memory.retries.insert(operation.clone(), retry);
        done
    }

    /// What is gone is not tried again.
    pub(super) fn forget_retries(&mut self) {
        let observed = &self.observed;
        let there = |id: &String| {
            observed.containers.iter().any(|c| c.id == *id) || observed.sandboxes.iter().any(|s| s.id == *id)
        };
        self.memory.retries.retain(|operation, _| match operation {
            Operation::Stop(id) | Operation::Remove(id) => there(id),
            _ => true,
        });
    }

    pub(super) fn was_posted(&mut self, status: PodStatus, result: Result<Box<Pod>, kube::Error>) {
        self.posting = false;
        match result {
            Ok(answer) => {
                self.posted = Some(status);
                let resource_version = answer.metadata.resource_version;
                let metadata = ObjectMeta { resource_version, ..ObjectMeta::default() };
                self.answered = Some(Box::new(Pod { metadata, spec: None, status: answer.status }));
            }
            // The pod, or this incarnation of it, is gone: there is nobody to tell.
            Err(kube::Error::Api(answer)) if nobody_to_tell(&answer) => {
                self.posted = Some(status);
                self.answered = None;
            }
            Err(error) => {
                self.post_after = now() + 2 * SECOND;
                tracing::debug!("status of pod {}: {}", self.uid, crate::errors::chain(&error));
            }
        }
    }

    fn resized(&mut self, resized: Resized) {
        self.memory.actuated.extend(resized.containers);
        self.memory.actuated_pod = resized.pod.or(self.memory.actuated_pod);
        self.keep_sizes();
        let told = self.memory.resize_failure.take().map(|f| f.message);
        if let Some(failure) = &resized.failure
            && told.as_ref() != Some(&failure.message)
        {
            let pod = self.desired.borrow().pod.clone();
            let message = allocation::message("Pod resize error", &pod, &failure.message);
            self.ctx.events.pod(&pod, Severity::Warning, "ResizeError", message);
        }
        self.memory.resize_failure = resized.failure;
    }

    /// What is in force outlives this agent.
    fn keep_sizes(&self) {
        let (actuated, actuated_pod) = (self.memory.actuated.clone(), self.memory.actuated_pod);
        self.parts.allocations.update(&self.uid, |a| Allocation { actuated, actuated_pod, ..a });
    }
}

/// Whether the API server says of a status that its pod, or this incarnation of it, is gone: it knows none of the name, or one with another uid, which a patch
/// cannot change. Any other conflict passes.
fn nobody_to_tell(answer: &kube::core::Status) -> bool {
    let causes = answer.details.iter().flat_map(|details| &details.causes);
    match answer.code {
        404 => true,
        409 => answer.message.contains("uid mismatch") || answer.message.contains("UID in precondition"),
        422 => causes.into_iter().any(|cause| cause.field == "metadata.uid"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::nobody_to_tell;

    #[test]
    fn a_conflict_is_told_again_unless_the_pod_is_another() {
        let status = |code, message: &str| Status { code, message: message.into(), ..Status::default() };
        assert!(nobody_to_tell(&status(404, "pods \"web\" not found")));
        assert!(nobody_to_tell(&status(
            409,
            "Precondition failed: UID in precondition: a, UID in object meta: b"
        )));
        assert!(!nobody_to_tell(&status(
            409,
            "the object has been modified; please apply your changes to the latest version"
        )));
        assert!(!nobody_to_tell(&status(500, "etcdserver: leader changed")));
        let other = serde_json::json!({"code": 422, "details": {"causes": [{"field": "metadata.uid"}]}});
        assert!(nobody_to_tell(&serde_json::from_value(other).unwrap()));
        assert!(!nobody_to_tell(&status(422, "invalid")));
    }
}
