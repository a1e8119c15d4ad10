//! Credentials are shown to the registry that the image's name says, and are nowhere else: not at other hosts, on disk, in logs or in errors.
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machine::cri::AuthConfig;
use machine::paths;
use serde_json::{Value, json};

use crate::content::{Content, digest_of, noise};
use crate::fake::{ALWAYS, Fake, Fault, HERE, THERE};
use crate::ring::{Outcome, Ring, check, text};

const USER: &str = "canary-user";
const PASSWORD: &str = "canary-password-3f9a";
const TOKEN: &str = "canary-token-77c1";
const LOG: &str = "/var/log/pintle-runtime.log";

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn password() -> Option<AuthConfig> {
    Some(AuthConfig { username: USER.into(), password: PASSWORD.into(), ..Default::default() })
}

fn token() -> Option<AuthConfig> {
    Some(AuthConfig { registry_token: TOKEN.into(), ..Default::default() })
}

fn image(seed: u64) -> Content {
    Content::new(&noise(seed, 2, 2, 20_000), json!({}))
}

/// A registry that wants the password, and another host that it sends to; returns both and the image's name.
async fn guarded(name: &str, image: &Content) -> Result<(Fake, Fake, String), String> {
    let (registry, other) = (Fake::start(HERE).await?, Fake::start(THERE).await?);
    registry.guard("Basic realm=\"ring\"", &basic());
    let full = registry.publish(name, image);
    other.publish(name, image);
    registry.fail(&image.layer_paths(), ALWAYS, Fault::Redirect(format!("http://{}", other.address)));
    Ok((registry, other, full))
}

fn nothing_shown(fake: &Fake) -> Outcome {
    let seen = fake.seen();
    check(!seen.is_empty(), "the other host was not asked")?;
    check(seen.iter().all(|seen| seen.authorization.is_none()), format!("credentials followed: {seen:?}"))
}

/// CVE-2020-15157: whoever a registry sends us to may ask for credentials as he likes.
pub async fn credentials_follow_no_redirect_and_no_foreign_layer(ring: &mut Ring) -> Outcome {
    let content = image(500);
    let (_registry, other, name) = guarded("redirected", &content).await?;
    check(ring.pull(&name, None).await.is_err(), "a guarded image was pulled without credentials")?;
    ring.pull(&name, password()).await?;
    nothing_shown(&other)?;
    ring.remove_image(&name).await?;

    // The other host names itself as the token service.
    let content = image(501);
    let (_registry, other, name) = guarded("realm", &content).await?;
    other.guard(&format!("Bearer realm=\"http://{}/token\",service=\"ring\"", other.address), "never");
    let error = ring.pull(&name, password()).await.err().unwrap_or_default();
    let named = error.contains(&name) && error.contains(&other.address);
    check(named && error.contains("asks for authorization after a redirect"), error)?;
    nothing_shown(&other)?;
    check(other.seen().iter().all(|seen| !seen.path.contains("token")), "its token service was asked")?;

    // A manifest that says where else its layer lies: there nobody asks.
    let foreign = Fake::start(THERE).await?;
    let mut content = image(502);
    let mut manifest: Value = serde_json::from_slice(&content.manifest).map_err(text)?;
    for layer in manifest["layers"].as_array_mut().ok_or("layers")? {
        layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        layer["urls"] = json!([format!("http://{}/layer", foreign.address)]);
    }
    content.manifest = manifest.to_string().into_bytes();
    let registry = Fake::start(HERE).await?;
    registry.guard("Basic realm=\"ring\"", &basic());
    let name = registry.publish("foreign", &content);
    registry.fail(&content.layer_paths(), ALWAYS, Fault::Status(404, "X-Nothing", "here".into()));
    let error = ring.pull(&name, password()).await.err().unwrap_or_default();
    check(error.contains(&name) && error.contains(&digest_of(&content.layers[0])), error)?;
    check(foreign.seen().is_empty(), format!("the foreign layer was asked for: {:?}", foreign.seen()))
}

/// A grep over all that stays of thirty pulls.
pub async fn credentials_are_nowhere_after_a_pull(ring: &mut Ring) -> Outcome {
    ring.stop_runtime().await?;
    ring.start_runtime_with(|command| {
        command.env("RUST_LOG", "debug").stderr(fs::File::create(LOG)?);
        Ok(())
    })
    .await?;
    let (mut told, mut names) = (String::new(), Vec::new());
    for round in 0..10 {
        let content = image(600 + round);
        let (registry, _other, name) = guarded(&format!("secret{round}"), &content).await?;
        ring.pull(&name, password()).await?;
        // A registry that repeats what it was shown.
        registry.guard("Basic realm=\"ring\"", "something else");
        told += &ring.pull(&name, password()).await.err().unwrap_or_default();
        registry.guard(&format!("Bearer realm=\"http://{}/token\"", registry.address), "something else");
        told += &ring.pull(&name, token()).await.err().unwrap_or_default();
        names.push(name);
    }
    check(
        told.contains("you are") && told.contains('…'),
        format!("the registry's words are missing: {told}"),
    )?;
    let encoded = basic().trim_start_matches("Basic ").to_owned();
    let secrets = [PASSWORD, TOKEN, &encoded];
    let process = PathBuf::from(format!("/proc/{}", ring.runtime.id()));
    let process = [process.join("cmdline"), process.join("environ")];
    let places = [paths::RUNTIME_STATE, paths::RUNTIME_RUN, "/var/log"].map(PathBuf::from);
    let in_errors = secrets.iter().any(|secret| told.contains(secret));
    let mut hits = if in_errors { vec!["an error".to_owned()] } else { Vec::new() };
    places.iter().chain(&process).for_each(|place| grep(place, &secrets, &mut hits));
    check(fs::metadata(LOG).is_ok_and(|log| log.len() > 1000), "the runtime has logged nothing")?;
    check(hits.is_empty(), format!("credentials in {hits:?}"))?;
    for name in &names {
        ring.remove_image(name).await?;
    }
    ring.kill_runtime().await
}

/// Files below a path that hold one of these.
fn grep(path: &Path, secrets: &[&str], hits: &mut Vec<String>) {
    let Ok(stat) = path.symlink_metadata() else { return };
    if stat.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            grep(&entry.path(), secrets, hits);
        }
    } else if stat.is_file() {
        let bytes = fs::read(path).unwrap_or_default();
        let holds = |secret: &&&str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        hits.extend(secrets.iter().filter(holds).map(|_| path.display().to_string()));
    }
}
