//! What a container, or a sick file system beneath a volume, may do to the agent.
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use serde_json::json;

use super::tests::{Fake, block_on, facts, in_private_mounts, pod};
use super::*;
use crate::downward::Environment;

/// Generous: what a test waits for takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

fn context<'a>(
    prepared: &'a PodVolumes,
    environment: &'a Environment,
    images: &'a std::collections::BTreeMap<String, machine::cri::ImageSpec>,
    pod_ips: &'a [String],
) -> MountContext<'a> {
    MountContext {
        volumes: prepared,
        environment,
        pod_ips,
        hostname: "p",
        domain: "",
        images,
        attempt: 0,
        recursive_read_only: false,
    }
}

/// What the start of the only container of a pod without volumes writes below `root`.
fn start_container(root: &Path) -> Result<ContainerMounts, VolumeError> {
    let volumes = Volumes::new(root, Arc::new(Fake::default()));
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let (prepared, environment, images) = Default::default();
    let ips = ["10.1.1.1".to_owned()];
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let context = context(&prepared, &environment, &images, &ips);
    block_on(volumes.container_mounts(&pod, container, context))
}

/// Runs `test` in a process of its own, so that what it measures of the process is its own.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "PINTLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some_and(|value| value == name) {
        return test();
    }
    let own = std::env::current_exe().unwrap();
    let name_of_test = format!("volumes::hostile::{name}");
    let output = std::process::Command::new(own)
        .args(["--exact", &name_of_test, "--nocapture"])
        .env(ALONE, name)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_hosts_file_of_any_size_costs_no_memory() {
    alone("a_hosts_file_of_any_size_costs_no_memory", || {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("pods/u-1");
        fs::create_dir_all(&folder).unwrap();
        let hosts = fs::File::create(folder.join("etc-hosts")).unwrap();
        hosts.set_len(1 << 30).unwrap();
        start_container(root.path()).unwrap();
        let length = hosts.metadata().unwrap().len();
        assert!(length < 4096, "written in place, as running containers have it mounted: {length}");
        assert!(peak() < 200, "{} MiB", peak());
    });
}

#[test]
fn what_stands_in_a_written_files_place_is_neither_waited_for_nor_followed() {
    let root = tempfile::tempdir().unwrap();
    let (pod, outside) = (root.path().join("pods/u-1"), root.path().join("outside"));
    fs::create_dir_all(pod.join("containers/c")).unwrap();
    for name in ["etc-hosts", "containers/c/0"] {
        for how in ["fifo", "link", "hard link"] {
            let path = pod.join(name);
            let _ = fs::remove_file(&path);
            fs::write(&outside, "the node's own").unwrap();
            match how {
                "fifo" => nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
                "link" => symlink(&outside, &path).unwrap(),
                _ => fs::hard_link(&outside, &path).unwrap(),
            }
            let (done, outcome) = mpsc::channel();
            let start = root.path().to_owned();
            std::thread::spawn(move || done.send(start_container(&start)));
            let outcome =
                outcome.recv_timeout(SOON).unwrap_or_else(|_| panic!("{name}: a {how} is waited for"));
            outcome.unwrap();
            assert_eq!(fs::read_to_string(&outside).unwrap(), "the node's own", "{name}: a {how}");
            let now = fs::symlink_metadata(&path).unwrap();
            assert!(now.is_file() && !now.file_type().is_fifo() && now.nlink() == 1, "{name}: a {how}");
        }
    }
}

/// A file system whose server never answers, until it is dropped.
struct Hung(fs::File);

impl Hung {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let Ok(device) = device else {
            eprintln!("SKIPPED: needs /dev/fuse");
            return None;
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hung"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Some(Self(device))
    }
}

#[test]
fn a_path_that_hangs_holds_up_its_own_pod_alone() {
    in_private_mounts("a_path_that_hangs_holds_up_its_own_pod_alone", |dir| {
        let Some(hung) = Hung::mount(&dir.path().join("hung")) else { return };
        let volumes = Volumes::new(dir.path().join("kubelet"), Arc::new(Fake::default()));
        let of = |uid: &str, path: &str, kind: &str| {
            let source = json!({"path": dir.path().join(path), "type": kind});
            let mut pod = pod(json!({"containers": [], "volumes": [{"name": "v", "hostPath": source}]}));
            pod.metadata.uid = Some(uid.to_owned());
            pod
        };
        let (sick, well) = (of("sick", "hung/data", "Directory"), of("well", ".", "Directory"));
        let untyped = of("untyped", "hung/data", "");
        // Lets go of the agent's thread, if it waits, once the test has failed.
        let (over, given_up) = (mpsc::channel::<()>(), Arc::new(AtomicBool::new(false)));
        let watchdog = std::thread::spawn({
            let given_up = given_up.clone();
            move || {
                if over.1.recv_timeout(SOON).is_err() {
                    given_up.store(true, Ordering::SeqCst);
                }
                drop(hung.0);
            }
        });
        block_on(async {
            let waiting = tokio::spawn({
                let (volumes, sick) = (volumes.clone(), sick.clone());
                async move { volumes.prepare(&sick, &facts()).await }
            });
            tokio::task::yield_now().await;
            volumes.prepare(&well, &facts()).await.unwrap();
            volumes.teardown("well").await.unwrap();
            volumes.prepare(&untyped, &facts()).await.unwrap();
            // The end of a pod does not wait for what it has on the node.
            volumes.teardown("sick").await.unwrap();
            assert!(!given_up.load(Ordering::SeqCst), "the agent's thread stood still");
            waiting.abort();
        });
        let _ = over.0.send(());
        watchdog.join().unwrap();
    });
}
