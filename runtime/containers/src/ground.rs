//! What has to be there before anything is taken over or made.
use std::path::Path;
use std::sync::Arc;

use machine::paths;
use node_kit::machine_socket::Client as MachineSocket;

use crate::errors::{Step, StepError};
use crate::launch::mount_ns::{self, MountNs};
use crate::state::{self, ALL_MAY_PASS, CLOSED, ContainerRecord, SandboxRecord, folder, make_folder};
use crate::transfer::{self, Transfer};

/// Folders below [`paths::RUNTIME_RUN`], which is the first one. Processes that launch containers of a pod
/// with a user namespace come to what is theirs as users of that; nobody else has anything to look for there.
const FOLDERS: [(&str, u32); 8] = [
    ("", ALL_MAY_PASS),
    ("sandboxes", CLOSED),
    ("containers", ALL_MAY_PASS),
    ("launch", CLOSED),
    ("exec", CLOSED),
    ("ns", ALL_MAY_PASS),
    ("network", CLOSED),
    ("seccomp", CLOSED),
];

/// What containers are made on, and how their output comes to their logs.
#[derive(Debug)]
pub struct Ground {
    pub(crate) base: MountNs,
    pub(crate) transfer: Arc<Transfer>,
}

/// Ends what a former life was launching, and prepares what containers are made on.
///
/// # Errors
/// With the step that failed; nothing can be made then.
pub async fn prepare(machine: Option<&MachineSocket>) -> Result<Ground, StepError> {
    end_launches().await;
    for (name, mode) in FOLDERS {
        let path = Path::new(paths::RUNTIME_RUN).join(name);
        make_folder(&path, mode).step(format_args!("make {}", path.display()))?;
    }
    sys::mount::make_private(folder("containers", "")).step("keep containers' mounts to the runtime")?;
    crate::launch::seal().step("mount pintle-launch read-only")?;
    let base = mount_ns::make().step("make a mount namespace for launches")?;
    if let Err(error) = crate::apparmor::load_default() {
        tracing::error!(%error, "containers run without AppArmor's default profile");
    }
    let transfer = transfer(machine).await.step("make the way from pipes to logs")?;
    Ok(Ground { base, transfer })
}

/// Ends what a former life was launching. The pause processes and containers on record are not among them.
async fn end_launches() {
    let (sandboxes, _) = state::load::<SandboxRecord>(&folder("sandboxes", ""));
    let (containers, _) = state::load::<ContainerRecord>(&folder("containers", ""));
    let pauses = sandboxes.into_iter().filter_map(|record| record.pause);
    let inits = containers.into_iter().map(|record| (record.pid, record.start_time));
    crate::launch::end_former(&pauses.chain(inits).collect()).await;
    // Nobody writes there any more.
    if let Err(error) = state::remove_folder(&folder("exec", "")) {
        tracing::warn!(%error, "remove what execs of a former life have left");
    }
}

/// With the pipes that PID 1 kept for us, or new ones that it keeps from now on.
async fn transfer(
    machine: Option<&MachineSocket>,
) -> Result<Arc<Transfer>, Box<dyn std::error::Error + Send + Sync>> {
    let note = Path::new(paths::RUNTIME_RUN).join("log-in-flight");
    let kept = match machine {
        Some(machine) => machine.get(transfer::NAME).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let known = Transfer::knows(kept.len());
    let transfer = Transfer::new(kept, &note)?;
    if let (Some(machine), false) = (machine, known) {
        machine.put(transfer::NAME, &transfer.raw()).await?;
    }
    Ok(Arc::new(transfer))
}
