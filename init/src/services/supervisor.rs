//! The task that keeps the services running. It alone holds their lives; others send it commands and watch its snapshot.
use std::convert::Infallible;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use machine::{paths, socket};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_kit::tasks;
use sys::spawn::Program;
use tokio::sync::{mpsc, watch};

use super::definition::{Definition, Facts, SERVICES};
use super::heartbeat::Heartbeat;
use super::logs::LogSink;
use super::state::{Effect, Event, Life};
use crate::children::Children;
use crate::cmdline;
use crate::events::{Events, unix_ms};

const CGROUPS: &str = "/sys/fs/cgroup";
/// Between two looks at the services' signs of life.
const TICK: Duration = Duration::from_secs(1);

/// What others ask of the supervisor.
#[derive(Debug)]
enum Command {
    Event(usize, Event),
    /// The process of this pid gives a sign of life.
    Alive(usize, i32),
    /// Ends every service of these names in this order of the list; none starts again.
    Retire,
}

/// Cloneable handle to the supervisor.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    commands: mpsc::Sender<Command>,
    facts: watch::Sender<Facts>,
    snapshot: watch::Receiver<Vec<socket::Service>>,
    net_channel: Arc<Mutex<Option<std::os::unix::net::UnixStream>>>,
    net_started: watch::Receiver<u64>,
}

/// The supervisor's own data; [`Supervisor::run`] is its task.
#[derive(Debug)]
pub struct Supervisor {
    lives: Vec<(Life, i64)>,
    heartbeats: Vec<Heartbeat>,
    commands: mpsc::Receiver<Command>,
    sender: mpsc::Sender<Command>,
    facts: watch::Receiver<Facts>,
    snapshot: watch::Sender<Vec<socket::Service>>,
    net_channel: Arc<Mutex<Option<std::os::unix::net::UnixStream>>>,
    net_started: watch::Sender<u64>,
    children: Children,
    logs: LogSink,
    events: Events,
    retired: bool,
}

impl SupervisorHandle {
    /// The services now, in starting order.
    pub fn services(&self) -> Vec<socket::Service> {
        self.snapshot.borrow().clone()
    }

    /// A receiver that changes with each change of a service.
    pub fn watch(&self) -> watch::Receiver<Vec<socket::Service>> {
        self.snapshot.clone()
    }

    /// Changes what services wait for.
    pub fn set_facts(&self, change: impl FnOnce(&mut Facts)) {
        self.facts.send_if_modified(|facts| {
            let before = *facts;
            change(facts);
            before != *facts
        });
    }

    /// What services wait for, now.
    pub fn facts(&self) -> Facts {
        *self.facts.borrow()
    }

    /// Our end of the net process's socketpair, once for each start of it; [`Self::net_started`] counts the starts.
    pub fn take_net_channel(&self) -> Option<std::os::unix::net::UnixStream> {
        self.net_channel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Changes with each start of the net process.
    pub fn net_started(&self) -> watch::Receiver<u64> {
        self.net_started.clone()
    }

    /// The named service says that it is ready. Unknown names are passed over.
    pub async fn said_ready(&self, name: &str) {
        self.send(name, Event::SaidReady).await;
    }

    /// The named service's process gives a sign of life. Unknown names are passed over.
    pub async fn alive(&self, name: &str, pid: i32) {
        if let Some(index) = SERVICES.iter().position(|s| s.name == name) {
            let _ = self.commands.send(Command::Alive(index, pid)).await;
        }
    }

    /// Starts, stops or restarts a service; false when there is none of that name.
    pub async fn act(&self, name: &str, action: socket::service_action::Action) -> bool {
        use socket::service_action::Action;
        let event = match action {
            Action::Start => Event::Start,
            Action::Stop => Event::Stop,
            Action::Restart => Event::Restart,
        };
        self.send(name, event).await
    }

    async fn send(&self, name: &str, event: Event) -> bool {
        match SERVICES.iter().position(|s| s.name == name) {
            Some(index) => self.commands.send(Command::Event(index, event)).await.is_ok(),
            None => false,
        }
    }

    /// Keeps services from being started again, for the machine's shutdown.
    pub async fn retire(&self) {
        let _ = self.commands.send(Command::Retire).await;
    }

    /// Stops one service and waits until it is gone, at most a little longer than its own deadline.
    pub async fn stop(&self, definition: &Definition) -> bool {
        if !self.send(definition.name, Event::Stop).await {
            return false;
        }
        let gone = |services: &Vec<socket::Service>| {
            services.iter().any(|s| s.name == definition.name && s.pid == 0)
        };
        let mut snapshot = self.watch();
        let patience = definition.stop_deadline + Duration::from_secs(3);
        matches!(tokio::time::timeout(patience, snapshot.wait_for(gone)).await, Ok(Ok(_)))
    }
}

impl Supervisor {
    /// The supervisor and the handle to it.
    pub fn new(children: Children, logs: LogSink, events: Events) -> (Self, SupervisorHandle) {
        let (sender, commands) = mpsc::channel(256);
        let (facts_sender, facts) = watch::channel(Facts::default());
        let (snapshot, snapshot_receiver) = watch::channel(Vec::new());
        let (net_started, net_started_receiver) = watch::channel(0);
        let net_channel = Arc::new(Mutex::new(None));
        let lives = SERVICES.iter().map(|_| (Life::new(Instant::now()), unix_ms())).collect();
        let heartbeats = vec![Heartbeat::default(); SERVICES.len()];
        let handle = SupervisorHandle {
            commands: sender.clone(),
            facts: facts_sender,
            snapshot: snapshot_receiver,
            net_channel: net_channel.clone(),
            net_started: net_started_receiver,
        };
        let supervisor = Self {
            lives,
            heartbeats,
            commands,
            sender,
            facts,
            snapshot,
            net_channel,
            net_started,
            children,
            logs,
            events,
            retired: false,
        };
        (supervisor, handle)
    }

    /// Runs as long as anybody holds a handle. After a panic it goes on with the services as they are: its data
    /// outlive it, so nothing is started twice.
    pub async fn kept(self) {
        let (events, began) = (self.events.clone(), AtomicBool::new(false));
        let supervisor = Arc::new(tokio::sync::Mutex::new(self));
        tasks::restarting("supervisor", move || {
            if began.swap(true, Ordering::Relaxed) {
                events.note("init", "SupervisorRestarted", "it panicked; the services go on as they are");
            }
            let supervisor = Arc::clone(&supervisor);
            async move {
                supervisor.lock().await.run().await;
                Ok::<(), Infallible>(())
            }
        })
        .await;
    }

    async fn run(&mut self) {
        let mut seconds = tokio::time::interval(TICK);
        // What PID 1 slept through is no time in which a service was silent.
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.tick();
            self.publish();
            let now = Instant::now();
            let next = self.lives.iter().filter_map(|(life, _)| life.deadline()).min();
            let sleep = next.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Event(index, event)) => self.apply(index, event),
                    Some(Command::Alive(index, pid)) if self.lives[index].0.pid() == pid => {
                        self.heartbeats[index].sign();
                    }
                    Some(Command::Alive(..)) => {}
                    Some(Command::Retire) => self.retired = true,
                    None => return,
                },
                changed = self.facts.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(sleep) => {}
                _ = seconds.tick() => self.listen(),
            }
        }
    }

    fn tick(&mut self) {
        let facts = *self.facts.borrow_and_update();
        for (index, definition) in SERVICES.iter().enumerate() {
            let missing = if self.retired {
                Some("nothing: the machine stops")
            } else {
                facts.missing(definition.name)
            };
            self.apply(index, Event::Tick(missing));
        }
    }

    /// Ends services of which nothing is heard.
    fn listen(&mut self) {
        for (index, Definition { name, .. }) in SERVICES.iter().enumerate() {
            if self.lives[index].0.pid() != 0 && self.heartbeats[index].tick() {
                let pid = self.lives[index].0.pid();
                let before = self.lives[index].0.hangs;
                self.apply(index, Event::Hangs);
                if self.lives[index].0.hangs != before {
                    let text =
                        format!("{name} (pid {pid}) gives no sign of life; it is ended and starts again");
                    self.events.note(name, "HeartbeatLost", &text);
                }
            }
        }
    }

    fn apply(&mut self, index: usize, event: Event) {
        let definition = &SERVICES[index];
        let ended = match &event {
            Event::Ended(how) => Some(how.clone()),
            _ => None,
        };
        let before = self.lives[index].0.name();
        let effect = self.lives[index].0.step(definition, event, Instant::now());
        match effect {
            Some(Effect::Spawn) => {
                let outcome = self.spawn(index);
                self.heartbeats[index] = Heartbeat::default();
                self.lives[index].0.step(definition, outcome, Instant::now());
            }
            Some(Effect::Terminate(pid)) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            Some(Effect::Kill(pid)) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            Some(Effect::KillCgroup) => kill_cgroup(CGROUPS.as_ref(), definition),
            None => {}
        }
        let (after, pid) = (self.lives[index].0.name(), self.lives[index].0.pid());
        if before != after {
            self.lives[index].1 = unix_ms();
            let (reason, name) = (&self.lives[index].0.reason, definition.name);
            match (after, ended) {
                ("BackOff", _) => {
                    self.events.note(name, "ServiceEnded", &format!("{reason}; it starts again"))
                }
                ("Failed", _) => self.events.note(name, "ServiceFailed", reason),
                ("Stopped", _) => self.events.note(name, "ServiceStopped", "stopped"),
                ("Ready", _) => self.events.note(name, "ServiceReady", "ready"),
                // Not one that hangs, which is no longer ready.
                ("Running", _) if before != "Ready" => {
                    self.events.note(name, "ServiceStarted", &format!("started, pid {pid}"))
                }
                _ => {}
            }
        }
    }

    /// Starts the process; what comes of it is the next event.
    fn spawn(&mut self, index: usize) -> Event {
        match self.try_spawn(index) {
            Ok(pid) => Event::Spawned(pid),
            Err(error) => {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let name = SERVICES[index].name;
                let reason = if missing {
                    format!("this image has no {}/pintle-{name}", paths::BIN)
                } else {
                    format!("cannot be started: {error}")
                };
                Event::SpawnFailed { missing, reason }
            }
        }
    }

    fn try_spawn(&mut self, index: usize) -> std::io::Result<i32> {
        let definition = &SERVICES[index];
        let path = PathBuf::from(format!("{}/pintle-{}", paths::BIN, definition.name));
        fs::metadata(&path)?;
        let cgroup = Path::new(CGROUPS).join(definition.cgroup);
        fs::create_dir_all(&cgroup)
            .map_err(|e| std::io::Error::other(format!("create {}: {e}", cgroup.display())))?;
        let (read, write) = std::io::pipe()?;
        let channel = if definition.name == "net" {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            *self.net_channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours);
            Some(OwnedFd::from(theirs))
        } else {
            None
        };
        let (pid, ended) = self.children.start(Program {
            path,
            arguments: Vec::new(),
            environment: environment(definition.name),
            cgroup_procs: Some(cgroup.join("cgroup.procs")),
            user: definition.user,
            capabilities: definition.capabilities.to_vec(),
            output: write.into(),
            channel,
            oom_score_adj: Some(definition.oom_score_adj),
        })?;
        if definition.name == "net" {
            self.net_started.send_modify(|count| *count += 1);
        }
        self.logs.follow(definition.name, read.into());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if let Ok(status) = ended.await {
                let _ = sender.send(Command::Event(index, Event::Ended(sys::wait::describe(status)))).await;
            }
        });
        Ok(pid)
    }

    fn publish(&self) {
        let services: Vec<socket::Service> = SERVICES
            .iter()
            .zip(&self.lives)
            .map(|(definition, (life, since))| socket::Service {
                name: definition.name.into(),
                state: life.name().into(),
                reason: life.reason.clone(),
                pid: life.pid(),
                restarts: life.restarts,
                hangs: life.hangs,
                since_unix_ms: *since,
            })
            .collect();
        self.snapshot.send_if_modified(|before| {
            let changed = *before != services;
            *before = services;
            changed
        });
    }
}

fn environment(service: &str) -> Vec<(String, String)> {
    let mut variables = vec![("PINTLE_SERVICE".into(), service.into()), ("PATH".into(), super::PATH.into())];
    // The command line is the image's builder's word, as the image is.
    if cmdline::has(&cmdline::read(), "pintle.test-hooks") {
        variables.push((node_kit::hooks::VARIABLE.into(), "1".into()));
    }
    variables
}

/// Ends every service that an earlier main loop of PID 1 has left: nobody knows of them any more, and each is
/// started again.
pub fn end_leftovers() {
    SERVICES.iter().for_each(|definition| kill_cgroup(CGROUPS.as_ref(), definition));
}

/// Ends everything in the service's cgroup, its children included.
fn kill_cgroup(root: &Path, definition: &Definition) {
    // There is none before its first start.
    let _ = fs::write(root.join(definition.cgroup).join("cgroup.kill"), "1");
}

#[cfg(test)]
mod tests;
