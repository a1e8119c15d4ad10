//! A recording of the runtime alone: its state lies on a disk that QEMU's storage daemon shows as a file and logs all writes to, while images are pulled, lose
//! their names, run and are removed.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tar::EntryType;

use super::{Mounted, output};
use crate::content::{Content, Tar, digest_of, noise};
use crate::fake::{Fake, HERE};
use crate::ring::{Ring, check, text};

const FOLDER: &str = "/run/recording";
const SIZE: u64 = 1 << 30;
/// Clients at work at once, and images that each pulls.
const CLIENTS: u64 = 3;
const IMAGES: u64 = 4;
/// Where a log of writes says how many entries it has.
const COUNT: u64 = 16;

/// Records; returns the folder, and every image by its id.
pub async fn record(ring: &mut Ring) -> Result<(PathBuf, BTreeMap<String, Content>), String> {
    let folder = PathBuf::from(FOLDER);
    fs::create_dir_all(&folder).map_err(text)?;
    ring.stop_runtime().await?;
    let logged = Logged::start(&folder).await?;
    let mounted = Mounted::attach(&logged.file, 0)?;
    output(Command::new("mkfs.ext4").args(["-q", "-F", &mounted.0]))?;
    mounted.mount()?;
    let from = logged.entries()?;
    ring.start_runtime().await?;
    let (promises, images) = (Rc::default(), Rc::default());
    let fake = Fake::start(HERE).await?;
    fake.slow_down(Duration::from_micros(200));
    let shared = &*ring;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                number,
                fake: fake.clone(),
                images: Rc::clone(&images),
                promises: Rc::clone(&promises),
                log: logged.log.clone(),
            };
            client.live(shared)
        })
        .collect();
    for client in futures::future::join_all(clients).await {
        client?;
    }
    let to = logged.entries()?;
    ring.stop_runtime().await?;
    drop(mounted);
    let promises: Vec<Value> = promises.take();
    let recording = json!({
        "from": from, "to": to, "promises": promises, "log": logged.log, "size": SIZE, "partition": 0,
    });
    fs::write(folder.join("recording.json"), recording.to_string()).map_err(text)?;
    ring.start_runtime().await?;
    eprintln!("recorded {} requests to the disk", to - from);
    Ok((folder, images.take()))
}

/// Pulls images, gives their names to others and removes them, and notes what it was told and when.
struct Client {
    number: u64,
    fake: Fake,
    images: Rc<RefCell<BTreeMap<String, Content>>>,
    promises: Rc<RefCell<Vec<Value>>>,
    log: PathBuf,
}

impl Client {
    async fn live(self, ring: &Ring) -> Result<(), String> {
        // One of its own and one that is taken away again.
        let names = [format!("kept-{}", self.number), format!("gone-{}", self.number)];
        for round in 0..IMAGES {
            for (index, name) in names.iter().enumerate() {
                let content = image(1000 * self.number + 2 * round + index as u64)?;
                let id = digest_of(&content.config);
                self.images.borrow_mut().insert(id.clone(), content.clone());
                let name = self.fake.publish(name, &content);
                let pulled = ring.pull(&name, None).await?;
                check(pulled == id, format!("{name} is {pulled} instead of {id}"))?;
                self.promise(&name, Some(&id))?;
                if index == 1 {
                    ring.remove_image(&name).await?;
                    self.promise(&name, None)?;
                }
            }
        }
        Ok(())
    }

    fn promise(&self, name: &str, id: Option<&str>) -> Result<(), String> {
        let entries = entries(&self.log)?;
        self.promises.borrow_mut().push(json!({"entries": entries, "name": name, "id": id}));
        Ok(())
    }
}

/// An image whose containers end with the code that is their second argument; its lowest layer is the same in all.
fn image(seed: u64) -> Result<Content, String> {
    let busybox = fs::read("/bin/busybox").map_err(text)?;
    let lowest = Tar::default().dir("bin/").add(EntryType::Regular, "bin/busybox", "", 0o755, &busybox);
    let mut tars = vec![lowest.0];
    tars.extend(noise(seed, 2, 12, 60_000));
    let diff_ids = tars.iter().map(|tar| digest_of(tar)).collect();
    let entrypoint = ["/bin/busybox", "sh", "-c", "exit $1"];
    Ok(Content::of(tars, diff_ids, json!({"Entrypoint": entrypoint})))
}

/// A disk in a file whose writes are logged. Ends with this value.
struct Logged {
    daemon: Child,
    file: String,
    log: PathBuf,
}

impl Logged {
    async fn start(folder: &Path) -> Result<Self, String> {
        let [disk, log, file] = ["disk.img", "disk.log", "disk"].map(|name| folder.join(name));
        for path in [&disk, &log, &file] {
            fs::File::create(path).map_err(text)?;
        }
        fs::File::options().write(true).open(&disk).and_then(|disk| disk.set_len(SIZE)).map_err(text)?;
        // Neither file is flushed: what is on the disk is read from the log, which has each flush in its place.
        let below = |name: &str, path: &Path| {
            format!("{name}.driver=file,{name}.filename={},{name}.cache.no-flush=on", path.display())
        };
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!(
            "driver=blklogwrites,node-name=logged,log-super-update-interval=1,{},{}",
            below("file", &disk),
            below("log", &log)
        ));
        let export = format!("type=fuse,id=disk,node-name=logged,writable=on,mountpoint={}", file.display());
        let daemon = command.args(["--export", &export]).spawn();
        let daemon = daemon.map_err(|error| format!("start qemu-storage-daemon: {error}"))?;
        let logged = Self { daemon, file: file.display().to_string(), log };
        for _ in 0..500 {
            if fs::metadata(&file).is_ok_and(|file| file.len() == SIZE) {
                return Ok(logged);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("qemu-storage-daemon shows no disk".into())
    }

    fn entries(&self) -> Result<u64, String> {
        entries(&self.log)
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.file.as_str(), nix::mount::MntFlags::MNT_DETACH);
        let _ = self.daemon.kill();
    }
}

/// How many entries a log of writes has by now.
fn entries(log: &Path) -> Result<u64, String> {
    let mut count = [0; 8];
    let read = fs::File::open(log).and_then(|log| log.read_exact_at(&mut count, COUNT));
    read.map_err(|error| format!("{}: {error}", log.display()))?;
    Ok(u64::from_le_bytes(count))
}
