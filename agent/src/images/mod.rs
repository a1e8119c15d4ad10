//! Image pulls: the kubelet's policies, back-off and words.
mod keyring;
pub mod pulled;
mod slots;
#[cfg(test)]
mod stories;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Container, Pod};
use machine::cri::{AuthConfig, Image, ImageSpec, PodSandboxConfig};

use crate::backoff::{Backoff, Nanos, SECOND};
use crate::context::Context;
use crate::cri::CriError;
use crate::events::Kind as Severity;
use crate::spec::{self, Kind};
use keyring::from_secret;
use pulled::{Access, End, PullSecret, Pulled};
use slots::Slots;

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
    slots: Slots,
    backoff: Arc<Mutex<HashMap<PullKey, LastFailure>>>,
    pulled: Pulled,
}

impl Images {
    #[must_use]
    pub fn new(serialize: bool, pulled: Pulled) -> Self {
        Self { slots: Slots::new(serialize), backoff: Arc::default(), pulled }
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
        let (pulled, of, id) = (self.pulled.clone(), name.to_owned(), image.id.clone());
        let settings = ctx.now();
        let access = on_disk(move || pulled.access(&of, &id, settings.node_agent())).await;
        match access.unwrap_or(Access::Denied) {
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

    /// Pulls on a task of its own: it goes on to its end although the pod may go meanwhile, as with the kubelet, so whose the image is gets on record.
    async fn pull(
        &self,
        ctx: &Context,
        pod: &Pod,
        name: &str,
        wanted: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<Image, CriError> {
        let (images, ctx, pod, sandbox) = (self.clone(), ctx.clone(), pod.clone(), sandbox.clone());
        let (name, wanted) = (name.to_owned(), wanted.to_owned());
        let failed =
            |message: String| CriError { operation: "PullImage", code: tonic::Code::Unknown, message };
        // Whoever still waits for its turn has not begun.
        let slot = self.slots.take(registry_of(&name)).await;
        let pulling = async move {
            let _slot = slot;
            let (pulled, image) = (images.pulled.clone(), name.clone());
            let begun = on_disk(move || pulled.begin(&image)).await.and_then(|begun| begun);
            begun.map_err(|error| failed(format!("write down that {name} is pulled: {error}")))?;
            let tried = images.try_credentials(&ctx, &pod, &name, &wanted, &sandbox).await;
            let image = match &tried {
                Ok(_) => just_pulled(&ctx, &name, &wanted).await,
                Err(error) => Err(error.clone()),
            };
            let (pulled, id) = (images.pulled.clone(), image.as_ref().ok().map(|i| i.id.clone()));
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
        };
        match tokio::spawn(pulling).await {
            Ok(image) => image,
            Err(panic) => Err(failed(format!("the pull has panicked: {panic}"))),
        }
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
}
