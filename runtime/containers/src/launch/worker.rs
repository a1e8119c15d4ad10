//! The body of `pintle-launch`: one container or one further process, then the end.
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use super::enter::Entrance;
use super::exec::{self, Waiting, Word};
use super::executor::Program;
use super::faults::Faults;
use super::premount::{self, Premounts};
use super::wire::{receive, receive_part, send};
use super::{Container, Failure, Order, Reply, Request, attach, mount_ns, namespaces, pause};

/// Runs `pintle-launch`: what its first argument names (the pause process, the maker of namespaces, the hook that
/// attaches mounts), otherwise one request from the socket on stdin.
pub fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("pause") => return pause::main(),
        Some("namespaces") => return namespaces::main(),
        Some("attach") => return attach::main(),
        _ => {}
    }
    // stdout and stderr are the container's or nobody's: nothing here may write to them, not even a panic.
    std::panic::set_hook(Box::new(|_| {}));
    // With SIGCHLD ignored the kernel would throw the children's wait statuses away.
    sys::pidfd::default_sigchld();
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => Rc::new(socket),
        Err(_) => return std::process::ExitCode::FAILURE,
    };
    let Answer { reply, descriptors, word } = serve(&socket).unwrap_or_else(|failure| Answer {
        reply: Reply::Failed(failure),
        descriptors: Vec::new(),
        word: None,
    });
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let sent = send(&socket, &reply, &raw).and_then(|()| word.map_or(Ok(()), Word::give));
    match sent {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(_) => std::process::ExitCode::FAILURE,
    }
}

/// What to reply, and the word to give to a further process afterwards.
struct Answer {
    reply: Reply,
    descriptors: Vec<OwnedFd>,
    word: Option<Word>,
}

fn serve(socket: &Rc<OwnedFd>) -> Result<Answer, Failure> {
    let (Order { request, joined }, descriptors) =
        receive(socket).map_err(|error| Failure::other(format!("read the launch request: {error}")))?;
    match request {
        Request::Create(container) => {
            let faults = Faults::keep()
                .map_err(|error| Failure::other(format!("keep what libcontainer says: {error}")))?;
            let early = Premounts::make(&container.bundle)
                .map_err(|error| Failure::other(format!("make the container's mounts: {error}")))?;
            let spec = mount_ns::Spec::read(&container.bundle)
                .map_err(|error| Failure::other(format!("read the container's spec: {error}")))?;
            let (working_folder, has_users) = (spec.working_folder(), spec.has_users());
            let stdio = mount_ns::enter(descriptors, spec.paths());
            let entered = stdio.and_then(|stdio| {
                if joined {
                    mount_ns::hide_members(&container.cgroup)?;
                }
                Ok(stdio)
            });
            let stdio = entered.map_err(|error| {
                Failure::other(format!("enter the mount namespace for launches: {error}"))
            })?;
            let root = container.bundle.join("rootfs");
            early
                .attach(&root)
                .and_then(|()| premount::make_folder(&root, &working_folder, has_users))
                .map_err(|error| Failure::other(format!("prepare the container's root: {error}")))?;
            create(&container, stdio, socket).map_err(|failure| match faults.told() {
                // A program that cannot be run has been told already, by the process itself.
                Some(fault) => Failure { message: format!("{}: {fault}", failure.message), ..failure },
                None => failure,
            })
        }
        Request::Exec { cgroup, first, process, seccomp, enter } => {
            let program = Program { seccomp: filter(seccomp.as_deref())?, socket: Rc::clone(socket) };
            let entrance = enter.as_ref().map(Entrance::open).transpose()?;
            let cgroup = (!joined).then_some(cgroup);
            let Waiting { pid, start_time, terminal, word } =
                exec::start(cgroup.as_deref(), first, &process, descriptors, program, entrance)?;
            Ok(Answer { word: Some(word), ..started(pid, start_time, terminal)? })
        }
        Request::Pause { root, pins } => {
            let pid = pause::start(&root, &pins, socket)
                .map_err(|error| Failure::other(format!("start a pause process: {error}")))?;
            started(pid, start_time(pid)?, None)
        }
    }
}

/// The compiled system call filter.
fn filter(path: Option<&Path>) -> Result<Option<Rc<Vec<u8>>>, Failure> {
    path.map(|path| std::fs::read(path).map(Rc::new))
        .transpose()
        .map_err(|error| Failure::other(format!("read the compiled seccomp filter: {error}")))
}

fn create(container: &Container, stdio: Vec<OwnedFd>, socket: &Rc<OwnedFd>) -> Result<Answer, Failure> {
    let console = Console::listen(container)?;
    let program = Program { seccomp: filter(container.seccomp.as_deref())?, socket: Rc::clone(socket) };
    let mut builder = ContainerBuilder::new(container.id.clone(), SyscallType::default())
        .with_root_path(container.root.clone())
        .map_err(explain)?
        .with_console_socket(container.console.clone())
        .with_executor(program);
    let mut stdio = stdio.into_iter();
    if let (Some(stdin), Some(stdout), Some(stderr)) = (stdio.next(), stdio.next(), stdio.next()) {
        builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    }
    let made = builder
        .validate_id()
        .map_err(explain)?
        .as_init(&container.bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(false)
        .build()
        .map_err(explain)?;
    let pid = made.pid().ok_or_else(|| Failure::other("libcontainer made a container without a process"))?;
    started(pid.as_raw(), start_time(pid.as_raw())?, console.receive()?)
}

/// The process is our child until we end, so its pid cannot be another's yet.
fn started(pid: i32, start_time: u64, terminal: Option<OwnedFd>) -> Result<Answer, Failure> {
    let mut descriptors = vec![sys::pidfd::open(pid).map_err(|error| unheld(pid, &error))?];
    descriptors.extend(terminal);
    Ok(Answer { reply: Reply::Started { pid, start_time }, descriptors, word: None })
}

fn start_time(pid: i32) -> Result<u64, Failure> {
    sys::pidfd::start_time(pid).map_err(|error| unheld(pid, &error))
}

fn unheld(pid: i32, error: &io::Error) -> Failure {
    Failure::other(format!("take hold of process {pid}: {error}"))
}

/// libcontainer's error with its causes; the innermost says what happened.
fn explain(error: libcontainer::error::LibcontainerError) -> Failure {
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let line = inner.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = inner.source();
    }
    for noise in ["exec process failed with error ", "error in executing process : "] {
        text = text.replace(noise, "");
    }
    // It cannot remove the cgroup that this process is in. The runtime does.
    if let Some(at) = text.find(". error during cleanup: ") {
        text.truncate(at);
    }
    Failure::other(text)
}

/// Where libcontainer sends the master side of a container's terminal.
struct Console(Option<UnixListener>);

impl Console {
    fn listen(container: &Container) -> Result<Self, Failure> {
        let Some(path) = &container.console else { return Ok(Self(None)) };
        UnixListener::bind(path).map(|listener| Self(Some(listener))).map_err(|error| {
            Failure::other(format!("listen for the terminal at {}: {error}", path.display()))
        })
    }

    fn receive(self) -> Result<Option<OwnedFd>, Failure> {
        let Some(listener) = self.0 else { return Ok(None) };
        let failed = |error: io::Error| Failure::other(format!("receive the terminal: {error}"));
        let (connection, _) = listener.accept().map_err(failed)?;
        let mut byte = [0; 64];
        let (_, mut descriptors) = receive_part(&connection.into(), &mut byte).map_err(failed)?;
        descriptors.pop().map(Some).ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))
    }
}
