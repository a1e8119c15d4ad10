//! `qemu-tests record`: a machine whose state disk's writes are logged while it pulls and imports images and runs their containers; and
//! `qemu-tests replay`: that disk as a power cut at some moment would have left it. Who looks at the disk is the runtime's host ring.
mod images;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use machine::config::{Document, Registry, Role, StaticPod, parse, to_yaml};
use qemu_tests::command::command_output;
use qemu_tests::network::{Forward, free_tcp_port};
use qemu_tests::random::Random;
use qemu_tests::transports::server::FileServer;
use qemu_tests::write_log::{Cut, WriteLog};
use qemu_tests::{Look, Vm, spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bench::{Bench, until_on, within};
use crate::cases::cluster::inspector::{Inspector, PORT};
use crate::cases::cluster::{manifest, superblock};
use images::Image;

/// What a config must name; nobody answers there, and the machine does not ask.
const ENDPOINT: &str = "https://10.0.2.100:6443";
/// Images by way of a registry, all at once, and by import, one after the other.
const PULLED: usize = 4;
const IMPORTED: usize = 6;
const DISK: u64 = 2 << 30;

/// What a recording shows, in `recording.json` of its folder; layers and manifests lie beside it in `registry`. The runtime's host ring makes some too.
#[derive(Debug, Serialize, Deserialize)]
struct Recording {
    /// Entries of the log when the state volume had just been mounted.
    from: usize,
    /// And at the end.
    to: usize,
    promises: Vec<Promise>,
    log: PathBuf,
    /// Bytes of the disk.
    size: u64,
    /// Where the state volume begins on it, in bytes.
    partition: u64,
}

/// Somebody was told that an image is there, or that none is any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Promise {
    /// Entries that the log had then.
    entries: usize,
    name: String,
    id: Option<String>,
}

/// An image that must be there.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Promised {
    name: String,
    /// It is one of these.
    ids: Vec<String>,
    /// Or is being removed, or was.
    gone: bool,
}

/// A disk after a power cut, as `qemu-tests replay` tells of it.
#[derive(Debug, Serialize)]
struct Replayed {
    cut: Cut,
    /// Entries of the log.
    of: usize,
    /// Where the state volume begins on the disk, in bytes.
    partition: u64,
    promised: Vec<Promised>,
}

/// Records into the bench's folder.
pub fn record(bench: &Bench) -> Result<()> {
    let tools = bench.tools.as_ref().context("a recording needs --pintle and --inspector")?;
    let registry = bench.folder.join("registry");
    let base = images::program(&tools.inspector)?;
    let mut random = Random::new(8);
    let mut image = |name: &str| Image::new(name, &base, &mut random);
    let pulled: Vec<Image> =
        (0..PULLED).map(|number| image(&format!("pull.test/pulled-{number}:v1"))).collect::<Result<_>>()?;
    // Two names, so that images lose theirs to later ones.
    let imported: Vec<Image> = (0..IMPORTED)
        .map(|number| image(&format!("import.test/imported-{}:v1", number % 2)))
        .collect::<Result<_>>()?;
    pulled.iter().chain(&imported).try_for_each(|image| image.publish(&registry))?;
    let server = FileServer::start(&registry)?;
    let (api, look) = (free_tcp_port()?, free_tcp_port()?);
    let mut spec = bench.spec();
    (spec.logged, spec.state_bytes) = (true, DISK);
    spec.config = Some(config(bench, &tools.pintle, &server.url(""), &pulled)?);
    spec.forwards.push(Forward { host: api, guest: machine::paths::API_PORT });
    spec.forwards.push(Forward { host: look, guest: PORT });
    let vm = bench.start(&spec)?;
    let log = spec::write_log(&vm.folder);
    vm.expect(&mut vm.console(), "is mounted on /var", within(120))?;
    let from = WriteLog::count(&log)?;
    let mut promises = Vec::new();
    let mut promise = |image: &Image| -> Result<()> {
        let (name, id) = (image.name.clone(), Some(image.id()));
        promises.push(Promise { entries: WriteLog::count(&log)?, name, id });
        Ok(())
    };
    for image in &imported {
        let archive = bench.folder.join("import.tar");
        image.archive(&archive)?;
        import(bench, &vm, &tools.pintle, api, &archive)?;
        promise(image)?;
    }
    let inspector = Inspector { port: look, node: vm.name.clone() };
    until_on(&vm, "the pods of pulled images to run", within(300), || {
        let snapshot = inspector.json(&["snapshot"])?;
        let processes = snapshot["processes"].as_array().context("processes")?;
        let counts = |process: &&Value| process["command"] == "/node-inspector count 20";
        let running = processes.iter().filter(counts).count();
        Ok(if running == PULLED {
            Look::Done(())
        } else {
            Look::Waiting(format!("{running} of {PULLED} run"))
        })
    })?;
    pulled.iter().try_for_each(&mut promise)?;
    let to = WriteLog::count(&log)?;
    // What is counted shall be written, too.
    vm.freeze()?;
    vm.power_cut()?;
    let partition = superblock::first_partition(&std::fs::File::open(vm.state_disk())?)?;
    let recording = Recording { from, to, promises, log, size: DISK, partition };
    std::fs::write(bench.folder.join("recording.json"), serde_json::to_vec(&recording)?)?;
    println!("recorded {to} requests to the disk, {} of them with images", to - from);
    Ok(())
}

fn import(bench: &Bench, vm: &Vm, pintle: &Path, api: u16, archive: &Path) -> Result<()> {
    until_on(vm, "the machine API to take the image", within(180), || {
        let mut command = Command::new(pintle);
        command.arg("--config").arg(bench.folder.join("pintleconfig"));
        command.args(["--nodes", &format!("127.0.0.1:{api}"), "image", "import"]).arg(archive);
        command_output(&mut command).map(Look::Done)
    })
    .map(drop)
}

/// A machine without a cluster, with a pod of each pulled image and one that looks into the node.
fn config(bench: &Bench, pintle: &Path, registry: &str, pulled: &[Image]) -> Result<String> {
    let secrets = bench.folder.join("secrets.yaml");
    command_output(Command::new(pintle).args(["gen", "secrets", "--output"]).arg(&secrets))?;
    let mut generate = Command::new(pintle);
    generate.args(["gen", "config", "recorded", ENDPOINT, "--secrets"]).arg(&secrets);
    command_output(generate.arg("--output").arg(&bench.folder))?;
    let text = std::fs::read_to_string(bench.folder.join("control-plane.yaml"))?;
    let mut config = parse("control-plane.yaml", &text).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    config.machine.role = Role::Worker;
    config.machine.join_token = None;
    config.machine.api_cert_sans.push("127.0.0.1".into());
    let mirrors = vec![registry.trim_end_matches('/').to_owned()];
    let registry = Registry { host: "pull.test".into(), mirrors, ..Registry::default() };
    let mut documents = vec![Document::Machine(config.machine), Document::Registry(registry)];
    let mut look = manifest::inspector("recorded");
    look["spec"]["containers"][0]["image"] = pulled[0].name.clone().into();
    documents.push(static_pod("inspector", look));
    for (number, image) in pulled.iter().enumerate() {
        let mut container = manifest::container("main", &["count", "20"]);
        container["image"] = image.name.clone().into();
        let mut pod = manifest::pod_spec(json!([container]));
        pod["hostNetwork"] = true.into();
        let name = format!("pulled-{number}");
        documents.push(static_pod(&name, manifest::pod(&name, pod)));
    }
    Ok(to_yaml(&documents)?)
}

fn static_pod(name: &str, mut pod: Value) -> Document {
    pod["metadata"]["namespace"] = "default".into();
    Document::StaticPod(StaticPod { name: name.into(), pod })
}

/// Makes the disk of the replay with this number and tells about it: first come those right after each promise, then random ones.
pub fn replay(folder: &Path, number: usize, seed: u64, disk: &Path) -> Result<String> {
    let text = std::fs::read(folder.join("recording.json")).context("read the recording")?;
    let recording: Recording = serde_json::from_slice(&text).context("parse the recording")?;
    let log = WriteLog::open(&recording.log)?;
    let cut = match recording.promises.get(number) {
        Some(promise) => Cut::strict(promise.entries),
        None => Cut::random(&log.entries, recording.from, recording.to, seed.wrapping_add(number as u64)),
    };
    log.make_disk(&cut, recording.size, disk)?;
    let Recording { partition, to: of, .. } = recording;
    let promised = promised(&recording.promises, cut.entries);
    Ok(serde_json::to_string(&Replayed { cut, of, partition, promised })?)
}

/// What holds after so many entries: the last promise about each name, or what has become of it since, told or not.
fn promised(promises: &[Promise], entries: usize) -> Vec<Promised> {
    let mut holds: Vec<Promised> = Vec::new();
    for Promise { name, id, .. } in promises.iter().filter(|promise| promise.entries <= entries) {
        holds.retain(|held| held.name != *name);
        let ids = id.iter().cloned().collect();
        holds.push(Promised { name: name.clone(), ids, gone: id.is_none() });
    }
    for held in &mut holds {
        for later in promises.iter().filter(|later| later.entries > entries && later.name == held.name) {
            held.ids.extend(later.id.clone());
            held.gone |= later.id.is_none();
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_what_was_told_last_or_what_comes_next() {
        let promise = |entries, name: &str, id: &str| {
            let id = Some(id.to_owned()).filter(|id| !id.is_empty());
            Promise { entries, name: name.into(), id }
        };
        let promises =
            [promise(10, "a", "1"), promise(20, "b", "2"), promise(30, "a", "3"), promise(40, "b", "")];
        assert!(promised(&promises, 9).is_empty());
        let held = |name: &str, ids: &[&str], gone| {
            let ids = ids.iter().map(|id| (*id).to_owned()).collect();
            Promised { name: name.into(), ids, gone }
        };
        assert_eq!(promised(&promises, 20), [held("a", &["1", "3"], false), held("b", &["2"], true)]);
        assert_eq!(promised(&promises, 40), [held("a", &["3"], false), held("b", &[], true)]);
    }
}
