//! Disks as power cuts have left them, made from the log of what was written to one while images came and went: by a whole machine (`qemu-tests record`), or by
//! the runtime alone ([`record`]). The runtime starts on each of them: what it shows is whole, what was promised is there, and what it does not show can be
//! pulled.
mod record;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use machine::cri::{self, NamespaceMode};
use machine::paths;
use serde_json::Value;

use crate::content::{Content, digest_of, settled};
use crate::fake::{Fake, HERE};
use crate::random::Random;
use crate::ring::{Outcome, Ring, check, text};

const DISK: &str = "/run/cut.img";
const MOUNTED: &str = "/run/cut";
/// Images that are pulled anew on each disk.
const AGAIN: usize = 2;

/// What is to be replayed, by the environment.
struct Recording {
    folder: PathBuf,
    program: String,
    replays: usize,
    seed: u64,
    /// Every image of the recording by its id.
    images: BTreeMap<String, Content>,
}

/// Whether replays are asked for.
pub fn wanted() -> bool {
    std::env::var_os("PINTLE_POWER_REPLAYS").is_some()
}

impl Recording {
    /// The one that is given, or a new one.
    async fn take(ring: &mut Ring) -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
        let number = |name: &str| -> Result<u64, String> { variable(name)?.parse().map_err(text) };
        let (folder, images) = match std::env::var_os("PINTLE_POWER_RECORDING").map(PathBuf::from) {
            Some(folder) => (folder.clone(), images(&folder.join("registry/v2"))?),
            None => record::record(ring).await?,
        };
        check(!images.is_empty(), "a recording without images")?;
        Ok(Self {
            program: variable("PINTLE_POWER_PROGRAM")?,
            replays: number("PINTLE_POWER_REPLAYS")? as usize,
            seed: number("PINTLE_POWER_SEED")?,
            folder,
            images,
        })
    }

    /// Makes the disk of a replay, and returns what is known of it.
    fn disk(&self, number: usize) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.args(["replay", "--disk", DISK, "--number", &number.to_string()]);
        command.args(["--seed", &self.seed.to_string(), "--recording"]).arg(&self.folder);
        serde_json::from_str(&output(&mut command)?).map_err(text)
    }
}

/// Runs a command. Our PID 1 may reap it first, so that only what it said tells how it went.
fn output(command: &mut Command) -> Result<String, String> {
    let what = format!("{:?}", command.get_program());
    let mut script = Command::new("sh");
    script.args(["-c", "\"$@\" && echo done", "sh"]).arg(command.get_program()).args(command.get_args());
    let mut child = script
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| format!("{what}: {error}"))?;
    let (mut said, mut complained) = (String::new(), String::new());
    if let (Some(out), Some(errors)) = (&mut child.stdout, &mut child.stderr) {
        out.read_to_string(&mut said).and_then(|_| errors.read_to_string(&mut complained)).map_err(text)?;
    }
    match said.strip_suffix("done\n") {
        Some(said) => Ok(said.trim().to_owned()),
        None => Err(format!("{what}: {}", complained.trim())),
    }
}

/// The images of a registry's folder.
fn images(folder: &Path) -> Result<BTreeMap<String, Content>, String> {
    let mut images = BTreeMap::new();
    for repository in fs::read_dir(folder).map_err(text)? {
        let repository = repository.map_err(text)?.path();
        for manifest in fs::read_dir(repository.join("manifests")).map_err(text)? {
            let manifest = fs::read(manifest.map_err(text)?.path()).map_err(text)?;
            let parsed: Value = serde_json::from_slice(&manifest).map_err(text)?;
            let blob = |descriptor: &Value| {
                let digest = descriptor["digest"].as_str().unwrap_or_default();
                fs::read(repository.join("blobs").join(digest)).map_err(|error| format!("{digest}: {error}"))
            };
            let layers = parsed["layers"].as_array().cloned().unwrap_or_default();
            let layers = layers.iter().map(blob).collect::<Result<Vec<_>, _>>()?;
            let config = blob(&parsed["config"])?;
            images.insert(digest_of(&config), Content { layers, config, manifest });
        }
    }
    Ok(images)
}

/// A state volume on a loop device, with the runtime's part where the runtime looks for it. Ends with this value.
struct Mounted(String);

impl Mounted {
    /// The one on a disk, mounted as the machine would mount it.
    fn new(partition: u64) -> Result<Self, String> {
        let mounted = Self::attach(DISK, partition)?;
        // It ends with 1 where it has repaired something.
        let repair = ["-c", "e2fsck -p \"$1\" >&2 || [ $? = 1 ]", "sh", &mounted.0];
        output(Command::new("sh").args(repair))?;
        mounted.mount()?;
        Ok(mounted)
    }

    fn attach(disk: &str, offset: u64) -> Result<Self, String> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show", "--offset", &offset.to_string(), disk]);
        Ok(Self(output(&mut attach)?))
    }

    fn mount(&self) -> Outcome {
        fs::create_dir_all(MOUNTED).map_err(text)?;
        output(Command::new("mount").args(["-t", "ext4", "-o", "noatime", &self.0, MOUNTED]))?;
        let state = paths::RUNTIME_STATE.replacen("/var", MOUNTED, 1);
        fs::create_dir_all(&state).map_err(text)?;
        output(Command::new("mount").args(["--bind", &state, paths::RUNTIME_STATE])).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for folder in [paths::RUNTIME_STATE, MOUNTED] {
            let _ = nix::mount::umount2(folder, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = output(Command::new("losetup").args(["--detach", &self.0]));
    }
}

/// A name that was promised, as `qemu-tests replay` tells it.
#[derive(Debug, serde::Deserialize)]
struct Promised {
    name: String,
    ids: Vec<String>,
    gone: bool,
}

/// Replays as many cuts as are asked for; says what each was when it fails.
pub async fn no_power_cut_leaves_half_an_image(ring: &mut Ring) -> Outcome {
    let recording = Recording::take(ring).await?;
    let (fake, mut shown) = (Fake::start(HERE).await?, 0);
    ring.stop_runtime().await?;
    for number in 0..recording.replays {
        let told = recording.disk(number)?;
        let says =
            |what: String| format!("replay {number} of seed {}, {}: {what}", recording.seed, told["cut"]);
        let mounted =
            told["partition"].as_u64().ok_or("no partition".into()).and_then(Mounted::new).map_err(says)?;
        ring.start_runtime().await.map_err(says)?;
        let looked = look(ring, &recording, &told, &fake, number).await;
        ring.stop_runtime().await?;
        drop(mounted);
        shown += looked.map_err(says)?;
        if (number + 1) % 10 == 0 || number + 1 == recording.replays {
            eprintln!(
                "replay {} of {}: {shown} images shown, all of them whole",
                number + 1,
                recording.replays
            );
        }
    }
    ring.start_runtime().await
}

/// Looks at what a runtime makes of a disk; returns how many images it shows.
async fn look(
    ring: &mut Ring,
    recording: &Recording,
    told: &Value,
    fake: &Fake,
    number: usize,
) -> Result<usize, String> {
    let listed = ring.images.clone().list_images(cri::ListImagesRequest::default()).await.map_err(text)?;
    let listed: Vec<_> = listed.into_inner().images.into_iter().filter(|image| !image.pinned).collect();
    for image in &listed {
        let content =
            recording.images.get(&image.id).ok_or_else(|| format!("an unknown image {}", image.id))?;
        ring.holds(&image.id, &content.layers).await?;
    }
    let promised: Vec<Promised> = serde_json::from_value(told["promised"].clone()).map_err(text)?;
    for promised in promised {
        let image = listed.iter().find(|image| image.repo_tags.contains(&promised.name));
        let kept = image.map_or(promised.gone, |image| promised.ids.contains(&image.id));
        check(kept, format!("{promised:?}, but it is {image:?}"))?;
    }
    logs_are_beginnings()?;
    if let Some(image) = listed.first() {
        runs(ring, &image.id).await?;
    }
    let mut random = Random::new(recording.seed ^ number as u64);
    let mut missing: Vec<_> =
        recording.images.iter().filter(|(id, _)| listed.iter().all(|image| image.id != **id)).collect();
    for _ in 0..AGAIN.min(missing.len()) {
        let (id, content) = missing.swap_remove(random.below(missing.len() as u64) as usize);
        let name = fake.publish("again", content);
        let pulled = ring.pull(&name, None).await?;
        check(pulled == *id, format!("{name} is {pulled} instead of {id}"))?;
        ring.holds(id, &content.layers).await?;
    }
    // With the last image goes all that there is of any.
    let all = ring.images.clone().list_images(cri::ListImagesRequest::default()).await.map_err(text)?;
    for image in all.into_inner().images.iter().filter(|image| !image.pinned) {
        ring.remove_image(&image.id).await?;
    }
    settled(Path::new(paths::RUNTIME_STATE), 0).await?;
    let snapshots = fs::read_dir(format!("{}/snapshots", paths::RUNTIME_STATE)).map_or(0, Iterator::count);
    check(snapshots == 0, format!("{snapshots} writable layers of containers that are gone"))?;
    Ok(listed.len())
}

/// A container of an image does.
async fn runs(ring: &mut Ring, image: &str) -> Outcome {
    let pod = ring.sandbox("cut", NamespaceMode::Container).await?;
    let of_image = |config: &mut cri::ContainerConfig| {
        config.image = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
        config.args = ["exit", "3"].map(String::from).into();
    };
    let id = ring.create(&pod, "main", &[], of_image).await?;
    ring.begin(&id).await?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 3, format!("a container of {image}: {status:?}"))?;
    ring.remove(&pod.0).await
}

/// Every container's log is the beginning of what the container said: its numbers from 1 on, and the last line perhaps in part. ext4 may have the length of an
/// entry that goes into a block which is there already, and not yet its bytes.
fn logs_are_beginnings() -> Outcome {
    let mut todo = vec![Path::new(MOUNTED).join("log/pods")];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_string_lossy().contains("pulled-") {
                let log = fs::read_to_string(&path).map_err(text)?;
                is_beginning(&log).map_err(|what| format!("{}: {what}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn is_beginning(log: &str) -> Outcome {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (line, number) in whole.lines().zip(1..) {
        let said = line.splitn(4, ' ').nth(3).and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        check(said == Some(number), format!("{line:?} in the place of number {number}"))?;
    }
    Ok(())
}
