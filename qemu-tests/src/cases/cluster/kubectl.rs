//! The administrator's day: everything stock kubectl is used for, asserted on what it prints.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::{Winsize, openpty};
use qemu_tests::Look;
use serde_json::{Value, json};

use super::{Stage, manifest, programs};
use crate::bench::{until, within};
use crate::cases::Outcome;

const NAMESPACE: &str = "daily";

/// apply, rollout, get, describe, logs -f, exec with and without a terminal, cp, attach, port-forward, delete.
pub fn daily(stage: &mut Stage) -> Result<Outcome> {
    day(stage, &json!({}))
}

/// The same with all pods on the last node.
pub fn daily_on_last(stage: &mut Stage) -> Result<Outcome> {
    let node = stage.nodes().last().context("a node")?.name.clone();
    day(stage, &json!({"kubernetes.io/hostname": node}))
}

fn day(stage: &Stage, nodes: &Value) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let mut spec = manifest::pod_spec(json!([manifest::container("main", &["serve"])]));
    spec["nodeSelector"] = nodes.clone();
    stage.apply_in(NAMESPACE, &[manifest::deployment("web", 2, spec), manifest::service("web")])?;
    let rolled = stage.run(NAMESPACE, &["rollout", "status", "deployment/web", "--timeout=300s"])?;
    ensure!(rolled.contains("successfully rolled out"), "rollout status says {rolled}");
    let pods = stage.wait_ready(NAMESPACE, "app=web", 2)?;
    let pod = pods[0]["metadata"]["name"].as_str().context("the pod's name")?;

    let listed = stage.run(NAMESPACE, &["get", "pods", "--output=wide"])?;
    let row = listed.lines().find(|line| line.contains(pod)).context("get does not list the pod")?;
    ensure!(row.contains("1/1") && row.contains("Running"), "get says {row}");
    let described = stage.run(NAMESPACE, &["describe", "pod", pod])?;
    for word in ["Status:           Running", "Scheduled", "Started", "Container started"] {
        ensure!(described.contains(word), "describe lacks {word:?}:\n{described}");
    }
    readiness(stage, pod)?;
    logs(stage)?;
    exec(stage, pod)?;
    terminal(stage, pod)?;
    copy(stage, pod)?;
    attach(stage)?;
    port_forward(stage, "service/web")?;
    rollout(stage)?;
    stage.run(NAMESPACE, &["delete", "deployment", "web", "--timeout=300s"])?;
    until("the deployment's pods to go", within(60), || {
        let left = stage.run(NAMESPACE, &["get", "pods", "--selector=app=web", "--output=name"])?;
        Ok(if left.trim().is_empty() { Look::Done(()) } else { Look::Waiting(left) })
    })?;
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

/// What the control plane says of the pods of a node that is silent for a while, the node takes back.
fn readiness(stage: &Stage, pod: &str) -> Result<()> {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}).to_string();
    let patch = ["patch", "pod", pod, "--subresource=status", "--type=strategic", "--patch", &unready];
    let patched = stage.run(NAMESPACE, &patch)?;
    ensure!(patched.contains("patched") && !patched.contains("no change"), "patch says {patched}");
    until("the pod to be Ready again", within(60), || {
        let pod = stage.get(NAMESPACE, &["pod", pod])?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        Ok(if ready { Look::Done(()) } else { Look::Waiting(json!(conditions).to_string()) })
    })
}

/// `logs -f` from the first line to the container's end.
fn logs(stage: &Stage) -> Result<()> {
    const LINES: usize = 200;
    let node = &stage.nodes().last().context("a node")?.name;
    let counts = manifest::once(node, &["count", "20", &LINES.to_string()]);
    stage.apply_in(NAMESPACE, &[manifest::pod("counter", counts)])?;
    until("counter to start", within(60), || {
        let pod = stage.get(NAMESPACE, &["pod", "counter"])?;
        let state = &pod["status"]["containerStatuses"][0]["state"];
        let started = !state["running"].is_null() || !state["terminated"].is_null();
        Ok(if started { Look::Done(()) } else { Look::Waiting(state.to_string()) })
    })?;
    let text = stage.run(NAMESPACE, &["logs", "--follow", "counter"])?;
    let numbers: Vec<usize> = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    ensure!(numbers == (1..=LINES).collect::<Vec<_>>(), "logs -f printed {text}");
    let tail = stage.run(NAMESPACE, &["logs", "--tail=2", "counter"])?;
    ensure!(
        tail.lines().count() == 2 && tail.starts_with(&(LINES - 1).to_string()),
        "--tail=2 printed {tail}"
    );
    Ok(())
}

fn exec(stage: &Stage, pod: &str) -> Result<()> {
    let hosts = stage.exec(NAMESPACE, pod, &["read", "/etc/hosts"])?;
    ensure!(hosts.contains(pod), "/etc/hosts in the pod is {hosts}");
    let mut command = stage.kubectl(NAMESPACE);
    let ended = programs::Running::start(command.args(["exec", pod, "--", "/node-inspector", "exit", "7"]))?
        .end(within(30))?;
    ensure!(ended.status.code() == Some(7), "an exit code of 7 became {}: {}", ended.status, ended.errors);
    let mut command = stage.kubectl(NAMESPACE);
    command.args(["exec", "--stdin", pod, "--", "/node-inspector", "echo"]);
    let text = "one\ntwo\n".repeat(500);
    let echoed = programs::run(&mut command, &text, within(60))?;
    ensure!(echoed.trim() == text.trim(), "exec -i gave back {} of {} bytes", echoed.len(), text.len());
    Ok(())
}

/// `exec -it` on a terminal of 37 rows and 91 columns.
fn terminal(stage: &Stage, pod: &str) -> Result<()> {
    let size = Winsize { ws_row: 37, ws_col: 91, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None::<&nix::sys::termios::Termios>).context("open a terminal")?;
    let slave = || -> Result<Stdio> { Ok(pty.slave.try_clone()?.into()) };
    let mut command = stage.kubectl(NAMESPACE);
    command.args(["exec", "--stdin", "--tty", pod, "--", "/node-inspector", "terminal"]);
    let mut child =
        command.stdin(slave()?).stdout(slave()?).stderr(slave()?).spawn().context("run kubectl")?;
    drop(command);
    drop(pty.slave);
    let mut master = std::fs::File::from(pty.master);
    let mut reader = master.try_clone()?;
    let (sender, output) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            let _ = sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    });
    let mut seen = String::new();
    let mut wait_for = |text: &str| -> Result<()> {
        let start = Instant::now();
        while !seen.contains(text) {
            match output.recv_timeout(within(30).saturating_sub(start.elapsed())) {
                Ok(more) => seen += &more,
                Err(_) => bail!("exec -it showed {seen:?}, not {text:?}"),
            }
        }
        Ok(())
    };
    let result = wait_for(r#"{"columns":91,"rows":37,"terminal":true}"#)
        .and_then(|()| Ok(master.write_all(b"typed\r")?))
        .and_then(|()| wait_for("read typed"));
    let deadline = Instant::now() + within(30);
    while result.is_ok() && child.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    let status = child.wait()?;
    result?;
    ensure!(status.success(), "exec -it ended with {status}");
    Ok(())
}

/// A file of odd bytes, there and back.
fn copy(stage: &Stage, pod: &str) -> Result<()> {
    let folder = stage.cluster.folder.join("copy");
    std::fs::create_dir_all(&folder)?;
    let (there, back) = (folder.join("there"), folder.join("back"));
    let content: Vec<u8> =
        (0..300_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&there, &content)?;
    let path = |path: &std::path::Path| path.display().to_string();
    stage.run(NAMESPACE, &["cp", &path(&there), &format!("{pod}:/tmp/copied")])?;
    stage.run(NAMESPACE, &["cp", &format!("{pod}:/tmp/copied"), &path(&back)])?;
    ensure!(std::fs::read(&back)? == content, "cp there and back changed the file");
    Ok(())
}

fn attach(stage: &Stage) -> Result<()> {
    let node = &stage.nodes().last().context("a node")?.name;
    let mut spec = manifest::once(node, &["echo"]);
    spec["containers"][0]["stdin"] = true.into();
    stage.apply_in(NAMESPACE, &[manifest::pod("echo", spec)])?;
    stage.wait_ready(NAMESPACE, "app=echo", 1)?;
    let mut command = stage.kubectl(NAMESPACE);
    let mut attached = programs::Running::start(command.args(["attach", "--stdin", "echo"]))?;
    attached.write("hello\n")?;
    attached.expect("hello", within(30))?;
    Ok(())
}

fn port_forward(stage: &Stage, what: &str) -> Result<()> {
    let mut command = stage.kubectl(NAMESPACE);
    let forward = programs::Running::start(command.args(["port-forward", what, ":80"]))?;
    let line = forward.expect("Forwarding from 127.0.0.1:", within(30))?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context("the port")?;
    let port: u16 = port.parse()?;
    for round in 0..3 {
        let answer = match ask(port) {
            Ok(answer) => answer,
            Err(fault) => {
                bail!("connection {round}: {fault:#}; kubectl port-forward says {:?}", forward.kill())
            }
        };
        ensure!(answer.contains(" 200 ") && answer.contains("\r\n\r\nweb-"), "port-forward gave {answer:?}");
    }
    Ok(())
}

fn ask(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(within(20)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A changed template replaces the pods; undo brings the old template back.
fn rollout(stage: &Stage) -> Result<()> {
    let wait = || stage.run(NAMESPACE, &["rollout", "status", "deployment/web", "--timeout=300s"]);
    let names =
        |pods: Vec<Value>| pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect::<Vec<_>>();
    let old = names(stage.wait_ready(NAMESPACE, "app=web", 2)?);
    stage.run(NAMESPACE, &["set", "env", "deployment/web", "COLOUR=blue"])?;
    wait()?;
    let new = names(stage.wait_ready(NAMESPACE, "app=web", 2)?);
    ensure!(new.iter().all(|name| !old.contains(name)), "the rollout kept pods: {new:?}");
    let history = stage.run(NAMESPACE, &["rollout", "history", "deployment/web"])?;
    ensure!(
        history.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).count() == 2,
        "{history}"
    );
    stage.run(NAMESPACE, &["rollout", "undo", "deployment/web"])?;
    wait()?;
    let template = stage.get(NAMESPACE, &["deployment", "web"])?;
    ensure!(
        template["spec"]["template"]["spec"]["containers"][0]["env"].is_null(),
        "undo kept the new template"
    );
    Ok(())
}
