use super::*;

fn record(number: u32) -> ImageRecord {
    let (tags, digests, layers) = (Vec::new(), Vec::new(), Vec::new());
    ImageRecord { id: format!("sha256:{number:064}"), tags, digests, layers, size: 1 }
}

fn image(number: u32) -> Change {
    Change::PutImage(record(number), vec![b'x'; 4096])
}

/// On a file system that is full, after as many commits as it takes.
#[test]
fn a_full_disk_fails_a_commit_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a small file system can be mounted by root only");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    mount_small(folder.path());
    let db = Db::open(&folder.path().join("db")).unwrap();
    let (mut number, ballast) = (0, folder.path().join("ballast"));
    db.commit(&[image(number)]).unwrap();
    let _ = std::fs::write(&ballast, vec![0; 64 << 20]);
    while db.commit(&[image(number + 1)]).is_ok() {
        number += 1;
        assert!(number < 10_000);
    }
    let ids: Vec<_> = db.images().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), number as usize + 1, "what was committed is there, and only that");
    assert!(db.config(&ids[0]).unwrap().is_some());
    let large = || Change::PutImage(record(u32::MAX), vec![1; 4 << 20]);
    assert!(matches!(db.commit(&[large()]), Err(DbError::Room(_))));
    for id in &ids[..ids.len() / 2] {
        db.commit(&[Change::RemoveImage(id.clone())]).unwrap();
    }
    // A write that breaks off all the same does not end the database's life.
    assert!(db.with("writing", |database| write(database, &[large()])).is_err());
    assert_eq!(db.images().unwrap().len(), ids.len() - ids.len() / 2);
    std::fs::remove_file(&ballast).unwrap();
    db.commit(&[image(number + 1)]).unwrap();
    drop(db);
    assert!(Db::open(&folder.path().join("db")).unwrap().images().unwrap().len() > ids.len() / 2);
}

#[test]
fn a_database_that_was_never_finished_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.redb");
    std::fs::write(path.with_extension("new"), [0; 8192]).unwrap();
    Db::open(&path).unwrap().commit(&[image(1)]).unwrap();
    assert_eq!(Db::open(&path).unwrap().images().unwrap().len(), 1);
    assert!(!path.with_extension("new").exists());
}

/// For this thread alone.
fn mount_small(folder: &Path) {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    // In a chroot the root need not be a mount point; whoever made it has seen to its mounts.
    let _ = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
}
