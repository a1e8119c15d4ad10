//! The pause process of a pod whose containers share a pid namespace: it is the pod's, and worth nothing to
//! it.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use machine::paths::RUNTIME_RUN;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ring::{Outcome, Ring, check, text};

/// Its pid on the host, as the sandbox's record has it.
fn pause(sandbox: &str) -> Result<i32, String> {
    let path = Path::new(RUNTIME_RUN).join("sandboxes").join(sandbox).join("record.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).map_err(text)?).map_err(text)?;
    let pid = record["pause"][0].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.ok_or_else(|| "no pause process on record".into())
}

async fn is_ready(ring: &mut Ring, sandbox: &str) -> Result<bool, String> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.into(), verbose: false };
    let answer = ring.client.pod_sandbox_status(request).await.map_err(text)?.into_inner();
    Ok(answer.status.map(|status| status.state()) == Some(cri::PodSandboxState::SandboxReady))
}

fn namespace(of: &str, kind: &str) -> Result<PathBuf, String> {
    fs::read_link(format!("/proc/{of}/ns/{kind}")).map_err(text)
}

pub async fn a_pause_process_is_in_its_pod_and_may_do_nothing(ring: &mut Ring) -> Outcome {
    ring.give_range().await?;
    for (name, users) in [("paused", false), ("paused-users", true)] {
        let pod = if users {
            crate::mounts::sandbox_of_users(ring, name).await?
        } else {
            ring.sandbox_on(name, NamespaceMode::Pod, NamespaceMode::Pod).await?
        };
        let pid = pause(&pod.0)?;
        let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
        let of_container = crate::exits::pid(&id)?.to_string();
        // The host's are none of it: what it is, the pod's containers can become.
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let own = namespace(&pid.to_string(), kind)?;
            check(own != namespace("self", kind)?, format!("{name}: its {kind} namespace is the host's"))?;
            if ["net", "ipc", "uts"].contains(&kind) {
                let pods = namespace(&of_container, kind)?;
                check(own == pods, format!("{name}: its {kind} namespace is {own:?}, the pod's {pods:?}"))?;
            }
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(text)?;
        for line in
            ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"]
        {
            check(status.contains(line), format!("{name}: {line:?} is not in {status}"))?;
        }
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(text)?;
        check(cgroup.contains(&format!("/kubepods/{name}/")), format!("{name}: its cgroup is {cgroup}"))?;
        let root = fs::read_dir(format!("/proc/{pid}/root")).map_err(text)?.count();
        check(root == 0, format!("{name}: {root} things are in its root"))?;
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(text)?;
        check(mounts.lines().count() <= 1, format!("{name}: it sees mounts {mounts}"))?;
        // It still is what reaps.
        let script = "(sleep 0 & exec sleep 0.1) & sleep 0.3; grep -c . /proc/[0-9]*/stat | wc -l; grep -l ' Z ' /proc/[0-9]*/stat; true";
        let (seen, _) = ring.exec(&id, &["sh", "-c", script]).await?;
        check(!seen.contains("/stat"), format!("{name}: nobody reaps {seen}"))?;
        ring.remove(&pod.0).await?;
    }
    Ok(())
}

/// Root in the pod may signal it; what that does must not be a pod that looks well and can start nothing.
pub async fn a_pod_whose_pause_process_has_ended_is_not_ready(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("unpaused", NamespaceMode::Pod).await?;
    let pid = pause(&pod.0)?;
    let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    for signal in ["TERM", "INT", "HUP", "USR1", "KILL"] {
        let (said, code) = ring.exec(&id, &["kill", &format!("-{signal}"), "1"]).await?;
        check(code == 0, format!("kill -{signal} 1: {code} {said}"))?;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, code) = ring.exec(&id, &["true"]).await?;
    check(code == 0 && is_ready(ring, &pod.0).await?, "signals from inside end the pause process")?;
    let next = ring.run(&pod, "next", &["sh", "-c", "exit 4"]).await?;
    check(ring.exited(&next).await?.exit_code == 4, "the code of a container after the signals")?;
    for kill_runtime in [false, true] {
        let (pod, pid) = if kill_runtime {
            let pod = ring.sandbox("unpaused-again", NamespaceMode::Pod).await?;
            let pid = pause(&pod.0)?;
            ring.stop_runtime().await?;
            (pod, pid)
        } else {
            (pod.clone(), pid)
        };
        // The OOM killer, say.
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(text)?;
        if kill_runtime {
            ring.start_runtime().await?;
        }
        let mut ready = true;
        for _ in 0..200 {
            ready = is_ready(ring, &pod.0).await?;
            if !ready {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        check(!ready, "a sandbox without its pause process is called ready")?;
        let error = ring.create(&pod, "late", &["true"], |_| {}).await.err().unwrap_or_default();
        check(error.contains("not ready"), format!("a container in it: {error:?}"))?;
        ring.remove(&pod.0).await?;
    }
    Ok(())
}
