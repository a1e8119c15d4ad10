//! Volumes: where mounts come from and go to, who may write, and whose the files are.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use machine::cri::{self, MountPropagation, NamespaceMode};
use nix::mount::{MsFlags, mount, umount};

use crate::escapes::{null_device, volume};
use crate::ring::{Outcome, Ring, check, text};

/// A shared tmpfs with a folder `below`.
pub fn shared_folder(path: &str) -> Outcome {
    fs::create_dir_all(path).map_err(text)?;
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(text)?;
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).map_err(text)?;
    fs::create_dir_all(format!("{path}/below")).map_err(text)?;
    fs::create_dir_all(format!("{path}/inner")).map_err(text)
}

/// Where mounts are, as a thread sees it that has gone to a launches' mount namespace.
fn seen_by_launches() -> Result<(Vec<String>, usize), String> {
    let base = containers::launch::mount_ns::make().map_err(text)?;
    let thread = std::thread::spawn(move || -> std::io::Result<String> {
        let [namespace, root] = base.raw();
        // A thread shares its root with the others until it says otherwise.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        fs::File::open(format!("/proc/self/fd/{namespace}"))
            .and_then(|file| Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNS)?))?;
        std::os::unix::fs::chroot(format!("/proc/self/fd/{root}"))?;
        fs::read_to_string("/proc/thread-self/mountinfo")
    });
    let seen = thread.join().map_err(|_| "the thread panicked")?.map_err(text)?;
    let points = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split(' ').nth(4)?.to_owned())).collect()
    };
    Ok((points(&seen), points(&fs::read_to_string("/proc/self/mountinfo").map_err(text)?).len()))
}

/// However many pods there are: libcontainer copies what it sees for each container.
pub async fn launches_see_no_mounts_of_pods(ring: &mut Ring) -> Outcome {
    let (before, ours) = seen_by_launches()?;
    let pod = ring.sandbox("unseen", NamespaceMode::Container).await?;
    let id = ring.create(&pod, "main", &["sleep", "1000"], |_| {}).await?;
    ring.begin(&id).await?;
    shared_folder("/run/unseen")?;
    let (after, ours_now) = seen_by_launches()?;
    // The folder's, and at least one of the pod's.
    check(ours_now > ours + 1, format!("{ours} mounts before, {ours_now} with a pod"))?;
    check(after == before, format!("launches see {after:?}, and saw {before:?}"))?;
    for needed in ["/", "/proc", "/sys/fs/cgroup"] {
        check(after.iter().any(|point| point == needed), format!("{needed} is missing from {after:?}"))?;
    }
    umount("/run/unseen").map_err(text)?;
    ring.remove(&pod.0).await
}

pub fn privileged(config: &mut cri::ContainerConfig) {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
}

pub async fn mounts_come_and_go_as_the_volume_says(ring: &mut Ring) -> Outcome {
    let cases = [
        (MountPropagation::PropagationPrivate, false, false),
        (MountPropagation::PropagationHostToContainer, true, false),
        (MountPropagation::PropagationBidirectional, true, true),
    ];
    for (propagation, comes, goes) in cases {
        let name = format!("propagation{}", propagation as i32);
        let host = format!("/run/{name}");
        shared_folder(&host)?;
        let pod = ring.sandbox(&name, NamespaceMode::Container).await?;
        let id = ring
            .create(&pod, "main", &["sleep", "1000"], |config| {
                privileged(config);
                config.mounts = vec![cri::Mount { propagation: propagation as i32, ..volume(&host, "/v") }];
            })
            .await?;
        ring.begin(&id).await?;
        let below = format!("{host}/below");
        mount(Some("tmpfs"), below.as_str(), Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(text)?;
        fs::write(format!("{below}/flag"), "").map_err(text)?;
        let (seen, _) = ring.exec(&id, &["ls", "/v/below"]).await?;
        check(seen.contains("flag") == comes, format!("{propagation:?}: came {seen:?}"))?;
        let (said, code) = ring.exec(&id, &["mount", "-t", "tmpfs", "tmpfs", "/v/inner"]).await?;
        check(code == 0, said)?;
        let mounted = fs::metadata(format!("{host}/inner")).map_err(text)?.dev()
            != fs::metadata(&host).map_err(text)?.dev();
        check(mounted == goes, format!("{propagation:?}: went {mounted}"))?;
        ring.remove(&pod.0).await?;
        if goes {
            umount(format!("{host}/inner").as_str()).map_err(text)?;
        }
        umount(below.as_str()).and_then(|()| umount(host.as_str())).map_err(text)?;
    }
    let pod = ring.sandbox("unshared", NamespaceMode::Container).await?;
    let wanted = cri::Mount {
        propagation: MountPropagation::PropagationBidirectional as i32,
        ..volume("/run/pintle/runtime/containers", "/v")
    };
    let error =
        ring.create(&pod, "main", &["true"], |config| config.mounts = vec![wanted]).await.unwrap_err();
    check(error.contains("does not lie on a shared mount"), error)?;
    ring.remove(&pod.0).await
}

pub async fn read_only_goes_down_the_whole_tree(ring: &mut Ring) -> Outcome {
    shared_folder("/run/rro")?;
    mount(Some("tmpfs"), "/run/rro/below", Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(text)?;
    let pod = ring.sandbox("rro", NamespaceMode::Container).await?;
    for (recursive, code) in [(false, 0), (true, 1)] {
        let wanted =
            cri::Mount { readonly: true, recursive_read_only: recursive, ..volume("/run/rro", "/v") };
        let script = "echo x > /v/x && exit 9; echo x > /v/below/x";
        let id = ring
            .create(&pod, &format!("c{recursive}"), &["sh", "-c", script], |config| {
                config.mounts = vec![wanted]
            })
            .await?;
        ring.begin(&id).await?;
        let status = ring.exited(&id).await?;
        check(status.exit_code == code, format!("recursive {recursive}: {status:?}"))?;
    }
    ring.remove(&pod.0).await?;
    umount("/run/rro/below").and_then(|()| umount("/run/rro")).map_err(text)
}

/// How users of a pod with a user namespace are the host's.
const USERS: cri::IdMapping = cri::IdMapping { host_id: 100_000, container_id: 0, length: 65536 };

/// A pod with a user namespace.
pub async fn sandbox_of_users(
    ring: &mut Ring,
    name: &str,
) -> Result<(String, cri::PodSandboxConfig), String> {
    ring.give_range().await?;
    let users = cri::UserNamespace { mode: NamespaceMode::Pod as i32, uids: vec![USERS], gids: vec![USERS] };
    ring.sandbox_with(name, |options| {
        options.network = NamespaceMode::Pod as i32;
        options.pid = NamespaceMode::Pod as i32;
        options.userns_options = Some(users);
    })
    .await
}

pub async fn a_pod_with_its_own_users_owns_its_files(ring: &mut Ring) -> Outcome {
    fs::create_dir_all("/run/mapped").map_err(text)?;
    fs::write("/run/mapped/of-root", "x").map_err(text)?;
    let pod = sandbox_of_users(ring, "users").await?;
    let mapping = vec![USERS];
    let wanted =
        cri::Mount { uid_mappings: mapping.clone(), gid_mappings: mapping, ..volume("/run/mapped", "/v") };
    let id = ring.create(&pod, "main", &["sleep", "1000"], |config| config.mounts = vec![wanted]).await?;
    ring.begin(&id).await?;
    let (map, _) = ring.exec(&id, &["cat", "/proc/self/uid_map"]).await?;
    check(map.split_ascii_whitespace().eq(["0", "100000", "65536"]), map)?;
    // The image's files, the volume's, and the pod's are root's; what root writes to the volume is the host's root's.
    let script = "id -u; ls -ln /bin/busybox /v/of-root /etc/hosts; echo hi > /v/written; echo x >> /etc/hosts; echo y > /new; mkdir /dir";
    let (seen, code) = ring.exec(&id, &["sh", "-c", script]).await?;
    let owned = seen.lines().skip(1).all(|line| line.split_ascii_whitespace().nth(2) == Some("0"));
    check(code == 0 && seen.starts_with("0\n") && owned, format!("{code} {seen}"))?;
    check(fs::metadata("/run/mapped/written").map_err(text)?.uid() == 0, "the volume's file is not root's")?;
    let (seen, _) = ring.exec(&id, &["sh", "-c", "hostname; cat /proc/net/dev"]).await?;
    check(seen.contains("users-host") && seen.contains("eth0"), seen)?;
    let (said, code) = ring.exec(&id, &["mknod", "/sda", "b", "8", "0"]).await?;
    check(code != 0, said)?;
    ring.remove(&pod.0).await
}

pub async fn a_volume_at_dev_leaves_the_hosts_devices_alone(ring: &mut Ring) -> Outcome {
    let folder = "/run/fake-dev";
    fs::create_dir_all(folder).map_err(text)?;
    for name in ["ptmx", "kcore", "fd"] {
        fs::write(format!("{folder}/{name}"), name).map_err(text)?;
    }
    null_device(&format!("{folder}/null"))?;
    let pod = ring.sandbox("dev", NamespaceMode::Container).await?;
    let id = ring
        .create(&pod, "main", &["sh", "-c", "cat /dev/ptmx /dev/kcore"], |config| {
            config.mounts = vec![volume(folder, "/dev")];
        })
        .await?;
    ring.begin(&id).await?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 0, format!("{status:?}"))?;
    for name in ["ptmx", "kcore", "fd"] {
        let path = format!("{folder}/{name}");
        check(fs::read_to_string(&path).is_ok_and(|text| text == name), format!("{path} was changed"))?;
    }
    check(fs::read_dir(folder).map_err(text)?.count() == 4, "something was made in the host's folder")?;
    ring.remove(&pod.0).await
}

/// CVE-2026-41579: links that are made below a /dev which is one itself.
pub async fn an_image_with_a_link_for_dev_is_refused(ring: &mut Ring) -> Outcome {
    fs::create_dir_all("/run/victim").map_err(text)?;
    fs::write("/run/victim/ptmx", "precious").map_err(text)?;
    let pod = ring.sandbox("link", NamespaceMode::Container).await?;
    let change = |config: &mut cri::ContainerConfig| {
        config.image = Some(cri::ImageSpec { image: "test.local/dev-link:1".into(), ..Default::default() });
    };
    let error = ring.create(&pod, "main", &["true"], change).await.unwrap_err();
    check(error.contains("/dev is no folder"), error)?;
    check(Path::new("/run/victim/ptmx").exists(), "the host's file is gone")?;
    check(fs::read_dir("/run/victim").map_err(text)?.count() == 1, "links were made on the host")?;
    ring.remove(&pod.0).await
}

/// Where a pod mounts something does not decide what it still finds there: what lies deeper comes later.
pub async fn a_volume_hides_nothing_that_lies_below_it(ring: &mut Ring) -> Outcome {
    let folder = "/run/volume-of-etc";
    for users in [false, true] {
        fs::create_dir_all(folder).map_err(text)?;
        fs::write(format!("{folder}/own"), "own").map_err(text)?;
        let name = if users { "deep-users" } else { "deep" };
        let pod = if users {
            sandbox_of_users(ring, name).await?
        } else {
            ring.sandbox(name, NamespaceMode::Container).await?
        };
        let wanted = cri::Mount {
            uid_mappings: if users { vec![USERS] } else { Vec::new() },
            gid_mappings: if users { vec![USERS] } else { Vec::new() },
            ..volume(folder, "/etc")
        };
        let id = ring.create(&pod, "main", &["sleep", "1000"], |config| config.mounts = vec![wanted]).await?;
        ring.begin(&id).await?;
        let (seen, code) = ring.exec(&id, &["cat", "/etc/own", "/etc/hostname", "/etc/hosts"]).await?;
        let there =
            seen.starts_with("own") && seen.contains(&format!("{name}-host")) && seen.contains("localhost");
        check(code == 0 && there, format!("{name}: {code} {seen}"))?;
        let (_, code) = ring.exec(&id, &["cat", "/etc/resolv.conf"]).await?;
        check(code == 0, format!("{name}: /etc/resolv.conf is hidden"))?;
        ring.remove(&pod.0).await?;
        fs::remove_dir_all(folder).map_err(text)?;
    }
    Ok(())
}

/// As runc: root's, with the usual mode, and made before the root is read-only.
pub async fn a_working_folder_that_is_not_there_is_made(ring: &mut Ring) -> Outcome {
    fs::create_dir_all("/run/working-victim").map_err(text)?;
    for users in [false, true] {
        let name = if users { "cwd-users" } else { "cwd" };
        let pod = if users {
            sandbox_of_users(ring, name).await?
        } else {
            ring.sandbox(name, NamespaceMode::Container).await?
        };
        let change = |config: &mut cri::ContainerConfig| {
            config.working_dir = "/opt/not/there".into();
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_user = Some(cri::Int64Value { value: 1000 });
            security.readonly_rootfs = true;
        };
        let script = "readlink /proc/self/cwd; ls -ldn /opt/not/there; ls -ldn /opt";
        let id = ring.create(&pod, "main", &["sh", "-c", script], change).await?;
        ring.begin(&id).await?;
        ring.exited(&id).await?;
        let log = fs::read_to_string(format!("/var/log/pods/{name}/main.log")).map_err(text)?;
        check(log.contains(" F /opt/not/there\n"), format!("{name}: the working folder: {log}"))?;
        let owned: Vec<&str> = log.lines().filter(|line| line.contains("drwxr-xr-x")).collect();
        let roots = |line: &&str| line.split_ascii_whitespace().skip(3).nth(2) == Some("0");
        check(owned.len() == 2 && owned.iter().all(roots), format!("{name}: its owner and mode: {log}"))?;
        if !users {
            // A link of the image leads to the container's own place of that name.
            let change = |config: &mut cri::ContainerConfig| {
                config.image =
                    Some(cri::ImageSpec { image: "test.local/links:1".into(), ..Default::default() });
                config.working_dir = "/outside/made".into();
            };
            let id = ring.create(&pod, "link", &["readlink", "/proc/self/cwd"], change).await?;
            ring.begin(&id).await?;
            check(ring.exited(&id).await?.exit_code == 0, format!("{name}: a link in the way"))?;
        }
        let made = fs::read_dir("/run/working-victim").map_err(text)?.count();
        check(made == 0, format!("{name}: a folder was made on the host"))?;
        ring.remove(&pod.0).await?;
    }
    Ok(())
}

/// Whatever step fails, its error says which, of what, and why.
pub async fn a_start_that_fails_says_what_failed(ring: &mut Ring) -> Outcome {
    fs::write("/run/plain-file", "").map_err(text)?;
    let pod = ring.sandbox("failing", NamespaceMode::Container).await?;
    let file_on_folder = |propagation: MountPropagation| cri::Mount {
        propagation: propagation as i32,
        ..volume("/run/plain-file", "/bin")
    };
    type Change = Box<dyn Fn(&mut cri::ContainerConfig)>;
    let cases: [(&str, &[&str], Change); 3] = [
        (
            "file-as-folder",
            &["/etc/passwd", "ot a directory"],
            Box::new(|config| {
                config.working_dir = "/etc/passwd".into();
            }),
        ),
        (
            "file-on-folder",
            &["/bin", "nvalid argument"],
            Box::new(move |config| {
                config.mounts = vec![file_on_folder(MountPropagation::PropagationPrivate)];
            }),
        ),
        // This one libcontainer makes, since it has an option that the launch does not understand.
        (
            "left-to-libcontainer",
            &["/bin", "EINVAL"],
            Box::new(move |config| {
                let options = vec!["noexec".into()];
                let mount = file_on_folder(MountPropagation::PropagationPrivate);
                config.mounts = vec![cri::Mount { mount_options: options, ..mount }];
            }),
        ),
    ];
    for (name, words, change) in cases {
        let id = ring.create(&pod, name, &["true"], |config| change(config)).await?;
        let error = ring.begin(&id).await.err().unwrap_or_default();
        for word in words {
            check(error.contains(word), format!("{name}: {word:?} is not in {error:?}"))?;
        }
        let status = ring.status(&id).await?;
        check(status.reason == "StartError", format!("{name}: {status:?}"))?;
    }
    ring.remove(&pod.0).await
}
