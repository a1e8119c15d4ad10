use super::*;

fn mount(path: &str) -> cri::Mount {
    cri::Mount { host_path: "/x".into(), container_path: path.into(), ..Default::default() }
}

#[test]
fn recursive_read_only_is_private_and_read_only() {
    let mut wanted = cri::Mount { recursive_read_only: true, ..mount("/mnt") };
    assert!(check(&wanted).unwrap_err().contains("readonly"));
    wanted.readonly = true;
    assert_eq!(check(&wanted), Ok(()));
    wanted.propagation = cri::MountPropagation::PropagationHostToContainer as i32;
    assert!(check(&wanted).unwrap_err().contains("private"));
}

#[test]
fn proc_stays_the_kernels() {
    for path in ["/proc", "/proc/self", "/x/../proc/1/attr", "/proc/sys/kernel/sysrq"] {
        assert!(check(&mount(path)).is_err(), "{path}");
    }
    for path in ["/proc/meminfo", "/host/proc", "/process"] {
        assert_eq!(check(&mount(path)), Ok(()), "{path}");
    }
    assert_eq!(check(&cri::Mount { host_path: "/proc".into(), ..mount("/proc") }), Ok(()));
}

#[test]
fn links_of_the_root_are_followed_in_it() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run/lock")).unwrap();
    std::os::unix::fs::symlink("/run", root.path().join("var")).unwrap();
    std::os::unix::fs::symlink("../../../proc", root.path().join("run/lock/all")).unwrap();
    fs::create_dir(root.path().join("proc")).unwrap();
    std::os::unix::fs::symlink("../later/./in", root.path().join("soon")).unwrap();
    std::os::unix::fs::symlink("/around", root.path().join("around")).unwrap();
    for (path, place) in [
        ("/var/lock", "/run/lock"),
        ("/var/new/folder", "/run/new/folder"),
        ("/run/lock/all/self", "/proc/self"),
        ("/etc/hosts", "/etc/hosts"),
        ("/soon/x", "/later/in/x"),
        ("/around/x", "/around/x"),
    ] {
        assert_eq!(leads(root.path(), Path::new(path)), Path::new(place));
    }
}

#[test]
fn the_root_cannot_be_mounted_over() {
    for path in ["/", "//", "/./", ".", "/..", "/a/../"] {
        assert!(check(&mount(path)).is_err(), "{path}");
    }
    assert_eq!(check(&mount("/dev")), Ok(()));
}

#[test]
fn the_innermost_mount_tells_who_the_peers_are() {
    let text = "1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:2 / /tmp rw master:4 - tmpfs t rw\n3 1 0:3 / /run rw - tmpfs r rw\n";
    assert_eq!(peers(text, Path::new("/var/x")), (true, true));
    assert_eq!(peers(text, Path::new("/tmp/x")), (true, false));
    assert_eq!(peers(text, Path::new("/run")), (false, false));
    assert_eq!(peers(text, Path::new("/running")), (true, true));
}
