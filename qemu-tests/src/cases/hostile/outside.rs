//! What somebody does from outside while hostile pods run.
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use qemu_tests::network::free_tcp_port;

use super::super::cluster::Stage;
use super::NAMESPACE;
use super::kinds::{Kind, Outside};

/// Connections that a port-forward holds at once.
const CONNECTIONS: usize = 32;
/// Execs at once: kubectl takes the host's processors, on which the machines run too.
const EXECS: usize = 4;
const REST: Duration = Duration::from_millis(200);

/// Threads that do it.
#[derive(Debug)]
pub struct Outsiders {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Outsiders {
    /// Starts what each kind wants.
    pub fn start(stage: &Stage, kinds: &[&Kind]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for kind in kinds {
            let pod = kind.pod_name(0);
            match kind.outside {
                Outside::Nothing => {}
                Outside::PortForwards(port) => {
                    let Ok(local) = free_tcp_port() else { continue };
                    let mut command = stage.kubectl(NAMESPACE);
                    command.args(["port-forward", &format!("pod/{pod}"), &format!("{local}:{port}")]);
                    let over = over.clone();
                    threads.push(std::thread::spawn(move || port_forwards(command, local, &over)));
                }
                Outside::Execs => {
                    for _ in 0..EXECS {
                        let mut command = stage.kubectl(NAMESPACE);
                        command.args(["exec", &pod, "--", "/node-inspector", "exit", "0"]);
                        let over = over.clone();
                        threads.push(std::thread::spawn(move || execs(command, &over)));
                    }
                }
            }
        }
        Self { over, threads }
    }

    /// Ends them all.
    pub fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn quietly(command: &mut Command) -> std::io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Keeps a port-forward with many connections, each of which the pod leaves unanswered.
fn port_forwards(mut command: Command, local: u16, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let Ok(mut child) = quietly(&mut command) else { return };
        let mut held = Vec::new();
        while !over.load(Ordering::SeqCst) && matches!(child.try_wait(), Ok(None)) {
            held.extend(TcpStream::connect(("127.0.0.1", local)));
            if held.len() >= CONNECTIONS {
                held.clear();
            }
            std::thread::sleep(REST);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn execs(mut command: Command, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let Ok(mut child) = quietly(&mut command) else { return };
        while matches!(child.try_wait(), Ok(None)) {
            if over.load(Ordering::SeqCst) {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.wait();
    }
}
