//! A start that the runtime's end interrupted. Who asked for it got no answer; the container neither ends nor starts twice because of it.
use std::io::ErrorKind;

use node_kit::errors::Chain;

use super::mounts;
use super::start::{give_word, limit, runs};
use crate::cgroup::KILL_DEADLINE;
use crate::runtime::{Container, Runtime};
use crate::state::Phase;
use crate::state::folder;

impl Runtime {
    /// Goes on with the start when the descriptors of the container's init were kept; before that its program cannot have run, so the
    /// container is as it was created and may be started again. Returns whether there is a process to watch.
    pub(crate) async fn resume_start(&self, container: &Container, kept: bool) -> bool {
        let id = container.record().id;
        if kept {
            if let Err(why) = go_on(container) {
                end(container, &why);
            }
            return true;
        }
        if self.machine.is_none() {
            end(container, "the runtime was restarted while the container was being started");
            return true;
        }
        if let Err(why) = undo(container).await {
            tracing::warn!(container = id, why, "undo a start that was interrupted");
            end(container, &why);
            return true;
        }
        false
    }
}

fn go_on(container: &Container) -> Result<(), String> {
    limit(container).map_err(|failure| failure.message)?;
    match give_word(container) {
        Ok(()) => {}
        // It had the word already; how it goes on is told by its end.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
        Err(error) => return Err(format!("tell the container's init to go on: {error}")),
    }
    runs(container);
    Ok(())
}

async fn undo(container: &Container) -> Result<(), String> {
    let id = container.record().id;
    container.cgroup().remove(KILL_DEADLINE).await.map_err(|error| format!("remove its cgroup: {error}"))?;
    mounts::lift(&folder("containers", &id))
        .map_err(|error| format!("clear away after its volumes: {error}"))?;
    crate::state::remove_folder(&folder("launch", &id))
        .map_err(|error| format!("remove its launch folder: {error}"))?;
    let updated = container.update(|record| {
        record.phase = Phase::Created;
        (record.pid, record.start_time) = (0, 0);
    });
    updated.map(drop).map_err(|error| Chain(&error).to_string())
}

fn end(container: &Container, why: &str) {
    let _ = container.cgroup().kill();
    container.declare(|record| {
        record.reason = "StartError".into();
        record.message = why.into();
        record.exit_code = 128;
    });
}
