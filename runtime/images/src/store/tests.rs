//! Damage of the metadata's file: whatever lies in it, the store opens, answers and takes images in.
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::registry::digest_of;
use super::*;

/// Random numbers that a seed repeats (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A docker archive of one image, whose config is at least `weight` bytes.
fn archive(name: &str, weight: usize) -> Vec<u8> {
    let layer = tar_of(&[("file", name.as_bytes())]);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": [format!("A={}", "x".repeat(weight))]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]},
    });
    let manifest = serde_json::json!([{"Config": "config", "RepoTags": [name], "Layers": ["layer"]}]);
    tar_of(&[
        ("layer", &layer),
        ("config", config.to_string().as_bytes()),
        ("manifest.json", manifest.to_string().as_bytes()),
    ])
}

async fn import(store: &Store, name: &str, weight: usize) -> Image {
    assert_eq!(store.import(Cursor::new(archive(name, weight))).await.unwrap(), [name]);
    store.resolve(name).unwrap().unwrap()
}

fn open(state: &Path) -> Store {
    Store::open(state, Path::new("/nonexistent"), Vec::new()).unwrap()
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Random bytes in the place of some pages.
fn scribble(file: &Path, seed: u64, first: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    let pages = file.metadata().unwrap().len().div_ceil(4096);
    for page in first..pages {
        let bytes: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
        // All of them, or about a third.
        if seed.is_multiple_of(3) || random.next().is_multiple_of(3) {
            file.write_all_at(&bytes, page * 4096).unwrap();
        }
    }
}

fn set_aside(state: &Path) -> usize {
    let names = std::fs::read_dir(state).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("images.redb.damaged-")).count()
}

#[tokio::test]
async fn damaged_metadata_is_set_aside_and_images_come_again() {
    if !root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("images.redb");
    for seed in 0..24 {
        let store = open(state.path());
        import(&store, "reg.example/a:1", 1000).await;
        drop(store);
        match seed {
            20 => std::fs::write(&file, b"").unwrap(),
            21 => std::fs::write(&file, b"nothing of ours").unwrap(),
            22 => std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(5000).unwrap(),
            // The header, which says where everything is.
            23 => {
                let file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
                file.write_all_at(&[0xff; 512], 9).unwrap();
            }
            _ => scribble(&file, seed, seed % 2),
        }
        let store = open(state.path());
        store.list().unwrap();
        let image = import(&store, "reg.example/b:1", 1000).await;
        assert_eq!(std::fs::read(image.layers[0].join("file")).unwrap(), b"reg.example/b:1", "seed {seed}");
    }
    assert!((1..=2).contains(&set_aside(state.path())), "{} are kept", set_aside(state.path()));
}

#[tokio::test]
async fn what_containers_stand_on_outlives_the_metadata() {
    if !root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let store = open(state.path());
    let image = import(&store, "reg.example/a:1", 10).await;
    let snapshot = store.prepare_snapshot("c1", &image).unwrap();
    drop(store);
    scribble(&state.path().join("images.redb"), 3, 0);
    let store = open(state.path());
    let used = store.fs_usage().1;
    assert_eq!(std::fs::read(snapshot.lower[0].join("file")).unwrap(), b"reg.example/a:1");
    assert!(used.bytes > 0 && used.inodes > 0, "{used:?}");
    drop(store);
    // Nor does the next start take it away.
    let store = open(state.path());
    assert_eq!(std::fs::read(snapshot.lower[0].join("file")).unwrap(), b"reg.example/a:1");
    store.remove_snapshot("c1").unwrap();
    // For the image that may still come again it is kept no longer than what a broken pull has left.
    store.collect(Orphans::All).unwrap();
    assert!(!snapshot.lower[0].exists());
}

#[tokio::test]
async fn metadata_that_is_gone_takes_no_layer_from_a_container() {
    if !root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let store = open(state.path());
    let image = import(&store, "reg.example/a:1", 10).await;
    let snapshot = store.prepare_snapshot("c1", &image).unwrap();
    drop(store);
    std::fs::remove_file(state.path().join("images.redb")).unwrap();
    let store = open(state.path());
    assert_eq!(std::fs::read(snapshot.lower[0].join("file")).unwrap(), b"reg.example/a:1");
    assert!(store.fs_usage().1.bytes > 0);
}

#[tokio::test]
async fn damage_while_running_costs_what_is_damaged_and_no_more() {
    if !root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let store = open(state.path());
    // More than what the database keeps in memory.
    for number in 0..12 {
        import(&store, &format!("reg.example/big:{number}"), 100_000).await;
    }
    let file = state.path().join("images.redb");
    for round in 0..3 {
        // All but the header.
        scribble(&file, 3, 1);
        let images = store.list().unwrap();
        assert!(images.iter().all(|image| image.layers[0].join("file").exists()));
        assert!(images.len() < 12, "round {round}: what is not there any more is listed");
        import(&store, "reg.example/new:1", 100_000).await;
        for number in 0..12 {
            import(&store, &format!("reg.example/big:{number}"), 100_000).await;
        }
    }
    // One config, and the others stay.
    let before = store.list().unwrap().len();
    let content = std::fs::read(&file).unwrap();
    let marker = [b'x'; 5000];
    let at = content.windows(5000).position(|window| window == marker).unwrap() as u64;
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"y", at + 2500).unwrap();
    drop(content);
    let after = store.list().unwrap().len();
    assert!(after >= before - 1 && after > 1, "{after} of {before}");
    drop(store);
    assert!(open(state.path()).list().unwrap().len() >= before - 1);
    assert!(set_aside(state.path()) <= 2);
}
