//! Calls with one reply.
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use machine::paths;
use machine::socket::{
    self, Config, Empty, FdNames, HealthReport, ProcessList, ServiceList, Version, error::Code, reply,
    request::Call,
};

use super::{Caller, Outcome, error};
use crate::node::{Machine, ShutdownRequest};
use crate::services::{NAMES, log_path};
use crate::{cmdline, config, modules, processes, task};

/// Answers one call that does not stream.
pub async fn answer(
    machine: &Machine,
    caller: &Caller,
    actor: &str,
    call: Call,
    descriptors: Vec<OwnedFd>,
) -> Outcome {
    match call {
        Call::Ready(_) => {
            machine.supervisor.said_ready(caller.service).await;
            done()
        }
        Call::Alive(_) => {
            machine.supervisor.alive(caller.service, caller.pid).await;
            done()
        }
        Call::ReportCondition(condition) => {
            machine.report(caller.service, condition);
            done()
        }
        Call::ListServices(_) => {
            only(reply::Result::Services(ServiceList { services: machine.supervisor.services() }))
        }
        Call::ListProcesses(_) => list_processes().await,
        Call::ServiceAction(request) => service_action(machine, caller, actor, &request).await,
        Call::OpenLog(service) => open_log(&service.name).await,
        Call::OpenKmsg(_) => open_kmsg(),
        Call::GetNetwork(_) => only(reply::Result::Network(machine.network.borrow().clone())),
        Call::GetConfig(request) => get_config(machine, caller, actor, request.with_secrets),
        Call::ApplyConfig(request) => {
            audit(machine, caller, actor, "apply config");
            config::apply(machine, &request).await.map(|result| (reply::Result::Applied(result), Vec::new()))
        }
        Call::Health(_) => only(reply::Result::Health(HealthReport { conditions: machine.conditions() })),
        Call::Shutdown(request) => shutdown(machine, caller, actor, &request),
        Call::OpenKubeconfig(_) => open_kubeconfig(machine).await,
        Call::OpenImageImport(_) => connect(paths::IMPORT_SOCKET).await,
        Call::Version(_) => only(reply::Result::Version(version())),
        Call::Cancel(_) => done(),
        Call::SignServing(request) => super::sign::answer(machine, actor, &request),
        Call::AckExit(key) => {
            machine.ledger.acknowledge(key.pid, key.start_time);
            done()
        }
        Call::FdPut(name) => match machine.fds.put(caller.service, &name.name, descriptors) {
            Ok(()) => done(),
            Err(why) => Err(error(Code::Invalid, &format!("store descriptors as {:?}: {why}", name.name))),
        },
        Call::FdGet(name) => match machine.fds.get(caller.service, &name.name) {
            Ok(Some(stored)) => Ok((reply::Result::Done(Empty {}), stored)),
            Ok(None) => Err(error(Code::NotFound, &format!("nothing is stored as {:?}", name.name))),
            Err(why) => Err(error(Code::Unavailable, &format!("duplicate descriptors: {why}"))),
        },
        Call::FdRemove(name) => {
            machine.fds.remove(caller.service, &name.name);
            done()
        }
        Call::FdList(_) => only(reply::Result::FdNames(FdNames { names: machine.fds.names(caller.service) })),
        Call::WatchEvents(_) | Call::WatchExits(_) => {
            Err(error(Code::Internal, "a stream reached the calls without one"))
        }
    }
}

fn done() -> Outcome {
    only(reply::Result::Done(Empty {}))
}

fn only(result: reply::Result) -> Outcome {
    Ok((result, Vec::new()))
}

/// The active config. Who reads it over the API without the right to its secrets never has them come near.
fn get_config(machine: &Machine, caller: &Caller, actor: &str, with_secrets: bool) -> Outcome {
    let Some(active) = machine.active_config() else {
        return Err(error(Code::NotFound, "the machine has no config yet; apply one"));
    };
    let yaml = if with_secrets {
        audit(machine, caller, actor, "read the config with its secrets");
        active.yaml.clone()
    } else {
        active.redacted.clone()
    };
    only(reply::Result::Config(Config { yaml: yaml.into_bytes(), source: active.source.clone() }))
}

/// Who did what, on the console and among the events.
fn audit(machine: &Machine, caller: &Caller, actor: &str, what: &str) {
    let who = if actor.is_empty() { caller.to_string() } else { format!("{actor} through {caller}") };
    machine.events.note("init", "Audit", &format!("{what}, asked by {who}"));
}

async fn service_action(
    machine: &Machine,
    caller: &Caller,
    actor: &str,
    request: &socket::ServiceAction,
) -> Outcome {
    let action = request.action();
    audit(machine, caller, actor, &format!("{} {}", action.as_str_name().to_lowercase(), request.name));
    if machine.supervisor.act(&request.name, action).await {
        return done();
    }
    let message = format!("there is no service {:?}; services are {}", request.name, NAMES.join(", "));
    Err(error(Code::NotFound, &message))
}

/// Reading a process's memory map waits for whoever changes it.
async fn list_processes() -> Outcome {
    let deadline = Duration::from_secs(20);
    match task::blocking("read what processes consume", deadline, || Ok(processes::list())).await {
        Ok(services) => only(reply::Result::Processes(ProcessList { services })),
        Err(why) => Err(error(Code::Timeout, &format!("{why:#}"))),
    }
}

async fn open_log(name: &str) -> Outcome {
    let Some(service) = NAMES.iter().find(|s| **s == name) else {
        let message = format!("there is no service {name:?}; services are {}", NAMES.join(", "));
        return Err(error(Code::NotFound, &message));
    };
    open(log_path(service)).await
}

fn open_kmsg() -> Outcome {
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open("/dev/kmsg");
    match opened {
        Ok(mut file) => {
            // From the oldest record that the kernel still has.
            let _ = file.seek(SeekFrom::Start(0));
            Ok((reply::Result::Done(Empty {}), vec![file.into()]))
        }
        Err(why) => Err(error(Code::Unavailable, &format!("open /dev/kmsg: {why}"))),
    }
}

async fn open_kubeconfig(machine: &Machine) -> Outcome {
    if !machine.supervisor.facts().control_plane {
        let message = "this machine is a worker; ask a control-plane machine";
        return Err(error(Code::NotFound, message));
    }
    open(paths::ADMIN_KUBECONFIG.into()).await
}

/// Opens a file of the state volume, which may be sick.
async fn open(path: std::path::PathBuf) -> Outcome {
    let name = path.display().to_string();
    let opened = task::blocking("open a file", Duration::from_secs(10), move || Ok(File::open(path))).await;
    match opened {
        Ok(Ok(file)) => Ok((reply::Result::Done(Empty {}), vec![file.into()])),
        Ok(Err(why)) if why.kind() == std::io::ErrorKind::NotFound => {
            Err(error(Code::NotFound, &format!("{name} is not there yet")))
        }
        Ok(Err(why)) => Err(error(Code::Unavailable, &format!("open {name}: {why}"))),
        Err(why) => Err(error(Code::Timeout, &format!("open {name}: {why:#}"))),
    }
}

/// Connects to a service's socket for a caller who may not.
async fn connect(path: &'static str) -> Outcome {
    let connected = tokio::time::timeout(Duration::from_secs(5), tokio::net::UnixStream::connect(path)).await;
    let stream = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).and_then(|s| {
        let stream = s.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    });
    match stream {
        Ok(stream) => Ok((reply::Result::Done(Empty {}), vec![stream.into()])),
        Err(why) => {
            Err(error(Code::Unavailable, &format!("connect to {path}: {why}; is the runtime running?")))
        }
    }
}

fn shutdown(machine: &Machine, caller: &Caller, actor: &str, request: &socket::Shutdown) -> Outcome {
    let who = if actor.is_empty() { caller.to_string() } else { actor.to_owned() };
    let reason = match request.reason.as_str() {
        "" => format!("asked by {who}"),
        given => format!("{given}, asked by {who}"),
    };
    let asked = ShutdownRequest { reboot: request.reboot, force: request.force, reason };
    match machine.shutdown.try_send(asked) {
        Ok(()) => done(),
        Err(_) => Err(error(Code::Unavailable, "the machine is shutting down already")),
    }
}

/// What runs here.
pub fn version() -> Version {
    let line = cmdline::read();
    Version {
        pintle: env!("CARGO_PKG_VERSION").into(),
        kernel: modules::release(),
        kubernetes: paths::KUBERNETES_VERSION.into(),
        image_root_hash: cmdline::value(&line, paths::CMDLINE_ROOT_HASH).unwrap_or_default(),
        boot_id: node_kit::clock::boot_id().unwrap_or_default(),
    }
}
