//! A disk that is full: what cannot be done is refused with a clear error, what was promised stays, and with space everything goes on.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use machine::paths;
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;

use crate::content::{Content, noise, settled};
use crate::fake::{Fake, HERE};
use crate::logs::lines;
use crate::ring::{Outcome, Ring, check, text};

const NO_SPACE: &str = "No space left on device";
const BALLAST: &str = "ballast";

/// Takes all space of a file system.
pub fn fill(folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join(BALLAST);
    let mut file = fs::File::create(&path).map_err(text)?;
    let mut size = 1 << 20;
    while size > 0 {
        // The last bytes in small pieces.
        match std::io::Write::write_all(&mut file, &vec![0; size]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(error) => return Err(text(error)),
        }
    }
    Ok(path)
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The runtime's state on a small file system of its own.
async fn move_to(ring: &mut Ring, options: &str) -> Outcome {
    ring.stop_runtime().await?;
    mount(Some("tmpfs"), paths::RUNTIME_STATE, Some("tmpfs"), MsFlags::empty(), Some(options))
        .map_err(text)?;
    ring.start_runtime().await
}

async fn move_back(ring: &mut Ring) -> Outcome {
    ring.stop_runtime().await?;
    umount(paths::RUNTIME_STATE).map_err(text)?;
    ring.start_runtime().await
}

/// Images while there is no space: the metadata can still be read and images removed, through kills of the runtime too.
pub async fn images_live_through_a_full_disk(ring: &mut Ring) -> Outcome {
    move_to(ring, "size=160m,nr_inodes=20000").await?;
    let outcome = live(ring).await;
    move_back(ring).await?;
    outcome
}

async fn live(ring: &mut Ring) -> Outcome {
    let state = Path::new(paths::RUNTIME_STATE);
    let fake = Fake::start(HERE).await?;
    let tars = noise(400, 2, 4, 60_000);
    let content = Content::new(&tars, json!({}));
    let first = fake.publish("first", &content);
    ring.pull(&first, None).await?;
    let baseline = ring.image_bytes().await?;
    // The same layers, so that only metadata is written; and one with layers of its own.
    let same = Content::new(&tars, json!({"Env": ["SECOND=1"]}));
    let same = fake.publish("same", &same);
    let more_tars = noise(401, 2, 4, 60_000);
    let more = fake.publish("more", &Content::new(&more_tars, json!({})));
    let ballast = fill(state)?;
    for kill in [false, true] {
        if kill {
            ring.kill_runtime().await?;
        }
        let error = ring.pull(&more, None).await.err().unwrap_or_default();
        let clear = error.contains(&more) && (error.contains(NO_SPACE) || error.contains("would stay free"));
        check(clear, format!("a pull with the disk full: {error:?}"))?;
        check(ring.image_names().await? == [first.clone()], "other images are listed")?;
        ring.holds(&first, &tars).await?;
        check(ring.image_bytes().await? == baseline, "what was refused takes space")?;
        let pod = ring.sandbox("full", NamespaceMode::Container).await?;
        let of_first = |config: &mut cri::ContainerConfig| {
            config.image = Some(cri::ImageSpec { image: first.clone(), ..Default::default() });
        };
        let error = ring.create(&pod, "main", &["/data/0/0"], of_first).await.err().unwrap_or_default();
        check(error.contains(NO_SPACE), format!("a container with the disk full: {error:?}"))?;
        check(count(&state.join("snapshots")) == 0, "half a writable layer is left")?;
        ring.remove(&pod.0).await?;
    }
    // Metadata alone: done or refused, and in any case all that was there stays.
    let outcome = ring.pull(&same, None).await;
    if let Err(error) = &outcome {
        check(
            error.contains(&same) && error.contains(NO_SPACE),
            format!("a commit with the disk full: {error}"),
        )?;
    }
    check(ring.image_names().await?.contains(&same) == outcome.is_ok(), "half an image is listed")?;
    ring.holds(&first, &tars).await?;
    // Whoever needs space can make it.
    ring.remove_image(&same).await?;
    ring.remove_image(&first).await?;
    settled(state, 0).await?;
    fs::remove_file(ballast).map_err(text)?;
    for (name, tars) in [(&more, &more_tars), (&first, &tars)] {
        ring.pull(name, None).await?;
        ring.holds(name, tars).await?;
    }
    let pod = ring.sandbox("space", NamespaceMode::Container).await?;
    let id = ring.run(&pod, "main", &["true"]).await?;
    check(ring.exited(&id).await?.exit_code == 0, "the container's code")?;
    ring.remove(&pod.0).await
}

/// What a container says while its log's disk is full is lost, but it goes on, and no entry is left half.
pub async fn a_full_log_disk_stops_no_container(ring: &mut Ring) -> Outcome {
    let (logs, gate) = (Path::new("/var/log/pods/logfull"), Path::new("/run/gate"));
    fs::create_dir_all(logs).and_then(|()| fs::create_dir_all(gate)).map_err(text)?;
    mount(Some("tmpfs"), logs, Some("tmpfs"), MsFlags::empty(), Some("size=1536k")).map_err(text)?;
    // More than what may still be in the pipe when the container has said it all.
    let reserve = logs.join(BALLAST);
    fs::write(&reserve, vec![0; 1 << 20]).map_err(text)?;
    let pod = ring.sandbox("logfull", NamespaceMode::Container).await?;
    let script =
        "seq 1 40000; touch /gate/said; while [ ! -e /gate/go ]; do sleep 0.05; done; echo after; exit 3";
    let volume = cri::Mount {
        host_path: gate.to_string_lossy().into_owned(),
        container_path: "/gate".into(),
        ..Default::default()
    };
    let id = ring.create(&pod, "main", &["sh", "-c", script], |config| config.mounts = vec![volume]).await?;
    ring.begin(&id).await?;
    for _ in 0..500 {
        if gate.join("said").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check(gate.join("said").exists(), "the container is blocked by its log")?;
    // A new runtime goes on with the log as it is.
    ring.kill_runtime().await?;
    fs::remove_file(&reserve).and_then(|()| fs::write(gate.join("go"), "")).map_err(text)?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 3, format!("{status:?}"))?;
    let log = fs::read_to_string(logs.join("main.log")).map_err(text)?;
    for line in log.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let [time, "stdout", "F" | "P", text] = fields[..] else {
            return Err(format!("not an entry: {line:?}"));
        };
        // Not the beginning of one entry with another one behind it.
        let whole = text == "after" || text.bytes().all(|byte| byte.is_ascii_digit());
        check(whole && time.len() == 30 && time.ends_with('Z'), format!("not an entry: {line:?}"))?;
    }
    let said = lines(&log);
    let whole = said.iter().zip(1..).take_while(|(line, number)| **line == number.to_string()).count();
    check((1000..40_000).contains(&whole), format!("{whole} whole lines of a log that is too small"))?;
    // An entry of its own, not the end of one that was written in part.
    let last = log.lines().last().and_then(|line| line.splitn(4, ' ').nth(3));
    check(last == Some("after") && log.ends_with('\n'), format!("the log ends with {last:?}"))?;
    ring.remove(&pod.0).await?;
    umount(logs).map_err(text)
}
