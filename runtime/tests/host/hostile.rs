//! Hostile images by the hundred: whatever an image says, nothing outside of it changes, and its bounds hold.
use std::fs;
use std::path::{Path, PathBuf};

use machine::config::Runtime;
use machine::cri::{self, NamespaceMode};
use machine::paths;
use serde_json::{Value, json};
use tar::EntryType;

use crate::content::{Content, Tar, hash_tree, settled};
use crate::fake::{Fake, HERE};
use crate::random::Random;
use crate::registry::configured;
use crate::ring::{Outcome, Ring, check, text};

const IMAGES: u64 = 200;
const BYTES: u64 = 2 << 20;
const ENTRIES: u64 = 500;

/// Folders that layers try to reach: at absolute paths, and beside and above where they are unpacked.
fn canaries() -> Vec<PathBuf> {
    let state = Path::new(paths::RUNTIME_STATE);
    let places = [state, Path::new("/var/lib/pintle"), Path::new("/var/lib"), Path::new("/run")];
    let mut all: Vec<PathBuf> = places.iter().map(|place| place.join("canary")).collect();
    all.push(state.join("snapshots-canary"));
    all
}

/// Fresh folders with a file in each, and their hashes.
pub fn set_canaries() -> Result<Vec<(PathBuf, String)>, String> {
    let set = |path: PathBuf| {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).and_then(|()| fs::write(path.join("file"), "precious")).map_err(text)?;
        fs::write(path.join("passwd"), "evil:x:0:0::/:/bin/sh\n").map_err(text)?;
        let hash = hash_tree(&path)?;
        Ok((path, hash))
    };
    canaries().into_iter().map(set).collect()
}

pub fn unharmed(canaries: &[(PathBuf, String)]) -> Outcome {
    for (path, hash) in canaries {
        check(hash_tree(path).as_ref() == Ok(hash), format!("{} was changed", path.display()))?;
    }
    Ok(())
}

/// A way to the outside.
fn way_out(random: &mut Random) -> String {
    let up = "../".repeat(1 + random.below(9) as usize);
    let deep = "a/b/../../".repeat(random.below(2) as usize);
    match random.below(8) {
        0 => "/run/canary".into(),
        1 => "/var/lib/canary".into(),
        2 => format!("/proc/self/root{}", "/run/canary"),
        3 => format!("/proc/self/cwd/{up}run/canary"),
        4 => format!("/proc/1/root/{up}run/canary"),
        5 => format!("./{deep}{up}canary"),
        _ => format!("{deep}{up}canary"),
    }
}

/// Mostly the places that attacks mean are there in the image itself, so that links to them lead somewhere.
fn bed(random: &mut Random) -> Tar {
    if random.below(4) == 0 {
        return Tar::default();
    }
    let places =
        ["run/", "run/canary/", "canary/", "var/", "var/lib/", "var/lib/canary/", "a/", "a/b/", "proc/"];
    let files = ["run/canary/file", "canary/file", "var/lib/canary/file"];
    let tar = places.iter().fold(Tar::default(), |tar, place| tar.dir(place));
    files.iter().fold(tar, |tar, file| tar.file(file, b"the image's own"))
}

/// Adds one attack.
fn attack(tar: Tar, random: &mut Random, bomb: &[u8]) -> Tar {
    let out = way_out(random);
    let name = *random.choose(&["l", "etc", "d/l", "dev", "tmp"]);
    match random.below(16) {
        0 => tar.file(&format!("{out}/file"), b"evil"),
        1 => tar.symlink(name, &out).file(&format!("{name}/file"), b"evil"),
        2 => tar.symlink(name, &out).dir(&format!("{name}/new/")).file(&format!("{name}/new/x"), b"evil"),
        3 => tar.symlink(name, &out).file(&format!("{name}/.wh.file"), b""),
        4 => tar.symlink(name, &out).file(&format!("{name}/.wh..wh..opq"), b""),
        5 => tar.link("stolen", &format!("{out}/file")).file("stolen", b"evil"),
        6 => tar.symlink(name, &out).link("stolen", &format!("{name}/file")).file("stolen", b"evil"),
        7 => tar.dir("d/").file("d/file", b"x").symlink("d", &out).file("d/file", b"evil"),
        8 => tar.symlink("a", "b").symlink("b", "c").symlink("c", &out).file("a/file", b"evil"),
        9 => tar.symlink("etc/passwd", &format!("{out}/passwd")).symlink("etc/group", &out),
        10 => tar.device(
            *random.choose(&[EntryType::Char, EntryType::Block]),
            "node",
            random.below(10) as u32,
            1,
        ),
        11 => (0..ENTRIES + 10).fold(tar, |tar, number| tar.file(&format!("many/{number}"), b"")),
        12 => tar.file("bomb", bomb),
        13 => {
            let name = *random.choose(&["redirect", "opaque", "metacopy", "origin"]);
            attribute(tar, name, &out)
        }
        14 => {
            let name = *random.choose(&["", "..", "/", "./..", ".wh...", ".wh..", "x/../../file"]);
            tar.file(name, b"evil")
        }
        _ => {
            let mut longer = tar.file("cut", b"evil");
            let keep = longer.0.len() - random.below(1024) as usize;
            longer.0.truncate(keep);
            longer
        }
    }
}

/// A file with an attribute that would speak to the overlay mount.
fn attribute(tar: Tar, name: &str, value: &str) -> Tar {
    let rest = format!(" SCHILY.xattr.trusted.overlay.{name}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    tar.add(EntryType::XHeader, "pax", "", 0o644, format!("{length}{rest}").as_bytes()).dir("marked/")
}

fn config(random: &mut Random) -> Value {
    let out = way_out(random);
    json!({
        "User": random.choose(&["", "0", "-1", "4294967296", "2147483648", "evil", "1000:evil", "a\nb", "18446744073709551616"]),
        "Volumes": {out.clone(): {}, format!("/x/{out}"): {}},
        "WorkingDir": random.choose(&["", "/", "../../..", "/proc/self/fd/7", "/l"]),
        "Env": ["A=1\nHOME=/evil", "=", "PATH=/bin"],
        "Labels": {"io.cri-containerd.pinned": "pinned", "io.kubernetes.pod.uid": "evil"},
        "Cmd": ["/x"], "StopSignal": "99999",
    })
}

pub async fn two_hundred_hostile_images_change_nothing_outside(ring: &mut Ring) -> Outcome {
    let bounds = Runtime { max_layer_bytes: BYTES, max_layer_entries: ENTRIES, ..Runtime::default() };
    configured(ring, bounds, attack_by_the_hundred).await
}

async fn attack_by_the_hundred(ring: &mut Ring) -> Outcome {
    let (canaries, fake) = (set_canaries()?, Fake::start(HERE).await?);
    let baseline = ring.image_bytes().await?;
    let bomb = vec![0; BYTES as usize + 1];
    let pod = ring.sandbox("hostile", NamespaceMode::Container).await?;
    let (mut accepted, mut created) = (0, 0);
    for seed in 1..=IMAGES {
        let mut random = Random::new(seed);
        let mut tars = Vec::new();
        for _ in 0..1 + random.below(2) {
            let (bed, attacks) = (bed(&mut random), 1 + random.below(2));
            tars.push((0..attacks).fold(bed, |tar, _| attack(tar, &mut random, &bomb)).0);
        }
        let config = config(&mut random);
        let name = fake.publish(&format!("hostile{seed}"), &Content::new(&tars, config));
        if ring.pull(&name, None).await.is_ok() {
            accepted += 1;
            let of_it = |config: &mut cri::ContainerConfig| {
                config.image = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
            };
            if let Ok(id) = ring.create(&pod, &format!("c{seed}"), &["/x"], of_it).await {
                created += 1;
                let request = cri::RemoveContainerRequest { container_id: id };
                ring.client.remove_container(request).await.map_err(text)?;
            }
        }
        ring.remove_image(&name).await?;
        unharmed(&canaries).map_err(|what| format!("image of seed {seed}: {what}"))?;
    }
    // Otherwise the attacks are none.
    check(accepted > 20 && accepted < IMAGES - 20, format!("{accepted} images accepted"))?;
    check(created > 5, format!("{created} containers created"))?;
    ring.remove(&pod.0).await?;
    settled(Path::new(paths::RUNTIME_STATE), 0).await?;
    check(ring.image_bytes().await? == baseline, "refused images still take space")
}

/// Layers beyond the configured bounds are refused, and give their space back.
pub async fn what_an_image_may_take_is_bounded(ring: &mut Ring) -> Outcome {
    let bounds = Runtime {
        max_layer_bytes: BYTES,
        max_layer_entries: ENTRIES,
        max_image_layers: 3,
        ..Runtime::default()
    };
    configured(ring, bounds, exceed).await
}

async fn exceed(ring: &mut Ring) -> Outcome {
    let (fake, baseline) = (Fake::start(HERE).await?, ring.image_bytes().await?);
    let small = Tar::default().file("small", b"x").0;
    // Both are served as a few kilobytes; what lies behind the archive's end is only read.
    let zeros = vec![0; 4 * BYTES as usize];
    let bomb = Tar::default().file("zeros", &zeros).0;
    let behind = [small.clone(), zeros].concat();
    let many = (0..=ENTRIES).fold(Tar::default(), |tar, number| tar.file(&format!("{number}"), b"")).0;
    let empty = Tar::default().dir("d/").0;
    let (last, huge) = (ENTRIES, BYTES);
    for (name, layers, wanted) in [
        ("bomb", vec![small.clone(), bomb], format!("exceeds the unpacked size of {huge}")),
        ("behind", vec![behind], format!("exceeds the unpacked size of {huge}")),
        ("many", vec![small, many], format!("exceeds the number of entries of {last}")),
        ("layers", vec![empty; 4], "more than 3 layers".into()),
    ] {
        let name = fake.publish(name, &Content::new(&layers, json!({})));
        let error = ring.pull(&name, None).await.err().unwrap_or_default();
        check(error.contains(&name) && error.contains(&wanted), format!("{name}: {error:?}"))?;
        settled(Path::new(paths::RUNTIME_STATE), 0).await?;
        check(ring.image_bytes().await? == baseline, format!("{name} still takes space"))?;
        check(!ring.image_names().await?.contains(&name), format!("{name} is listed"))?;
    }
    Ok(())
}
