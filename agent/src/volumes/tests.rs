use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use machine::cri::ImageSpec;
use serde_json::json;

use super::*;
use crate::cgroup::Amount;
use crate::downward::{Environment, PodFacts};

#[derive(Debug, Default)]
pub(super) struct Fake {
    config_maps: Mutex<BTreeMap<String, ConfigMap>>,
    secrets: Mutex<BTreeMap<String, Secret>>,
    tokens: Mutex<Vec<i64>>,
}

impl Fake {
    fn set(&self, name: &str, data: serde_json::Value) {
        let map = serde_json::from_value(json!({"data": data})).unwrap();
        self.config_maps.lock().unwrap().insert(name.into(), map);
    }
}

impl Source for Fake {
    fn config_map<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>> {
        let found = self.config_maps.lock().unwrap().get(name).cloned().map(Arc::new);
        async move { found.ok_or_else(|| SourceError::not_found(format!("configmap {name:?} not found"))) }
            .boxed()
    }
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>> {
        let found = self.secrets.lock().unwrap().get(name).cloned().map(Arc::new);
        async move { found.ok_or_else(|| SourceError::not_found(format!("secret {name:?} not found"))) }
            .boxed()
    }
    fn token<'a>(
        &'a self,
        request: TokenRequest<'a>,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>> {
        let mut tokens = self.tokens.lock().unwrap();
        tokens.push(request.expiration_seconds);
        let token = format!("token-{}", tokens.len());
        let expires = Timestamp::now() + SignedDuration::from_secs(request.expiration_seconds);
        async move { Ok(ServiceAccountToken { token, expires }) }.boxed()
    }
}

pub(super) fn pod(spec: serde_json::Value) -> Pod {
    let metadata = json!({"name": "p", "namespace": "ns", "uid": "u-1", "labels": {"a": "1"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

pub(super) fn facts() -> PodFacts {
    let memory = Amount::units(64 << 20);
    PodFacts { node_allocatable: [("memory".to_owned(), memory)].into(), ..PodFacts::default() }
}

fn file(data: &str) -> atomic::File {
    atomic::File { data: data.into(), mode: 0o640, user: None }
}

/// Runs `test` as root in a mount namespace of its own, or says loudly that it did not.
pub(super) fn in_private_mounts(name: &str, test: impl FnOnce(tempfile::TempDir) + Send + 'static) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root for mounts");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        match mount(None::<&str>, "/", None::<&str>, flags, None::<&str>) {
            // In a chroot the root need not be a mount point; whoever made it has seen to its mounts.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => panic!("make mounts private: {error}"),
        }
        test(tempfile::tempdir().unwrap());
    });
    thread.join().unwrap();
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_reader_sees_the_old_set_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let none = |_: &Path| Ok(());
    let first = BTreeMap::from([("a".to_owned(), file("1")), ("deep/er/b".to_owned(), file("2"))]);
    assert!(atomic::write(dir, &first, none).unwrap());
    assert!(!atomic::write(dir, &first, none).unwrap(), "the same again writes nothing");
    assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(fs::read_to_string(dir.join("deep/er/b")).unwrap(), "2");
    assert_eq!(fs::metadata(dir.join("a")).unwrap().mode() & 0o777, 0o640);
    let second = BTreeMap::from([("a".to_owned(), file("3")), ("c".to_owned(), file("4"))]);
    assert!(atomic::write(dir, &second, none).unwrap());
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    assert!(fs::symlink_metadata(dir.join("deep")).is_err());
    let names = fs::read_dir(dir).unwrap().count();
    assert_eq!(names, 4, "a, c, ..data and one timestamp directory");
}

#[test]
fn a_death_in_the_middle_of_a_write_is_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let payload = BTreeMap::from([("a".to_owned(), file("1"))]);
    atomic::write(dir, &payload, |_| Ok(())).unwrap();
    fs::create_dir(dir.join("..2020_01_01_00_00_00.1")).unwrap();
    symlink("..2020_01_01_00_00_00.1", dir.join("..data_tmp")).unwrap();
    let payload = BTreeMap::from([("a".to_owned(), file("2"))]);
    atomic::write(dir, &payload, |_| Ok(())).unwrap();
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
}

#[test]
fn paths_cannot_leave_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["../a", "a/../../b", "/etc/passwd", "", "..data", "..2020/x"] {
        let payload = BTreeMap::from([(path.to_owned(), file("1"))]);
        assert!(atomic::write(dir.path(), &payload, |_| Ok(())).is_err(), "{path}");
    }
}

#[test]
fn tokens_are_renewed_at_four_fifths_of_their_life_or_after_a_day() {
    let expires: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
    let token = ServiceAccountToken { token: "t".into(), expires };
    let due = |seconds: i64| (expires - tokens::due(&token, seconds)).total(jiff::Unit::Second).unwrap();
    assert_eq!(due(3600), 720.0);
    assert_eq!(due(86400 * 5), 86400.0 * 4.0);
}

#[test]
fn the_hosts_file_is_the_kubelets() {
    let aliases =
        serde_json::from_value::<Vec<_>>(json!([{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])).unwrap();
    let ips = ["10.244.1.2".to_owned(), "fd00::2".to_owned()];
    let file = hosts_file(None, &ips, "web-0", "web.ns.svc.cluster.local", &aliases);
    let expected = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
        10.244.1.2\tweb-0.web.ns.svc.cluster.local\tweb-0\nfd00::2\tweb-0.web.ns.svc.cluster.local\tweb-0\n\
        \n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
    assert_eq!(file, expected);
    let host = hosts_file(Some("127.0.0.1 node\n"), &ips, "node", "", &[]);
    assert_eq!(host, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n");
}

#[test]
fn all_references_are_found() {
    let pod = pod(json!({
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"name": "a", "configMap": {"name": "cm1"}},
            {"name": "b", "projected": {"sources": [{"secret": {"name": "s1"}}, {"configMap": {"name": "cm2"}}]}},
        ],
        "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s2"}}],
            "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm3", "key": "k"}}}]}],
    }));
    let refs = object_refs(&pod);
    assert_eq!(Vec::from_iter(refs.config_maps), ["cm1", "cm2", "cm3"]);
    assert_eq!(Vec::from_iter(refs.secrets), ["pull", "s1", "s2"]);
}

#[test]
fn refused_kinds_say_why() {
    let source = Arc::new(Fake::default());
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path(), source);
    let message = |volume: serde_json::Value| {
        let pod = pod(json!({"containers": [], "volumes": [volume]}));
        block_on(volumes.prepare(&pod, &facts())).unwrap_err().to_string()
    };
    let csi = message(json!({"name": "v", "csi": {"driver": "x"}}));
    assert!(csi.starts_with("MountVolume.SetUp failed for volume \"v\" : ") && csi.contains("csi"), "{csi}");
    assert!(message(json!({"name": "v", "gitRepo": {"repository": "x"}})).contains("CVE-2024-10220"));
    let missing = message(json!({"name": "v", "configMap": {"name": "gone"}}));
    assert!(missing.ends_with("configmap \"gone\" not found"), "{missing}");
    let wrong = message(json!({"name": "v", "hostPath": {"path": "/proc/self/stat", "type": "Directory"}}));
    assert!(wrong.ends_with("/proc/self/stat is not a directory"), "{wrong}");
}

#[test]
fn a_pods_volumes_come_follow_their_objects_and_go() {
    in_private_mounts("a_pods_volumes_come_follow_their_objects_and_go", |dir| {
        let source = Arc::new(Fake::default());
        source.set("cm", json!({"key": "one", "other": "x"}));
        let secret = json!({"data": {"password": "c2VjcmV0"}});
        source.secrets.lock().unwrap().insert("s".into(), serde_json::from_value(secret).unwrap());
        let volumes = Volumes::new(dir.path(), source.clone());
        let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}});
        let label = json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}});
        let pod = pod(json!({
            "serviceAccountName": "sa",
            "securityContext": {"fsGroup": 1234},
            "containers": [{"name": "c", "resources": {"limits": {"memory": "8Mi"}}}],
            "volumes": [
                {"name": "cm", "configMap": {"name": "cm", "items": [{"key": "key", "path": "sub/file", "mode": 256}]}},
                {"name": "opt", "secret": {"secretName": "none", "optional": true}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "kube", "projected": {"sources": [token, label]}},
                {"name": "disk", "emptyDir": {}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        }));
        let prepared = block_on(volumes.prepare(&pod, &facts())).unwrap();
        let path = |name: &str| match &prepared.volumes[name] {
            PreparedVolume::Path { path, .. } => path.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path("disk"), volumes.pod_dir("u-1").join("volumes/kubernetes.io~empty-dir/disk"));
        let mode = |path: &Path| fs::metadata(path).map(|m| (m.mode() & 0o7777, m.gid())).unwrap();
        assert_eq!(mode(&path("disk")), (0o2777, 1234));
        assert_eq!(mode(&path("cm").join("sub/file")), (0o440, 1234));
        assert_eq!(mode(&path("kube").join("token")), (0o640, 1234));
        assert_eq!(fs::read_to_string(path("s").join("password")).unwrap(), "secret");
        assert_eq!(fs::read_to_string(path("kube").join("labels")).unwrap(), "a=\"1\"");
        let statfs = nix::sys::statfs::statfs(&path("mem")).unwrap();
        assert_eq!(statfs.blocks() * statfs.block_size() as u64, 1 << 20);
        assert!(prepared.renew_at.unwrap() > Timestamp::now() + SignedDuration::from_mins(45));

        // Again, as after a restart of the agent: nothing is mounted twice, no data is lost, no new token is asked for.
        fs::write(path("disk").join("data"), "kept").unwrap();
        block_on(volumes.prepare(&pod, &facts())).unwrap();
        assert_eq!(fs::read_to_string(path("disk").join("data")).unwrap(), "kept");
        assert_eq!(source.tokens.lock().unwrap().as_slice(), [3607]);
        let mounts = mount_table::below(&fs::canonicalize(dir.path()).unwrap()).unwrap();
        assert_eq!(mounts.len(), 4, "{mounts:?}");

        source.set("cm", json!({"key": "two"}));
        block_on(volumes.refresh(&pod, &facts())).unwrap();
        assert_eq!(fs::read_to_string(path("cm").join("sub/file")).unwrap(), "two");
        assert_eq!(mode(&path("cm").join("sub/file")), (0o440, 1234));

        block_on(volumes.teardown("u-1")).unwrap();
        assert!(!volumes.pod_dir("u-1").exists());
        assert_eq!(mount_table::below(&fs::canonicalize(dir.path()).unwrap()).unwrap().len(), 0);
        block_on(volumes.teardown("u-1")).unwrap();
        assert!(volumes.pods_on_disk().is_empty());
    });
}

#[test]
fn mounts_of_a_container_and_subpaths_that_cannot_escape() {
    in_private_mounts("mounts_of_a_container_and_subpaths_that_cannot_escape", |dir| {
        let source = Arc::new(Fake::default());
        source.set("cm", json!({"key": "one"}));
        let volumes = Volumes::new(dir.path().join("kubelet"), source.clone());
        let pod = pod(json!({
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "disk", "mountPath": "/data", "mountPropagation": "HostToContainer"},
                {"name": "disk", "mountPath": "/sub", "subPathExpr": "$(NAME)/deep", "readOnly": true},
                {"name": "cm", "mountPath": "/cfg", "subPath": "key"},
                {"name": "img", "mountPath": "/img", "subPath": "a/b"},
            ]}],
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "cm"}},
                {"name": "img", "image": {"reference": "example/a:1"}}],
        }));
        let prepared = block_on(volumes.prepare(&pod, &facts())).unwrap();
        let variable = json!({"name": "c", "env": [{"name": "NAME", "value": "x"}]});
        let variable = serde_json::from_value(variable).unwrap();
        let environment: Environment =
            block_on(crate::env::container_env(&pod, &variable, &[], &facts(), &*source)).unwrap();
        let images = BTreeMap::from([(
            "img".to_owned(),
            ImageSpec { image: "sha256:1".into(), ..ImageSpec::default() },
        )]);
        let context = MountContext {
            volumes: &prepared,
            environment: &environment,
            pod_ips: &["10.1.1.1".to_owned()],
            hostname: "p",
            domain: "",
            images: &images,
            attempt: 2,
            recursive_read_only: false,
        };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let disk = volumes.pod_dir("u-1").join("volumes/kubernetes.io~empty-dir/disk");
        let mounts = block_on(volumes.container_mounts(&pod, container, context)).unwrap();
        let at = |path: &str| mounts.mounts.iter().find(|mount| mount.container_path == path).unwrap();
        assert_eq!(at("/data").host_path, disk.to_str().unwrap());
        assert_eq!(at("/data").propagation, 1);
        fs::write(disk.join("x/deep/seen"), "yes").unwrap();
        assert_eq!(fs::read_to_string(Path::new(&at("/sub").host_path).join("seen")).unwrap(), "yes");
        assert!(at("/sub").readonly && at("/cfg").readonly && at("/img").readonly && !at("/data").readonly);
        assert_eq!(fs::metadata(disk.join("x/deep")).unwrap().mode() & 0o777, 0o777);
        assert_eq!(fs::read_to_string(&at("/cfg").host_path).unwrap(), "one");
        assert_eq!((at("/img").image_sub_path.as_str(), at("/img").host_path.as_str()), ("a/b", ""));
        assert!(fs::read_to_string(&at("/etc/hosts").host_path).unwrap().contains("10.1.1.1\tp\n"));
        assert_eq!(mounts.termination_log, Some(volumes.termination_log("u-1", "c", 2)));
        let log = fs::metadata(mounts.termination_log.unwrap()).unwrap();
        assert_eq!(log.permissions().mode() & 0o777, 0o666);

        // The pod exchanges the directory for links out of its volume: the kernel refuses to follow them.
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::rename(disk.join("x"), disk.join("y")).unwrap();
        for target in [outside.to_str().unwrap(), "../../../../../outside", "/", "/proc/self/root"] {
            let _ = fs::remove_file(disk.join("x"));
            symlink(target, disk.join("x")).unwrap();
            let refused = block_on(volumes.container_mounts(&pod, container, context)).unwrap_err();
            assert!(refused.to_string().starts_with("failed to prepare subPath"), "{target}: {refused}");
        }
        assert_eq!(fs::read_dir(outside.join("deep")).unwrap().count(), 0);
        // A link that stays inside is followed, and an update of the ConfigMap does not reach the subPath.
        fs::remove_file(disk.join("x")).unwrap();
        symlink("y", disk.join("x")).unwrap();
        block_on(volumes.container_mounts(&pod, container, context)).unwrap();
        source.set("cm", json!({"key": "two"}));
        block_on(volumes.refresh(&pod, &facts())).unwrap();
        assert_eq!(fs::read_to_string(&at("/cfg").host_path).unwrap(), "one");
        block_on(volumes.teardown("u-1")).unwrap();
        assert!(!volumes.pod_dir("u-1").exists());
        assert!(outside.join("deep").exists());
    });
}

#[test]
fn a_subpath_escapes_in_none_of_ten_thousand_exchanges() {
    in_private_mounts("a_subpath_escapes_in_none_of_ten_thousand_exchanges", |dir| {
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("good/leaf")).unwrap();
        fs::write(volume.join("good/leaf/inside"), "").unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("leaf")).unwrap();
        symlink("../outside", volume.join("evil")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let exchanges = Arc::new(AtomicU64::new(0));
        let swapper = std::thread::spawn({
            let (volume, stop, exchanges) = (volume.clone(), stop.clone(), exchanges.clone());
            move || {
                use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
                let (good, evil) = (volume.join("good"), volume.join("evil"));
                while !stop.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &good, AT_FDCWD, &evil, RenameFlags::RENAME_EXCHANGE).unwrap();
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let (target, mut bound, mut tries) = (dir.path().join("target"), 0, 0);
        // However the two threads share the processor.
        while tries < 10_000 || bound == 0 || exchanges.load(Ordering::Relaxed) <= 10_000 {
            tries += 1;
            if subpath::bind(&volume, Path::new("good/leaf"), &target).is_ok() {
                bound += 1;
                assert!(target.join("inside").exists(), "something outside the volume was bound");
                nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
    });
}
