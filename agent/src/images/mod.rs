//! Image pulls: the kubelet's policies, back-off and words.
pub mod pulled;
#[cfg(test)]
mod stories;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use machine::cri::{AuthConfig, Image, ImageSpec, PodSandboxConfig};
use tokio::sync::Semaphore;

use crate::context::Context;
use crate::cri::CriError;
use crate::events::Kind as Severity;
use crate::pod::backoff::{Backoff, Nanos, SECOND};
use crate::pod::spec::{self, Kind};
use pulled::{Access, End, PullSecret, Pulled};

/// Pulls at once when they are not serialized.
const PARALLEL: usize = 5;

/// An image that cannot be had; reason and message of the waiting container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    pub reason: &'static str,
    pub message: String,
    pub retry_at: Nanos,
}

/// Pod uid and image.
type PullKey = (String, String);
/// How often it failed, when last, and why.
type LastFailure = (Backoff, Nanos, String);

/// The pulls of all pods; clones share back-off and slots.
#[derive(Debug, Clone)]
pub struct Images {
    slots: Arc<Semaphore>,
    backoff: Arc<Mutex<HashMap<PullKey, LastFailure>>>,
    pulled: Pulled,
}

impl Images {
    #[must_use]
    pub fn new(serialize: bool, pulled: Pulled) -> Self {
        let slots = if serialize { 1 } else { PARALLEL };
        Self { slots: Arc::new(Semaphore::new(slots)), backoff: Arc::default(), pulled }
    }

    /// Forgets a pod's back-offs.
    pub fn forget(&self, uid: &str) {
        if let Ok(mut backoff) = self.backoff.lock() {
            backoff.retain(|(pod, _), _| pod != uid);
        }
    }

    /// Sees to it that the container's image is here.
    ///
    /// # Errors
    /// What the container waits for.
    pub async fn ensure(
        &self,
        ctx: &Context,
        pod: &Pod,
        kind: Kind,
        container: &Container,
        sandbox: &PodSandboxConfig,
        now: impl Fn() -> Nanos,
    ) -> Result<(ImageSpec, Image), PullFailure> {
        let wanted = container.image.clone().unwrap_or_default();
        let field = spec::field_path(kind, &container.name);
        let event = |severity, reason, message: String| {
            ctx.events.container(pod, field.clone(), severity, reason, message)
        };
        let fail = |reason, message: String, retry_at| PullFailure { reason, message, retry_at };
        let name = with_default_tag(&wanted);
        let spec_of =
            |image: String| ImageSpec { image, user_specified_image: wanted.clone(), ..Default::default() };
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(&name));
        let present = ctx.cri.image_status(spec_of(name.clone())).await.map_err(|error| {
            fail(
                "ImageInspectError",
                format!("Failed to inspect image {wanted:?}: {}", error.message),
                now() + 5 * SECOND,
            )
        })?;
        if policy != "Always" {
            // Whoever may not have the image shall not see that it is there.
            let usable = match present {
                Some(image) if self.may_use(ctx, pod, &name, &image).await => Some(image),
                _ => None,
            };
            if let Some(image) = usable {
                let message = format!(
                    "Container image {wanted:?} already present on machine and can be accessed by the pod"
                );
                event(Severity::Normal, "Pulled", message);
                return Ok((spec_of(image.id.clone()), image));
            }
            if policy == "Never" {
                let message = format!("Container image {wanted:?} is not present with pull policy of Never");
                event(Severity::Warning, "ErrImageNeverPull", message.clone());
                return Err(fail("ErrImageNeverPull", message, now() + 10 * SECOND));
            }
        }
        let key = (pod.metadata.uid.clone().unwrap_or_default(), name.clone());
        if let Some((until, last)) = self.waiting(&key, now()) {
            let message = format!("Back-off pulling image {wanted:?}");
            event(Severity::Normal, "BackOff", message.clone());
            return Err(fail("ImagePullBackOff", format!("{message}: {last}"), until));
        }
        event(Severity::Normal, "Pulling", format!("Pulling image {wanted:?}"));
        let begun = now();
        match self.pull(ctx, pod, &name, &wanted, sandbox).await {
            Ok(image) => {
                self.succeeded(&key);
                let took = std::time::Duration::from_nanos((now() - begun).unsigned_abs());
                event(
                    Severity::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {wanted:?} in {}ms. Image size: {} bytes.",
                        took.as_millis(),
                        image.size
                    ),
                );
                Ok((spec_of(image.id.clone()), image))
            }
            Err(error) => {
                let until = self.failed(&key, now(), &error.message);
                let message = format!("Failed to pull image {wanted:?}: {}", error.message);
                event(Severity::Warning, "Failed", message);
                event(Severity::Warning, "Failed", "Error: ErrImagePull".into());
                let reason = match error.code {
                    tonic::Code::InvalidArgument => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                // The wait begins with the kubelet's next look, which then says ImagePullBackOff.
                Err(fail(reason, error.message, (now() + SECOND).min(until)))
            }
        }
    }

    /// Whether a pod may use an image that is here.
    async fn may_use(&self, ctx: &Context, pod: &Pod, name: &str, image: &Image) -> bool {
        match self.pulled.access(name, &image.id, ctx.now().node_agent()) {
            Access::Granted => true,
            Access::Denied => false,
            Access::ToSecrets => {
                let secrets: Vec<_> =
                    credentials(ctx, pod, name).await.into_iter().map(|(secret, _)| secret).collect();
                let (pulled, name, id) = (self.pulled.clone(), name.to_owned(), image.id.clone());
                on_disk(move || pulled.opens(&name, &id, &secrets)).await.unwrap_or(false)
            }
        }
    }

    async fn pull(
        &self,
        ctx: &Context,
        pod: &Pod,
        name: &str,
        wanted: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, CriError> {
        let _slot = self.slots.acquire().await.ok();
        let (pulled, image) = (self.pulled.clone(), name.to_owned());
        let begun = on_disk(move || pulled.begin(&image)).await.and_then(|begun| begun);
        begun.map_err(|error| CriError {
            operation: "PullImage",
            code: tonic::Code::Unknown,
            message: format!("write down that {name} is pulled: {error}"),
        })?;
        let tried = self.try_credentials(ctx, pod, name, wanted, sandbox).await;
        let image = match &tried {
            Ok(_) => just_pulled(ctx, name, wanted).await,
            Err(error) => Err(error.clone()),
        };
        let (pulled, name, id) =
            (self.pulled.clone(), name.to_owned(), image.as_ref().ok().map(|i| i.id.clone()));
        let _ = on_disk(move || {
            let how = match (tried, &id) {
                (Err(_), _) => End::Failed,
                (Ok(_), None) => End::Unknown,
                (Ok(secret), Some(image_ref)) => End::Pulled { image_ref, secret },
            };
            pulled.end(&name, how);
        })
        .await;
        image
    }

    /// Pulls with each of the pod's credentials and then without any; answers with the secret of those that were good.
    async fn try_credentials(
        &self,
        ctx: &Context,
        pod: &Pod,
        name: &str,
        wanted: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<Option<PullSecret>, CriError> {
        let spec =
            ImageSpec { image: name.into(), user_specified_image: wanted.into(), ..Default::default() };
        let mut last = None;
        for with in credentials(ctx, pod, name).await.into_iter().map(Some).chain([None]) {
            let (secret, auth) = with.unzip();
            match ctx.cri.pull_image(spec.clone(), auth, Some(sandbox.clone())).await {
                Ok(_) => return Ok(secret),
                // The first failure has been asked with credentials and says more than the anonymous one.
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or(CriError {
            operation: "PullImage",
            code: tonic::Code::Unknown,
            message: "not tried".into(),
        }))
    }

    fn waiting(&self, key: &PullKey, now: Nanos) -> Option<(Nanos, String)> {
        let all = self.backoff.lock().ok()?;
        let (backoff, failed_at, message) = all.get(key)?;
        backoff.until(*failed_at, now).map(|until| (until, message.clone()))
    }

    fn failed(&self, key: &PullKey, now: Nanos, message: &str) -> Nanos {
        let Ok(mut all) = self.backoff.lock() else { return now + 10 * SECOND };
        let entry = all.entry(key.clone()).or_default();
        entry.0.next(now, now);
        entry.1 = now;
        message.clone_into(&mut entry.2);
        now + entry.0.delay()
    }

    fn succeeded(&self, key: &PullKey) {
        if let Ok(mut all) = self.backoff.lock() {
            all.remove(key);
        }
    }
}

/// The name with `:latest` when it has neither tag nor digest.
#[must_use]
pub fn with_default_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if name.contains('@') || last.contains(':') || name.is_empty() {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

/// What the API server fills in; static pods have no one who does.
fn default_policy(name: &str) -> &'static str {
    if name.ends_with(":latest") { "Always" } else { "IfNotPresent" }
}

/// The registry part of a name.
fn registry_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host.contains('.') || host.contains(':') || host == "localhost" => host,
        _ => DEFAULT_REGISTRY,
    }
}

/// Stands for the registry of a name without one (RFC 6761: no host has it): such images are known on the node alone, and no pull secret fits.
const DEFAULT_REGISTRY: &str = "unnamed.invalid";

/// The image that a pull has brought.
async fn just_pulled(ctx: &Context, name: &str, wanted: &str) -> Result<Image, CriError> {
    let spec = ImageSpec { image: name.into(), user_specified_image: wanted.into(), ..Default::default() };
    ctx.cri.image_status(spec).await?.ok_or_else(|| CriError {
        operation: "ImageStatus",
        code: tonic::Code::NotFound,
        message: format!("image {name} is gone right after its pull"),
    })
}

/// Does what waits for the disk on a thread of its own.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

/// The credentials of a pod's pull secrets that fit an image, each with where it is from.
async fn credentials(ctx: &Context, pod: &Pod, image: &str) -> Vec<(PullSecret, AuthConfig)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut found = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        match ctx.objects.secret(namespace, &reference.name).await {
            Ok(secret) => found.extend(from_secret(&secret, image).into_iter().map(|auth| {
                let of = PullSecret {
                    uid: secret.metadata.uid.clone().unwrap_or_default(),
                    namespace: namespace.to_owned(),
                    name: reference.name.clone(),
                    credential_hash: pulled::hash(&auth),
                };
                (of, auth)
            })),
            Err(error) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                tracing::debug!("pull secret {}: {error}", reference.name);
                ctx.events.pod(pod, Severity::Warning, "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    found
}

/// The credentials of a pull secret that fit an image, the most specific registry path first.
#[must_use]
pub fn from_secret(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let modern = data.and_then(|d| d.get(".dockerconfigjson"));
    let legacy = data.and_then(|d| d.get(".dockercfg"));
    let parse = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let auths = match (modern, legacy) {
        (Some(bytes), _) => parse(&bytes.0).and_then(|v| v.get("auths").cloned()),
        (None, Some(bytes)) => parse(&bytes.0),
        (None, None) => None,
    };
    let Some(serde_json::Value::Object(auths)) = auths else { return Vec::new() };
    let mut fitting: Vec<(usize, AuthConfig)> = auths
        .iter()
        .filter(|(server, _)| fits(server, image))
        .filter_map(|(server, entry)| Some((server.len(), auth(server, entry)?)))
        .collect();
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    fitting.into_iter().map(|(_, auth)| auth).collect()
}

fn fits(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let server = server.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = server.split_once('/').map_or((server, ""), |(host, path)| (host, path));
    let registry = registry_of(image);
    let rest = image.strip_prefix(registry).unwrap_or(image).trim_start_matches('/');
    let host_fits = match host.strip_prefix("*.") {
        Some(domain) => registry.split_once('.').is_some_and(|(_, parent)| parent == domain),
        None => host == registry,
    };
    host_fits
        && (path.is_empty()
            || rest.strip_prefix(path).is_some_and(|r| r.is_empty() || r.starts_with(['/', ':', '@'])))
}

fn auth(server: &str, entry: &serde_json::Value) -> Option<AuthConfig> {
    let field = |name: &str| entry.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let (mut username, mut password) = (field("username"), field("password"));
    if username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(field("auth")).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, secret) = text.split_once(':')?;
        (username, password) = (user.to_owned(), secret.trim_matches('\0').to_owned());
    }
    Some(AuthConfig {
        username,
        password,
        server_address: server.to_owned(),
        identity_token: field("identitytoken"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_tag_are_latest() {
        assert_eq!(with_default_tag("web"), "web:latest");
        assert_eq!(with_default_tag("host:5000/web"), "host:5000/web:latest");
        assert_eq!(with_default_tag("host:5000/web:1"), "host:5000/web:1");
        assert_eq!(with_default_tag("web@sha256:00"), "web@sha256:00");
    }

    #[test]
    fn the_most_specific_credential_comes_first() {
        let config = serde_json::json!({"auths": {
            "registry.test": {"auth": "YTpi"},
            "https://registry.test/team": {"username": "t", "password": "p"},
            "other.test": {"auth": "eDp5"}
        }});
        let data =
            [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.to_string().into_bytes()))];
        let secret = Secret { data: Some(data.into()), ..Default::default() };
        let users = |image| from_secret(&secret, image).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("registry.test/team/web:1"), ["t", "a"]);
        assert_eq!(users("registry.test/web:1"), ["a"]);
        assert_eq!(users("elsewhere.test/web:1"), Vec::<String>::new());
    }
}
