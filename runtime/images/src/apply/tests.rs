use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, EntryType, Header};

use super::*;

/// A layer made entry by entry, with whatever names a hostile one has.
#[derive(Default)]
struct Layer(Vec<u8>);

impl Layer {
    fn add(mut self, kind: EntryType, name: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn dir(self, name: &str) -> Self {
        self.add(EntryType::Directory, name, "", 0o750, b"")
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, "", 0o4755, data)
    }

    fn symlink(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Symlink, name, to, 0o777, b"")
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.add(EntryType::Link, name, to, 0o644, b"")
    }

    fn unpack(&self) -> (tempfile::TempDir, Result<Applied, ApplyError>) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(outer.path().join("host"), "host").unwrap();
        let limits = Limits { bytes: 1 << 20, entries: 100, ..Limits::default() };
        let applied = apply(self.0.as_slice(), &root, &limits);
        assert_eq!(std::fs::read(outer.path().join("host")).unwrap(), b"host");
        assert_eq!(
            std::fs::read_dir(outer.path()).unwrap().count(),
            2,
            "something was written beside the root"
        );
        (outer, applied)
    }
}

/// Owners, devices and trusted xattrs need root, as on a node.
fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: layers can be unpacked by root only");
    }
    root
}

#[test]
fn files_keep_owner_mode_time_and_content() {
    if !root() {
        return;
    }
    let layer = Layer::default()
        .dir("bin/")
        .file("bin/su", b"binary")
        .symlink("sh", "/bin/su")
        .link("bin/su2", "bin/su");
    let (outer, applied) = layer.unpack();
    let applied = applied.unwrap();
    assert_eq!((applied.bytes, applied.implied.len()), (6, 0));
    let su = std::fs::metadata(outer.path().join("root/bin/su")).unwrap();
    assert_eq!((su.uid(), su.gid(), su.permissions().mode() & 0o7777), (1000, 1001, 0o4755));
    assert_eq!((su.mtime(), su.nlink()), (1_000_000_000, 2));
    let bin = std::fs::metadata(outer.path().join("root/bin")).unwrap();
    assert_eq!((bin.mtime(), bin.permissions().mode() & 0o7777), (1_000_000_000, 0o750));
    assert_eq!(std::fs::read_link(outer.path().join("root/sh")).unwrap(), Path::new("/bin/su"));
}

#[test]
fn whiteouts_are_overlay_devices_and_opaque_directories_are_marked() {
    if !root() {
        return;
    }
    let layer =
        Layer::default().dir("etc/").file("etc/.wh.passwd", b"").dir("var/").file("var/.wh..wh..opq", b"");
    let (outer, applied) = layer.unpack();
    applied.unwrap();
    let device = std::fs::symlink_metadata(outer.path().join("root/etc/passwd")).unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), 0);
    let mut value = [0; 8];
    let length =
        rustix::fs::getxattr(outer.path().join("root/var"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn a_directory_after_its_whiteout_hides_what_is_below() {
    if !root() {
        return;
    }
    let (outer, applied) =
        Layer::default().file(".wh.data", b"").dir("data/").file("data/new", b"x").unpack();
    applied.unwrap();
    let mut value = [0; 8];
    rustix::fs::getxattr(outer.path().join("root/data"), "trusted.overlay.opaque", &mut value).unwrap();
    assert!(outer.path().join("root/data/new").exists());
}

#[test]
fn hostile_names_and_links_stay_inside_or_are_refused() {
    if !root() {
        return;
    }
    let refused = [
        Layer::default().file("../host", b"evil"),
        Layer::default().file("a/../../host", b"evil"),
        Layer::default().link("stolen", "../host"),
        Layer::default().link("root", "/"),
        Layer::default().file("a/.wh...", b""),
        Layer::default().file(".wh..", b""),
        Layer::default().file(".wh.", b""),
    ];
    for layer in refused {
        let (_outer, applied) = layer.unpack();
        assert!(applied.is_err());
    }
    let contained = [
        Layer::default().symlink("out", "..").file("out/host", b"evil"),
        Layer::default().symlink("out", "/").file("out/host", b"evil"),
        Layer::default().symlink("a", "../../..").symlink("b", "a/..").file("b/host", b"evil"),
        Layer::default().file("/host", b"evil"),
        Layer::default().symlink("host", "../host").file("host", b"evil"),
    ];
    for layer in contained {
        let (outer, _) = layer.unpack();
        assert_eq!(std::fs::read(outer.path().join("root/host")).unwrap(), b"evil");
    }
    // Links to places that only the host has: nothing is linked, nothing is followed.
    let dangling = Layer::default().symlink("proc", "/proc/self/cwd").link("etc", "proc/../../../etc/passwd");
    assert!(dangling.unpack().1.is_err());
}

#[test]
fn an_entry_replaces_what_an_earlier_one_left() {
    if !root() {
        return;
    }
    let layer =
        Layer::default().dir("d/").file("d/old", b"old").symlink("d", "elsewhere").file("f", b"1").dir("f/");
    let (outer, applied) = layer.unpack();
    applied.unwrap();
    assert!(outer.path().join("root/d").is_symlink());
    assert!(outer.path().join("root/f").is_dir());
}

#[test]
fn bounds_hold() {
    if !root() {
        return;
    }
    let many = (0..200).fold(Layer::default(), |layer, n| layer.file(&format!("f{n}"), b""));
    assert!(matches!(many.unpack().1, Err(ApplyError::TooLarge { .. })));
    let large = Layer::default().file("large", &vec![0; 2 << 20]);
    assert!(matches!(large.unpack().1, Err(ApplyError::TooLarge { .. })));
    let mut bomb = Header::new_gnu();
    bomb.set_entry_type(EntryType::GNULongName);
    bomb.set_size(1 << 40);
    bomb.set_cksum();
    assert!(matches!(Layer(bomb.as_bytes().to_vec()).unpack().1, Err(ApplyError::Read(_))));
}

#[test]
fn long_names_xattrs_and_implied_directories() {
    if !root() {
        return;
    }
    let name = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut builder = Builder::new(Vec::new());
    let records =
        [("SCHILY.xattr.user.note", &b"hello"[..]), ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..])];
    builder.append_pax_extensions(records).unwrap();
    let mut header = Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o600);
    header.set_path("pax").unwrap();
    header.set_cksum();
    builder.append(&header, &b"hi"[..]).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    builder.append_data(&mut header, &name, &b"hi"[..]).unwrap();
    let (outer, applied) = Layer(builder.into_inner().unwrap()).unpack();
    assert_eq!(applied.unwrap().implied, [PathBuf::from("d".repeat(150))]);
    assert_eq!(std::fs::read(outer.path().join("root").join(&name)).unwrap(), b"hi");
    let mut value = [0; 16];
    let pax = outer.path().join("root/pax");
    assert!(rustix::fs::getxattr(&pax, "trusted.overlay.redirect", &mut value).is_err());
    match rustix::fs::getxattr(&pax, "user.note", &mut value) {
        Ok(length) => assert_eq!(&value[..length], b"hello"),
        Err(error) => assert_eq!(error, rustix::io::Errno::NODATA, "the file system has no user xattrs"),
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_unpacked_or_refused(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048), at in 0..512_usize, to in proptest::prelude::any::<u8>()) {
        let mut layer = Layer::default().file("a", &bytes).0;
        layer[at] = to;
        bytes.extend(layer);
        let mut tar = TarReader::new(bytes.as_slice());
        while let Ok(Some(_)) = tar.next_entry() {}
    }
}
