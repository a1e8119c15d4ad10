//! Starts whose answer was lost, as the runtime ended meanwhile. Its next life either goes on with the start or leaves the container as it was made.
use std::time::Duration;

use machine::cri;

use super::Scene;
use crate::cri::{Cri, CriError, Result};

/// How long the runtime may take to come back.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// Starts a container; when the answer is lost, what became of it counts.
///
/// # Errors
/// As `StartContainer`; the lost call's error when the runtime does not come back within 30 s.
pub(super) async fn start_container(cri: &Cri, id: &str) -> Result<()> {
    let Err(lost) = cri.start_container(id).await else { return Ok(()) };
    if !lost.is_unavailable() {
        return Err(lost);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        match cri.container_status(id).await {
            Ok(answer) => match verdict(answer.status.as_ref()) {
                Verdict::Ran => return Ok(()),
                Verdict::NotYet => return cri.start_container(id).await,
                Verdict::Failed(message) => return Err(CriError { message, ..lost }),
            },
            Err(error) if error.is_unavailable() => tokio::time::sleep(PAUSE).await,
            Err(_) => return Err(lost),
        }
    }
    Err(lost)
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Ran,
    NotYet,
    Failed(String),
}

fn verdict(status: Option<&cri::ContainerStatus>) -> Verdict {
    let Some(status) = status else { return Verdict::Failed("the runtime tells no status".into()) };
    match status.state() {
        cri::ContainerState::ContainerCreated => Verdict::NotYet,
        cri::ContainerState::ContainerExited if status.reason == "StartError" => {
            Verdict::Failed(status.message.clone())
        }
        _ => Verdict::Ran,
    }
}

impl Scene {
    /// Removes a container that was made and never started, so that its number is free again.
    pub async fn remove_unstarted(&self, id: &str) {
        match self.ctx.cri.remove_container(id).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!("remove a container that was never started: {error}")
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: cri::ContainerState, reason: &str) -> cri::ContainerStatus {
        cri::ContainerStatus {
            state: state.into(),
            reason: reason.into(),
            message: "why".into(),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_never_ran_is_started_again() {
        use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        assert_eq!(verdict(Some(&status(ContainerCreated, ""))), Verdict::NotYet);
        assert_eq!(verdict(Some(&status(ContainerRunning, ""))), Verdict::Ran);
        assert_eq!(verdict(Some(&status(ContainerExited, "Error"))), Verdict::Ran);
        assert_eq!(verdict(Some(&status(ContainerExited, "StartError"))), Verdict::Failed("why".into()));
    }
}
