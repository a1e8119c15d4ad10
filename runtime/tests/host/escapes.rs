//! Known ways out of containers, tried: each story attacks as its CVE did and looks at the host afterwards.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use machine::paths::RUNTIME_RUN;

use crate::content::digest_of;
use crate::mounts::{sandbox_of_users, shared_folder};
use crate::ring::{Outcome, Ring, check, text};

const VICTIM: &str = "/run/victim";

/// A folder of the host that nothing may change.
fn victim() -> Outcome {
    fs::create_dir_all(VICTIM).map_err(text)?;
    fs::write(format!("{VICTIM}/ptmx"), "precious").map_err(text)
}

fn unharmed() -> Outcome {
    let names: Vec<_> =
        fs::read_dir(VICTIM).map_err(text)?.flatten().map(|entry| entry.file_name()).collect();
    let whole = fs::read_to_string(format!("{VICTIM}/ptmx")).is_ok_and(|text| text == "precious");
    check(whole && names.len() == 1, format!("the host's folder was changed: {names:?}"))
}

pub fn volume(host: &str, container: &str) -> cri::Mount {
    cri::Mount { host_path: host.into(), container_path: container.into(), ..Default::default() }
}

/// Does something over and over on a thread of its own, until this is dropped.
struct Racer {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    fn start(mut turn: impl FnMut() + Send + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                turn();
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Makes the null device at `path`, in the place of what is there.
pub fn null_device(path: &str) -> Outcome {
    let _ = fs::remove_file(path);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(path, nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 3))
        .map_err(text)
}

fn ptrace(config: &mut cri::ContainerConfig) {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.capabilities.get_or_insert_default().add_capabilities.push("SYS_PTRACE".into());
}

/// CVE-2024-21626: a working folder that is an inherited descriptor of the host's file system.
pub async fn no_descriptor_leads_out_as_working_folder(ring: &mut Ring) -> Outcome {
    victim()?;
    let pod = ring.sandbox("cwd", NamespaceMode::Container).await?;
    for fd in 3..16 {
        let script = "cat ../../../../../../run/victim/ptmx";
        let id = ring
            .create(&pod, &format!("fd{fd}"), &["sh", "-c", script], |config| {
                config.working_dir = format!("/proc/self/fd/{fd}");
            })
            .await?;
        if ring.begin(&id).await.is_ok() {
            let status = ring.exited(&id).await?;
            check(status.exit_code != 0, format!("descriptor {fd} leads to the host"))?;
        }
        let log = fs::read_to_string(format!("/var/log/pods/cwd/fd{fd}.log")).unwrap_or_default();
        check(!log.contains("precious"), format!("descriptor {fd} leads to the host"))?;
    }
    ring.remove(&pod.0).await
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: a /proc that is not the kernel's.
pub async fn proc_is_the_kernels(ring: &mut Ring) -> Outcome {
    victim()?;
    let pod = ring.sandbox("proc", NamespaceMode::Container).await?;
    let id = ring
        .create(&pod, "link", &["true"], |config| {
            config.image =
                Some(cri::ImageSpec { image: "test.local/proc-link:1".into(), ..Default::default() });
        })
        .await?;
    check(ring.begin(&id).await.is_err(), "a container whose /proc is a link was started")?;
    for (name, path) in [("whole", "/proc"), ("self", "/proc/self"), ("attr", "/proc/self/attr")] {
        let made =
            ring.create(&pod, name, &["true"], |config| config.mounts = vec![volume(VICTIM, path)]).await;
        check(made.is_err(), format!("a volume at {path} was mounted"))?;
    }
    unharmed()?;
    ring.remove(&pod.0).await
}

/// Volumes that an image's links would lead to the kernel's files, or to where devices are made.
pub async fn links_of_an_image_lead_no_volume_astray(ring: &mut Ring) -> Outcome {
    victim()?;
    let pod = ring.sandbox("links", NamespaceMode::Container).await?;
    let with = |mounts: Vec<cri::Mount>| {
        move |config: &mut cri::ContainerConfig| {
            config.image = Some(cri::ImageSpec { image: "test.local/links:1".into(), ..Default::default() });
            config.mounts = mounts;
        }
    };
    for (name, path) in [("through", "/kernel/self"), ("whole", "/kernel"), ("missing", "/self/attr")] {
        let made = ring.create(&pod, name, &["true"], with(vec![volume(VICTIM, path)])).await;
        check(made.is_err(), format!("a volume at {path} was mounted"))?;
    }
    for (name, path) in [("link", "/devices"), ("around", "/nowhere/../dev")] {
        let id = ring.create(&pod, name, &["true"], with(vec![volume(VICTIM, path)])).await?;
        check(ring.begin(&id).await.is_err(), format!("{path} has no null device, and yet it runs"))?;
        unharmed()?;
    }
    // The pod's files take the place of what links lead to, as of anything else.
    let script =
        "grep -q /etc/resolv.conf /proc/self/mountinfo || grep /run/resolve/stub /proc/self/mountinfo";
    let id = ring.create(&pod, "file", &["sh", "-c", script], with(Vec::new())).await?;
    ring.begin(&id).await?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 0, format!("the pod's resolv.conf is not there: {status:?}"))?;
    ring.remove(&pod.0).await
}

/// CVE-2022-29162: capabilities that a program could inherit.
pub async fn nothing_is_inheritable(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("inherit", NamespaceMode::Container).await?;
    let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    let (sets, _) =
        ring.exec(&id, &["grep", "-E", "CapInh|CapAmb", "/proc/self/status", "/proc/1/status"]).await?;
    check(sets.lines().count() == 4 && sets.lines().all(|line| line.ends_with("\t0000000000000000")), sets)?;
    ring.remove(&pod.0).await
}

/// A folder with a folder and a link in it, which change places over and over while the racer lives.
fn swapping(shared: &str, leads_to: &str) -> Result<Racer, String> {
    let (folder, link) = (format!("{shared}/folder"), format!("{shared}/link"));
    fs::create_dir_all(format!("{folder}/attr")).map_err(text)?;
    symlink(leads_to, &link).map_err(text)?;
    Ok(Racer::start(move || {
        let _ = nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            folder.as_str(),
            nix::fcntl::AT_FDCWD,
            link.as_str(),
            nix::fcntl::RenameFlags::RENAME_EXCHANGE,
        );
    }))
}

/// CVE-2024-45310: a mount point below a volume whose owner swaps folders for links while the container is made.
pub async fn mount_points_below_volumes_stay_inside(ring: &mut Ring) -> Outcome {
    victim()?;
    let shared = "/run/racy";
    let racer = swapping(shared, VICTIM)?;
    let pod = ring.sandbox("race", NamespaceMode::Container).await?;
    for round in 0..50 {
        let mounts = vec![volume(shared, "/v"), volume("/run/pintle", "/v/folder/made")];
        let id = ring.create(&pod, &format!("c{round}"), &["true"], |config| config.mounts = mounts).await?;
        if ring.begin(&id).await.is_ok() {
            ring.exited(&id).await?;
        }
        ring.client.remove_container(cri::RemoveContainerRequest { container_id: id }).await.map_err(text)?;
        unharmed()?;
    }
    drop(racer);
    ring.remove(&pod.0).await
}

/// CVE-2025-52881: such links lead mounts to the files of /proc that the runtime itself is going to write to.
pub async fn no_race_leads_a_mount_into_proc(ring: &mut Ring) -> Outcome {
    let (shared, false_attr) = ("/run/racy-proc", "/run/false-attr");
    let racer = swapping(shared, "/proc/self")?;
    shared_folder(false_attr)?;
    let plain = ring.sandbox("race-proc", NamespaceMode::Container).await?;
    let users = sandbox_of_users(ring, "race-proc-users").await?;
    // What lies under procfs is as good as nothing.
    let script = "for f in /proc/*/attr/below; do [ -e $f ] && echo $f && exit 7; done; true";
    // Each is made in a way of its own.
    let ways = [
        (&plain, cri::MountPropagation::PropagationPrivate),
        (&plain, cri::MountPropagation::PropagationHostToContainer),
        (&plain, cri::MountPropagation::PropagationBidirectional),
        (&users, cri::MountPropagation::PropagationPrivate),
    ];
    let mut ran = [0; 4];
    for (round, (pod, propagation)) in ways.iter().cycle().take(ways.len() * 50).enumerate() {
        let below = cri::Mount { propagation: *propagation as i32, ..volume(false_attr, "/v/folder/attr") };
        let name = format!("c{round}");
        let mounts = vec![volume(shared, "/v"), below];
        let id = ring.create(pod, &name, &["sh", "-c", script], |config| config.mounts = mounts).await?;
        if ring.begin(&id).await.is_ok() {
            let status = ring.exited(&id).await?;
            let log = fs::read_to_string(format!("{}/{name}.log", pod.1.log_directory)).unwrap_or_default();
            check(status.exit_code == 0, format!("{}, {propagation:?}: {log}", pod.1.log_directory))?;
            ran[round % ways.len()] += 1;
        }
        ring.client.remove_container(cri::RemoveContainerRequest { container_id: id }).await.map_err(text)?;
    }
    check(!ran.contains(&0), format!("of 50 each, {ran:?} could be started: not every way was tried"))?;
    drop(racer);
    ring.remove(&plain.0).await?;
    ring.remove(&users.0).await?;
    nix::mount::umount(false_attr).map_err(text)
}

/// CVE-2019-5736: a container that runs the launcher's own executable, whose neighbour with SYS_PTRACE takes hold of it, and of that of every container on its way,
/// and writes to it while they run and when they have ended.
pub async fn the_launchers_executable_stays_as_it_is(ring: &mut Ring) -> Outcome {
    let places =
        [PathBuf::from(env!("CARGO_BIN_EXE_pintle-launch")), Path::new(RUNTIME_RUN).join("pintle-launch")];
    let digests =
        || places.iter().map(|path| Ok(digest_of(&fs::read(path)?))).collect::<std::io::Result<Vec<_>>>();
    let before = digests().map_err(text)?;
    // Both see each other's processes, and no pause process keeps the executable from being written to.
    let pod = ring.sandbox("exe", NamespaceMode::Node).await?;
    // A redirection that fails ends the shell that made it. Meanwhile a process may have become the program of its own container, which may be written to.
    let script = r#"held() { case $(readlink $1) in *launch*) ;; *) false; esac; }
        while :; do (while :; do
            for p in /proc/[0-9]*; do held $p/exe && exec 3<$p/exe && held /proc/self/fd/3 && echo HELD; done
            for i in 1 2 3 4 5 6 7 8; do held /proc/self/fd/3 && echo evil >>/proc/self/fd/3 && echo WROTE; done
        done) 2>/dev/null; done"#;
    let watcher = ring.create(&pod, "watcher", &["sh", "-c", script], ptrace).await?;
    ring.begin(&watcher).await?;
    // It waits for a word on its stdin, once it has given up what it may. What it is linked with, the
    // attacker brings along.
    let own = |config: &mut cri::ContainerConfig| {
        crate::mounts::privileged(config);
        config.stdin = true;
        config.mounts = ["/lib", "/lib64", "/usr/lib"].map(|folder| volume(folder, folder)).to_vec();
    };
    let id = ring.create(&pod, "own", &["/proc/self/exe", "pause", "/tmp"], own).await?;
    ring.begin(&id).await?;
    let log = || fs::read_to_string("/var/log/pods/exe/watcher.log").unwrap_or_default();
    for round in 0..50 {
        let id = ring.run(&pod, &format!("c{round}"), &["true"]).await?;
        ring.exited(&id).await?;
    }
    let running = ring.status(&id).await?.state() == cri::ContainerState::ContainerRunning;
    check(running && log().contains("HELD"), "nobody held the launcher's executable, so nothing was tried")?;
    ring.client
        .stop_container(cri::StopContainerRequest { container_id: id, timeout: 0 })
        .await
        .map_err(text)?;
    let held = log().matches("HELD").count();
    // Now nobody runs it, for as long as the watcher takes to try.
    tokio::time::sleep(Duration::from_millis(500)).await;
    check(!log().contains("WROTE"), format!("it was written to; it was held {held} times"))?;
    check(digests().map_err(text)? == before, "the launcher's executable was changed")?;
    ring.remove(&pod.0).await
}

/// CVE-2025-52565: while a container with a terminal is made, /dev/console, /dev/ptmx and /dev/pts are what another makes of them.
pub async fn a_false_console_leads_nowhere(ring: &mut Ring) -> Outcome {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let (folder, before) = ("/run/false-console", fs::read_to_string(PATTERN).map_err(text)?);
    fs::create_dir_all(format!("{folder}/pts")).map_err(text)?;
    null_device(&format!("{folder}/null"))?;
    let console = format!("{folder}/console");
    let racer = Racer::start(move || {
        let _ = fs::remove_file(&console);
        let _ = fs::write(&console, "");
        let _ = fs::remove_file(&console);
        let _ = symlink(PATTERN, &console);
    });
    let pod = ring.sandbox("console", NamespaceMode::Container).await?;
    for (round, ptmx) in
        ["/dev/pts/ptmx", PATTERN, "pts/ptmx", "/proc/1/root/dev/ptmx"].iter().cycle().take(50).enumerate()
    {
        let _ = fs::remove_file(format!("{folder}/ptmx"));
        symlink(ptmx, format!("{folder}/ptmx")).map_err(text)?;
        let id = ring
            .create(
                &pod,
                &format!("c{round}"),
                &["sh", "-c", "echo evil > /dev/console; echo evil"],
                |config| {
                    config.tty = true;
                    config.mounts = vec![volume(folder, "/dev")];
                    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                    security.readonly_paths = vec!["/proc/sys".into()];
                },
            )
            .await?;
        if ring.begin(&id).await.is_ok() {
            ring.exited(&id).await?;
        }
        let now = fs::read_to_string(PATTERN).map_err(text)?;
        check(now == before, format!("the host's core pattern became {now}"))?;
    }
    drop(racer);
    ring.remove(&pod.0).await
}

/// CVE-2025-31133: /dev/null of the container is something else when paths are masked with it.
pub async fn a_false_null_device_masks_nothing(ring: &mut Ring) -> Outcome {
    let folder = "/run/false-null";
    fs::create_dir_all(folder).map_err(text)?;
    let _ = fs::remove_file(format!("{folder}/null"));
    symlink("/proc/sysrq-trigger", format!("{folder}/null")).map_err(text)?;
    let pod = ring.sandbox("null", NamespaceMode::Container).await?;
    let id = ring
        .create(&pod, "main", &["true"], |config| {
            config.mounts = vec![volume(folder, "/dev")];
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.masked_paths = vec!["/proc/kcore".into()];
        })
        .await?;
    let error = ring.begin(&id).await;
    check(error.is_err(), "the container was started with a false /dev/null")?;
    ring.remove(&pod.0).await
}

/// CVE-2016-9962: descriptors of the host in a process that is entering the container. That the process cannot be dumped does not keep them from a container with
/// SYS_PTRACE.
pub async fn a_process_that_enters_brings_nothing_along(ring: &mut Ring) -> Outcome {
    victim()?;
    let pod = ring.sandbox("enter", NamespaceMode::Container).await?;
    let script = "while :; do for f in /proc/[0-9]*/fd/* /proc/[0-9]*/cwd /proc/[0-9]*/root; do \
                  [ -e \"$f/run/victim/ptmx\" ] && echo LEAK $f; done; done 2>/dev/null";
    let id = ring.create(&pod, "watcher", &["sh", "-c", script], ptrace).await?;
    ring.begin(&id).await?;
    for _ in 0..50 {
        let (_, code) = ring.exec(&id, &["true"]).await?;
        check(code == 0, "exec failed")?;
    }
    let log = fs::read_to_string("/var/log/pods/enter/watcher.log").unwrap_or_default();
    check(!log.contains("LEAK"), log)?;
    ring.remove(&pod.0).await
}

/// GHSA-3q8j-pf29-vwv8's class: what is read-only or masked by path is the kernel's file, not what a volume puts in its place.
pub async fn read_only_and_masked_paths_hold(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("paths", NamespaceMode::Container).await?;
    let script = "echo 1 > /proc/sys/kernel/sysrq && exit 3; head -c 1 /proc/kcore | grep -q . && exit 4; ls /proc/acpi | grep -q . && exit 5; true";
    let id = ring
        .create(&pod, "main", &["sh", "-c", script], |config| {
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.readonly_paths = vec!["/proc/sys".into(), "/proc/bus".into()];
            security.masked_paths = vec!["/proc/kcore".into(), "/proc/acpi".into()];
        })
        .await?;
    ring.begin(&id).await?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 0, format!("{status:?}"))?;
    ring.remove(&pod.0).await
}
