//! Registries that stall, lie, stumble and send elsewhere: each pull ends in time, with an error that says what and where or with the right image.
use std::fs;
use std::path::Path;
use std::time::Duration;

use machine::config::{Document, PodNetworkKind, Runtime};
use machine::cri::{self, NamespaceMode};
use machine::paths;
use serde_json::json;

use crate::cni::cluster;
use crate::content::{Content, Tar, digest_of, gzip, noise, settled};
use crate::fake::{ALWAYS, Fake, Fault, HERE};
use crate::ring::{Outcome, Ring, check, config_with, text};

/// The longest that a pull from a registry of these may take: five tries of two seconds each and the pauses between them, on a busy machine.
const BOUND: Duration = Duration::from_secs(90);

/// Images that do not come, of three layers each.
const STALLED: u64 = 12;

/// What a registry does wrong, and what is to come of it.
struct Case {
    name: &'static str,
    what: What,
    times: usize,
    fault: Fault,
    /// Parts of the error, or nothing when the image arrives.
    error: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum What {
    Manifest,
    Config,
    Layers,
    /// Of two layers.
    Upper,
}

const fn case(
    name: &'static str,
    what: What,
    times: usize,
    fault: Fault,
    error: &'static [&'static str],
) -> Case {
    Case { name, what, times, fault, error }
}

fn status(code: u16) -> Fault {
    Fault::Status(code, "Retry-After", "1".into())
}

fn cases() -> Vec<Case> {
    use What::{Config, Layers, Manifest, Upper};
    let other = || Fault::Content(br#"{"schemaVersion":2}"#.to_vec());
    vec![
        case("silent-manifest", Manifest, ALWAYS, Fault::Silent, &["/manifests/v1: waiting for an answer"]),
        case("silent-config", Config, ALWAYS, Fault::Silent, &["/blobs/sha256:", "waiting for an answer"]),
        case("silent-layers", Layers, ALWAYS, Fault::Silent, &["/blobs/sha256:", "waiting for an answer"]),
        case("silent-once", Layers, 1, Fault::Silent, &[]),
        case("stalled-manifest", Manifest, ALWAYS, Fault::Stall(100), &["/manifests/v1: reading the answer"]),
        case("stalled-layers", Layers, ALWAYS, Fault::Stall(100), &["reading a layer: timed out"]),
        case("stalled-once", Layers, 1, Fault::Stall(20_000), &[]),
        case("trickle", Layers, ALWAYS, Fault::Trickle, &["reading a layer: timed out"]),
        case("short-manifest", Manifest, ALWAYS, Fault::Length(-9), &["/manifests/v1: content is sha256:"]),
        case("long-manifest", Manifest, ALWAYS, Fault::Length(9), &["/manifests/v1: reading the answer"]),
        case("short-layers", Layers, ALWAYS, Fault::Length(-9), &["announces", "the manifest says"]),
        case("long-layers", Layers, ALWAYS, Fault::Length(9), &["announces", "the manifest says"]),
        case("other-manifest", Manifest, ALWAYS, other(), &["/manifests/v1: content is sha256:"]),
        case("other-config", Config, ALWAYS, other(), &["/blobs/sha256:", ": content is sha256:"]),
        case("error-manifest", Manifest, ALWAYS, status(500), &["/manifests/v1: unexpected status 500"]),
        case("error-layer", Upper, ALWAYS, status(502), &["/blobs/sha256:", "unexpected status 502"]),
        case("error-manifest-once", Manifest, 1, status(500), &[]),
        case("error-config-twice", Config, 2, status(503), &[]),
        case("error-layers-once", Layers, 1, status(500), &[]),
        case("too-many", Manifest, ALWAYS, status(429), &["unexpected status 429"]),
        case("too-many-once", Manifest, 1, status(429), &[]),
        case("missing-layer", Upper, ALWAYS, status(404), &["/blobs/sha256:", ": not found"]),
        case("broken-manifest-once", Manifest, 1, Fault::Break(50), &[]),
        case("broken-layers", Layers, ALWAYS, Fault::Break(100), &["reading a layer"]),
        case("loop", Layers, ALWAYS, Fault::Redirect(String::new()), &["more than 5 redirects"]),
        case(
            "elsewhere",
            Layers,
            ALWAYS,
            Fault::Redirect("//127.0.0.2".into()),
            &["without a usable Location"],
        ),
        case("resumed", Layers, 2, Fault::Break(30_000), &[]),
        case("begun-again", Layers, 2, Fault::Break(30_000), &[]),
    ]
}

/// Plays a story with a runtime that has these settings.
pub async fn configured(
    ring: &mut Ring,
    runtime: Runtime,
    story: impl AsyncFnOnce(&mut Ring) -> Outcome,
) -> Outcome {
    configured_by(ring, Document::Runtime(runtime), story).await
}

async fn configured_by(
    ring: &mut Ring,
    document: Document,
    story: impl AsyncFnOnce(&mut Ring) -> Outcome,
) -> Outcome {
    let before = fs::read(paths::ACTIVE_CONFIG).ok();
    fs::write(paths::ACTIVE_CONFIG, config_with(Some(document))?).map_err(text)?;
    ring.kill_runtime().await?;
    let outcome = story(ring).await;
    let restored = match before {
        Some(config) => fs::write(paths::ACTIVE_CONFIG, config),
        None => fs::remove_file(paths::ACTIVE_CONFIG),
    };
    restored.map_err(text)?;
    ring.kill_runtime().await?;
    outcome
}

fn impatient(seconds: u32) -> Runtime {
    Runtime { image_pull_progress_timeout_seconds: seconds, ..Runtime::default() }
}

/// A case's registry and image.
struct Stage {
    case: Case,
    fake: Fake,
    name: String,
    tars: Vec<Vec<u8>>,
}

impl Stage {
    async fn set(case: Case, seed: u64) -> Result<Self, String> {
        let fake = Fake::start(HERE).await?;
        let tars = noise(seed, 2, 4, 60_000);
        let content = Content::new(&tars, json!({}));
        let name = fake.publish(case.name, &content);
        let layers = content.layer_paths();
        let paths = match case.what {
            What::Manifest => vec!["/manifests/".into()],
            What::Config => vec![digest_of(&content.config)],
            What::Layers => layers,
            What::Upper => layers[1..].to_vec(),
        };
        fake.fail(&paths, case.times, case.fault.clone());
        if case.name == "begun-again" {
            fake.know_no_ranges();
        }
        Ok(Self { case, fake, name, tars })
    }

    async fn play(&self, ring: &Ring) -> Outcome {
        let says = |what: String| format!("{}: {what}", self.case.name);
        let Ok(pulled) = tokio::time::timeout(BOUND, ring.pull(&self.name, None)).await else {
            return Err(says(format!("no end within {BOUND:?}")));
        };
        match (&pulled, self.case.error) {
            (Ok(_), []) => ring.holds(&self.name, &self.tars).await.map_err(says)?,
            (Err(error), wanted) if !wanted.is_empty() => {
                let named = error.contains(&self.name) && error.contains("failed to pull and unpack");
                check(named && wanted.iter().all(|part| error.contains(part)), says(error.clone()))?;
            }
            _ => return Err(says(format!("{pulled:?}"))),
        }
        let listed = ring.image_names().await?.contains(&self.name);
        check(listed == pulled.is_ok(), says("an image that was not pulled is listed".into()))
    }
}

/// One after the other in time each would take minutes; every case has a registry and an image of its own.
pub async fn pulls_from_faulty_registries_end_right_or_say_why(ring: &mut Ring) -> Outcome {
    configured(ring, impatient(2), play_all).await
}

async fn play_all(ring: &mut Ring) -> Outcome {
    let baseline = ring.image_bytes().await?;
    let mut stages = Vec::new();
    for (seed, case) in cases().into_iter().enumerate() {
        stages.push(Stage::set(case, seed as u64 + 1).await?);
    }
    let shared: &Ring = ring;
    let played = futures::future::join_all(stages.iter().map(|stage| stage.play(shared))).await;
    let faults: Vec<String> = played.into_iter().filter_map(Result::err).collect();
    check(faults.is_empty(), faults.join("\n    "))?;
    let ranges = |name: &str| {
        let stage = stages.iter().find(|stage| stage.case.name == name);
        stage.map_or(0, |stage| stage.fake.seen().iter().filter(|seen| seen.range.is_some()).count())
    };
    check(ranges("resumed") >= 2 && ranges("begun-again") >= 2, "a broken connection was not resumed")?;
    // The next right pull works.
    for stage in &stages {
        stage.fake.heal();
        ring.pull(&stage.name, None).await?;
        ring.holds(&stage.name, &stage.tars).await?;
    }
    for stage in &stages {
        ring.remove_image(&stage.name).await?;
    }
    check(ring.image_bytes().await? == baseline, "images that were removed still take space")?;
    settled(Path::new(paths::RUNTIME_STATE), 0).await
}

/// What cannot become the image takes no space, not even its layers that were right.
pub async fn an_image_that_is_not_what_it_says_leaves_nothing(ring: &mut Ring) -> Outcome {
    let fake = Fake::start(HERE).await?;
    let baseline = ring.image_bytes().await?;
    let tars = noise(100, 2, 3, 30_000);
    let right = Content::new(&tars, json!({}));
    let name = fake.publish("layer", &right);
    let forged = gzip(&Tar::default().file("data/forged", &[7; 100]).0);
    // As long as the manifest says.
    let mut forged = [forged, vec![0; right.layers[1].len()]].concat();
    forged.truncate(right.layers[1].len());
    fake.fail(&right.layer_paths()[1..], ALWAYS, Fault::Content(forged));
    let lying = Content::of(
        tars.iter().map(|tar| gzip(tar)).collect(),
        vec![digest_of(&tars[0]), digest_of(b"another")],
        json!({}),
    );
    for (name, part) in
        [(name, "content is sha256:"), (fake.publish("config", &lying), "unpacked content is sha256:")]
    {
        let error = ring.pull(&name, None).await.err().unwrap_or_default();
        let named = error.contains(&name) && error.contains("layer sha256:");
        check(
            named && (error.contains(part) || error.contains("reading the layer")),
            format!("{name}: {error:?}"),
        )?;
        check(!ring.image_names().await?.contains(&name), format!("{name} is listed"))?;
        settled(Path::new(paths::RUNTIME_STATE), 0).await?;
        check(ring.image_bytes().await? == baseline, format!("{name} still takes space"))?;
        fake.heal();
    }
    // By its digest.
    let by_digest = format!("{}/layer@{}", fake.address, digest_of(&right.manifest));
    fake.fail(&["/manifests/sha256:".into()], ALWAYS, Fault::Content(lying.manifest.clone()));
    let error = ring.pull(&by_digest, None).await.err().unwrap_or_default();
    check(error.contains(&by_digest) && error.contains(": content is sha256:"), error)?;
    settled(Path::new(paths::RUNTIME_STATE), 0).await
}

/// An image pulled by its digest has that name and no tag, gets a tag by a pull of one, and is removed with both.
pub async fn an_image_is_pulled_by_its_digest(ring: &mut Ring) -> Outcome {
    let fake = Fake::start(HERE).await?;
    let baseline = ring.image_bytes().await?;
    let tars = noise(400, 2, 3, 30_000);
    let content = Content::new(&tars, json!({}));
    let tagged = fake.publish("exact", &content);
    let by_digest = format!("{}/exact@{}", fake.address, digest_of(&content.manifest));
    let pulled = ring.pull(&by_digest, None).await?;
    ring.holds(&by_digest, &tars).await?;
    let names = async |name: &str| -> Result<_, String> {
        let image = ring.image(name).await?.ok_or_else(|| format!("{name} is not there"))?;
        check(image.id == pulled, format!("pulled {pulled}, and {name} is {image:?}"))?;
        Ok((image.repo_tags, image.repo_digests))
    };
    check(names(&by_digest).await? == (vec![], vec![by_digest.clone()]), "names of a pull by digest")?;
    ring.pull(&tagged, None).await?;
    check(
        names(&by_digest).await? == (vec![tagged.clone()], vec![by_digest.clone()]),
        "names after a pull by tag",
    )?;
    ring.remove_image(&by_digest).await?;
    for name in [&by_digest, &tagged] {
        check(ring.image(name).await?.is_none(), format!("{name} is there after its removal"))?;
    }
    settled(Path::new(paths::RUNTIME_STATE), 0).await?;
    check(ring.image_bytes().await? == baseline, "an image that was removed still takes space")
}

/// Whoever waits says for how long; afterwards nothing is under way any more.
pub async fn a_pull_ends_with_its_deadline(ring: &mut Ring) -> Outcome {
    let fake = Fake::start(HERE).await?;
    let content = Content::new(&noise(350, 3, 8, 60_000), json!({}));
    let name = fake.publish("late", &content);
    fake.fail(&content.layer_paths(), ALWAYS, Fault::Stall(20_000));
    let image = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
    let mut request = tonic::Request::new(cri::PullImageRequest { image, auth: None, sandbox_config: None });
    request.set_timeout(Duration::from_secs(2));
    let pulled = tokio::time::timeout(Duration::from_secs(20), ring.images.pull_image(request)).await;
    let Ok(Err(status)) = pulled else { return Err(format!("a pull without an end: {pulled:?}")) };
    let code = status.code();
    let late = matches!(code, tonic::Code::DeadlineExceeded | tonic::Code::Cancelled);
    check(late, format!("{status}"))?;
    check(!ring.image_names().await?.contains(&name), "an image that was not pulled is listed")?;
    settled(Path::new(paths::RUNTIME_STATE), 0).await
}

/// Layers that wait for their registry must not take what pods and other images need.
pub async fn a_stalled_registry_holds_up_nobody_else(ring: &mut Ring) -> Outcome {
    configured(ring, impatient(20), stall).await
}

async fn stall(ring: &mut Ring) -> Outcome {
    let (bad, good) = (Fake::start(HERE).await?, Fake::start(HERE).await?);
    let mut stalled = Vec::new();
    // More layers than are unpacked at once.
    for seed in 200..200 + STALLED {
        let content = Content::new(&noise(seed, 3, 8, 60_000), json!({}));
        bad.fail(&content.layer_paths(), ALWAYS, Fault::Stall(20_000));
        let name = bad.publish(&format!("stalled{seed}"), &content);
        let images = ring.images.clone();
        stalled.push(tokio::task::spawn_local(async move {
            let image = Some(cri::ImageSpec { image: name, ..Default::default() });
            let request = cri::PullImageRequest { image, auth: None, sandbox_config: None };
            images.clone().pull_image(request).await.is_ok()
        }));
    }
    // All of their layers are under way.
    while bad.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count() < 4 * STALLED as usize {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tars = noise(300, 2, 2, 30_000);
    let name = good.publish("good", &Content::new(&tars, json!({})));
    let others = async {
        ring.pull(&name, None).await?;
        ring.holds(&name, &tars).await?;
        let pod = ring.sandbox("beside", NamespaceMode::Container).await?;
        let id = ring.run(&pod, "main", &["true"]).await?;
        check(ring.exited(&id).await?.exit_code == 0, "the container's code")?;
        ring.remove(&pod.0).await
    };
    let Ok(done) = tokio::time::timeout(Duration::from_secs(15), others).await else {
        return Err("pods and images wait for a registry that is not theirs".into());
    };
    done?;
    check(stalled.iter().all(|pull| !pull.is_finished()), "the pulls did not stall")?;
    // Whoever does not wait any more ends his pull.
    stalled.iter().for_each(tokio::task::JoinHandle::abort);
    ring.remove_image(&name).await?;
    settled(Path::new(paths::RUNTIME_STATE), 0).await
}

/// An address of the services of [`cluster`].
const SERVICE: &str = "10.112.0.7";

/// Images named after the node's own addresses, and registries that send to them, to services or to a token service among them.
pub async fn no_pull_reaches_into_the_node_or_the_cluster(ring: &mut Ring) -> Outcome {
    configured_by(ring, cluster(PodNetworkKind::Builtin)?, reach).await
}

async fn reach(ring: &mut Ring) -> Outcome {
    let content = Content::new(&noise(700, 2, 2, 20_000), json!({}));
    let (node, service) = (Fake::start("127.0.0.1").await?, Fake::start(SERVICE).await?);
    for inside in [&node, &service] {
        inside.publish("own", &content);
        inside.publish("sent", &content);
    }
    let refused = async |name: &str, what: &str| {
        let error = ring.pull(name, None).await.err().unwrap_or_default();
        let clear = error.contains(what) && error.contains("where a Registry document names");
        check(clear, format!("{name}: {error:?}"))
    };
    refused(&format!("{}/own:v1", node.address), "a loopback address").await?;
    let port = node.address.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
    refused(&format!("127.1:{port}/own:v1"), "at 127.0.0.1, a loopback address").await?;
    refused(&format!("localhost:{port}/own:v1"), "a name of loopback").await?;
    refused("169.254.169.254/own:v1", "a link-local address").await?;
    for (inside, what) in [(&node, "a loopback address"), (&service, "the cluster's pods or services")] {
        let registry = Fake::start(HERE).await?;
        let name = registry.publish("sent", &content);
        registry.fail(&content.layer_paths(), ALWAYS, Fault::Redirect(format!("http://{}", inside.address)));
        refused(&name, what).await?;
        registry.heal();
        registry
            .guard(&format!("Bearer realm=\"http://{}/token\",service=\"ring\"", inside.address), "never");
        refused(&name, what).await?;
    }
    check(node.seen().is_empty(), format!("the node was asked: {:?}", node.seen()))?;
    check(service.seen().is_empty(), format!("a service was asked: {:?}", service.seen()))?;
    // A registry that runs in the cluster is pulled from by whoever names it.
    let name = format!("{}/own:v1", service.address);
    ring.pull(&name, None).await?;
    ring.remove_image(&name).await
}
