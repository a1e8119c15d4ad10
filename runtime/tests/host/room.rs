//! The node's own tmpfs: no container can fill it, and when somebody else has, what ends is told and what is
//! to go goes.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use machine::paths;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

use crate::escapes::volume;
use crate::full::fill;
use crate::init::Init;
use crate::ring::{Outcome, Ring, check, text};

/// What containers of these stories wait for.
const GATE: &str = "/run/room-gate";

/// The runtime's records on a small tmpfs of their own.
async fn move_to_small(ring: &mut Ring) -> Outcome {
    ring.stop_runtime().await?;
    // It takes those of its mounts that are hidden for there.
    for name in ["containers", "pintle-launch"] {
        umount2(&Path::new(paths::RUNTIME_RUN).join(name), MntFlags::MNT_DETACH).map_err(text)?;
    }
    mount(Some("tmpfs"), paths::RUNTIME_RUN, Some("tmpfs"), MsFlags::empty(), Some("size=8m"))
        .map_err(text)?;
    ring.start_runtime().await
}

async fn move_back(ring: &mut Ring) -> Outcome {
    ring.stop_runtime().await?;
    umount2(paths::RUNTIME_RUN, MntFlags::MNT_DETACH).map_err(text)?;
    ring.start_runtime().await
}

fn free() -> Result<u64, String> {
    let stat = statvfs(paths::RUNTIME_RUN).map_err(text)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Outcome {
    for _ in 0..1000 {
        if condition() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("waited for {what}"))
}

/// Whatever a container writes to what the runtime mounts into it. Each file may be smaller than what is
/// written, and is none of the node's.
pub async fn no_container_fills_the_nodes_tmpfs(ring: &mut Ring) -> Outcome {
    move_to_small(ring).await?;
    let outcome = write_everywhere(ring).await;
    move_back(ring).await?;
    outcome
}

async fn write_everywhere(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("filler", NamespaceMode::Container).await?;
    let before = free()?;
    let script = "for file in /etc/resolv.conf /etc/hostname /etc/hosts; do
        head -c 32000000 /dev/zero >> $file; done 2>/dev/null; echo written; sleep 1000";
    let id = ring.run(&pod, "main", &["sh", "-c", script]).await?;
    let log = Path::new("/var/log/pods/filler/main.log");
    until("the container to have written", || {
        fs::read_to_string(log).is_ok_and(|log| log.contains("written"))
    })
    .await?;
    let taken = before.saturating_sub(free()?);
    check(taken < 1 << 20, format!("{taken} bytes of the node's tmpfs are the container's"))?;
    // Nor is it memory without end elsewhere.
    let script = "ls -ln /etc/resolv.conf /etc/hostname /etc/hosts";
    let (sizes, _) = ring.exec(&id, &["sh", "-c", script]).await?;
    let total: u64 =
        sizes.lines().filter_map(|line| line.split_ascii_whitespace().nth(4)?.parse::<u64>().ok()).sum();
    check(total <= 1 << 20, format!("the pod's files have grown to {total} bytes: {sizes}"))?;
    // Others go on.
    let next = ring.sandbox("beside", NamespaceMode::Container).await?;
    let other = ring.run(&next, "main", &["sh", "-c", "exit 4"]).await?;
    check(ring.exited(&other).await?.exit_code == 4, "the code of a container beside it")?;
    ring.remove(&next.0).await?;
    ring.remove(&pod.0).await
}

/// Somebody has filled it: ends are told all the same, and PID 1 keeps them until they are on record.
pub async fn ends_and_removals_need_no_room(ring: &mut Ring) -> Outcome {
    fs::create_dir_all(GATE).map_err(text)?;
    move_to_small(ring).await?;
    let outcome = end_without_room(ring).await;
    let _ = fs::remove_dir_all(GATE);
    move_back(ring).await?;
    outcome
}

/// A container that ends with this code when the gate is open; its id and its pid on the host.
async fn waiting(
    ring: &mut Ring,
    pod: &(String, cri::PodSandboxConfig),
    name: &str,
    code: i32,
) -> Result<(String, i32), String> {
    let script = format!("while [ ! -e /gate/{name} ]; do sleep 0.05; done; exit {code}");
    let change = |config: &mut cri::ContainerConfig| config.mounts = vec![volume(GATE, "/gate")];
    let id = ring.create(pod, name, &["sh", "-c", &script], change).await?;
    ring.begin(&id).await?;
    Ok((id.clone(), crate::exits::pid(&id)?))
}

fn open_gate(name: &str) -> Outcome {
    fs::write(Path::new(GATE).join(name), "").map_err(text)
}

/// Everything that is free now, and what became free meanwhile.
fn fill_up(number: usize) -> Outcome {
    let folder = Path::new(paths::RUNTIME_RUN).join(format!("ballast-{number}"));
    // The folder takes an inode, which a tmpfs counts as no block.
    fs::create_dir_all(&folder).map_err(text)?;
    fill(&folder).map(drop)?;
    check(free()? < 4096, format!("{} bytes are free", free()?))
}

fn make_room() -> Outcome {
    for entry in fs::read_dir(paths::RUNTIME_RUN).map_err(text)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ballast-") {
            fs::remove_dir_all(entry.path()).map_err(text)?;
        }
    }
    Ok(())
}

/// Keeps a record from being written, with room or without.
fn block(kind: &str, id: &str) -> Result<PathBuf, String> {
    let path = Path::new(paths::RUNTIME_RUN).join(kind).join(id).join(".record.json.new0");
    fs::create_dir(&path).map(|()| path).map_err(text)
}

async fn end_without_room(ring: &mut Ring) -> Outcome {
    let (one, two) = (
        ring.sandbox("roomless", NamespaceMode::Container).await?,
        ring.sandbox("shared-roomless", NamespaceMode::Pod).await?,
    );
    let (lasting, pid) = waiting(ring, &one, "lasting", 3).await?;
    let (gone, _) = waiting(ring, &two, "gone", 7).await?;
    let init: Init = ring.init.clone();
    fill_up(0)?;
    // What others free is not for these two.
    let blocked = [("containers", &lasting), ("sandboxes", &one.0)].map(|(kind, id)| block(kind, id));
    let blocked: Vec<_> = blocked.into_iter().collect::<Result<_, _>>()?;
    open_gate("lasting")?;
    let status = ring.exited(&lasting).await?;
    check(status.exit_code == 3 && status.reason == "Error", format!("told without room: {status:?}"))?;
    check(init.has_exit(pid), "PID 1 was told to forget an exit that is not on record")?;
    // What that end has freed is taken, too.
    fill_up(1)?;
    check(init.has_exit(pid), "PID 1 was told to forget an exit that is not on record")?;
    // One that runs is stopped, and its pod is removed, with nothing freed by others.
    ring.remove(&two.0).await.map_err(|error| format!("remove a pod without room: {error}"))?;
    check(ring.status(&gone).await.is_err(), "a removed container is still there")?;
    let left = Path::new(paths::RUNTIME_RUN).join("containers").join(&gone);
    check(fs::metadata(&left).is_err(), format!("{} is left", left.display()))?;
    // A sandbox that was stopped is not ready any more, whoever asks.
    fill_up(2)?;
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: one.0.clone() };
    ring.client.stop_pod_sandbox(stop).await.map_err(text)?;
    let ready = async |ring: &mut Ring| -> Result<bool, String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: one.0.clone(), verbose: false };
        let answer = ring.client.pod_sandbox_status(request).await.map_err(text)?.into_inner();
        let state = answer.status.map(|status| status.state());
        Ok(state == Some(cri::PodSandboxState::SandboxReady))
    };
    check(!ready(ring).await?, "a stopped sandbox is called ready")?;
    // A kill now: what is not on record is known from PID 1 and from what is left of the pod.
    ring.kill_runtime().await?;
    let status = ring.exited(&lasting).await?;
    check(status.exit_code == 3, format!("told without room after a kill: {status:?}"))?;
    check(!ready(ring).await?, "a stopped sandbox is called ready after a kill")?;
    // With room everything is on record by itself.
    make_room()?;
    for path in blocked {
        fs::remove_dir(path).map_err(text)?;
    }
    until("the exit to be acknowledged", || !init.has_exit(pid)).await?;
    ring.kill_runtime().await?;
    let again = ring.status(&lasting).await?;
    check(again == status, format!("{status:?} has become {again:?}"))?;
    ring.remove(&one.0).await?;
    let next = ring.sandbox("roomy", NamespaceMode::Container).await?;
    let id = ring.run(&next, "main", &["true"]).await?;
    check(ring.exited(&id).await?.exit_code == 0, "the code of a container with room again")?;
    ring.remove(&next.0).await
}

/// Who is refused for want of room has left nothing behind.
pub async fn what_had_no_room_leaves_nothing(ring: &mut Ring) -> Outcome {
    move_to_small(ring).await?;
    let outcome = refused(ring).await;
    move_back(ring).await?;
    outcome
}

async fn refused(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("refused", NamespaceMode::Container).await?;
    fill_up(0)?;
    let error = ring.create(&pod, "main", &["true"], |_| {}).await.err().unwrap_or_default();
    check(error.contains("No space left on device"), format!("a container without room: {error:?}"))?;
    let error = ring.sandbox("no-room", NamespaceMode::Container).await.err().unwrap_or_default();
    check(error.contains("No space left on device"), format!("a sandbox without room: {error:?}"))?;
    for (folder, kept) in [("containers", 0), ("sandboxes", 1), ("ns", 1)] {
        let path = Path::new(paths::RUNTIME_RUN).join(folder);
        let names: Vec<_> = fs::read_dir(&path).map_err(text)?.flatten().map(|entry| entry.path()).collect();
        check(names.len() == kept, format!("{}: {names:?}", path.display()))?;
    }
    make_room()?;
    ring.remove(&pod.0).await
}

/// What others on the node must not read: environments and commands hold secrets.
pub async fn nobody_else_reads_what_the_runtime_keeps(ring: &mut Ring) -> Outcome {
    let users = crate::mounts::sandbox_of_users(ring, "private-users").await?;
    let plain = ring.sandbox("private", NamespaceMode::Pod).await?;
    for pod in [&users, &plain] {
        let change = |config: &mut cri::ContainerConfig| {
            config.envs = vec![cri::KeyValue { key: "SECRET".into(), value: "canary".into() }];
            config.stdin = true;
        };
        let id = ring.create(pod, "main", &["sleep", "1000"], change).await?;
        ring.begin(&id).await?;
        let (_, code) = ring.exec(&id, &["true"]).await?;
        check(code == 0, "an exec failed")?;
    }
    let mut open = Vec::new();
    readable(Path::new(paths::RUNTIME_RUN), &mut open);
    check(open.is_empty(), format!("others may read {open:#?}"))?;
    // What is mounted into containers they may, in there.
    let id = ring.create(
        &plain,
        "reader",
        &["cat", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"],
        |config| {
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
        },
    );
    let id = id.await?;
    ring.begin(&id).await?;
    check(ring.exited(&id).await?.exit_code == 0, "a container's user cannot read the pod's files")?;
    // And what a container makes has the modes that it has everywhere.
    let id =
        ring.create(&plain, "umask", &["sh", "-c", "umask; mkdir /new; touch /new/file"], |_| {}).await?;
    ring.begin(&id).await?;
    ring.exited(&id).await?;
    let log = fs::read_to_string("/var/log/pods/private/umask.log").map_err(text)?;
    check(log.contains(" stdout F 0022"), format!("the container's umask: {log}"))?;
    let id = ring.run(&plain, "execs", &["sleep", "1000"]).await?;
    let (mask, _) = ring.exec(&id, &["sh", "-c", "umask"]).await?;
    check(mask == "0022\n", format!("the umask of an exec: {mask}"))?;
    // Logs are for those who read logs, as ever.
    let mode = |path: &str| fs::metadata(path).map(|metadata| metadata.mode() & 0o777).map_err(text);
    check(mode("/var/log/pods/private")? == 0o755, "the mode of a pod's log folder")?;
    check(mode("/var/log/pods/private/umask.log")? == 0o640, "the mode of a log")?;
    ring.remove(&users.0).await?;
    ring.remove(&plain.0).await
}

/// Files and folders that others can come to and read.
fn readable(folder: &Path, open: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let mode = metadata.mode();
        if metadata.is_dir() {
            if mode & 0o004 != 0 {
                open.push(format!("{} {:o}", path.display(), mode & 0o7777));
            }
            if mode & 0o001 != 0 {
                readable(&path, open);
            }
        // The launcher is the root's own file, read-only, which anybody may read where it lies.
        } else if mode & 0o006 != 0 && !metadata.is_symlink() && !path.ends_with("pintle-launch") {
            open.push(format!("{} {:o}", path.display(), mode & 0o7777));
        }
    }
}
