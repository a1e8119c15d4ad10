//! A pull, from name to image id.
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::PullError;
use super::auth::Credentials;
use super::blob;
use super::endpoint::Endpoint;
use super::http::Session;
use super::manifest::{self, Descriptor, MAX_CONFIG, MAX_MANIFEST, Manifest, check_config, digest_of};
use crate::intake::{Intake, Stored};
use crate::reference::is_digest;
use crate::{Auth, Reference, Store};

/// Layers of one image under way at once.
const PARALLEL: usize = 3;

impl Store {
    /// Pulls an image and returns its id. Dropping the future ends the pull; whole layers stay for the next
    /// try.
    ///
    /// # Errors
    /// As [`PullError`] says; of several endpoints, the error of the registry itself.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<&Auth>,
        deadline: Option<Duration>,
    ) -> Result<String, PullError> {
        let reference = Reference::parse(name, self.short_names())?;
        if !reference.pullable {
            return Err(PullError::Unqualified(name.into()));
        }
        let work = self.pull_reference(&reference, auth);
        match deadline {
            Some(deadline) => tokio::time::timeout(deadline, work).await.map_err(|_| PullError::Deadline)?,
            None => work.await,
        }
    }

    async fn pull_reference(&self, reference: &Reference, auth: Option<&Auth>) -> Result<String, PullError> {
        let mut failure = PullError::NotFound(reference.to_string());
        for endpoint in self.0.registries.endpoints(&reference.host)? {
            let credentials = credentials(&endpoint, auth, &reference.host);
            let server = endpoint.authority.clone();
            let session = Session::new(&self.0.registries, endpoint, credentials, &reference.path);
            match self.pull_from(&session, reference).await {
                Ok(id) => return Ok(id),
                Err(error) if error.try_next() => {
                    tracing::info!(image = %reference, server, %error, "an endpoint did not give the image");
                    failure = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    async fn pull_from(&self, session: &Session<'_>, reference: &Reference) -> Result<String, PullError> {
        let repository = reference.path.as_str();
        let top = get_manifest(session, repository, reference.version(), reference.digest.as_deref()).await?;
        let top_digest = digest_of(&top);
        let most = self.0.limits.layers;
        let (config, layers) = match Manifest::parse(&top, most)? {
            Manifest::Image { config, layers } => (config, layers),
            Manifest::Index(manifests) => {
                let chosen = &manifest::choose(&manifests)?.digest;
                match Manifest::parse(&get_manifest(session, repository, chosen, Some(chosen)).await?, most)?
                {
                    Manifest::Image { config, layers } => (config, layers),
                    Manifest::Index(_) => {
                        return Err(PullError::Malformed("an index inside an index".into()));
                    }
                }
            }
        };
        let raw = get_config(session, repository, &config).await?;
        let (_, diff_ids) = check_config(&raw, layers.len())?;
        let intake = Intake::begin(self, diff_ids)?;
        let mut jobs = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            jobs.push(self.layer(session, repository, &intake, index, layer).boxed());
        }
        let stored: Result<Vec<Stored>, _> =
            futures::stream::iter(jobs).buffered(PARALLEL).try_collect().await;
        if stored.as_ref().is_err_and(|error| !error.later()) {
            intake.give_up();
        }
        let tags = if reference.digest.is_none() { vec![reference.to_string()] } else { Vec::new() };
        let digests = vec![format!("{}@{top_digest}", reference.repository())];
        Ok(intake.finish(stored?, config.digest, raw, tags, digests).await?)
    }

    /// Fetches one layer and unpacks it when all of it is there, so that a registry that takes its time holds
    /// a file and no place for unpacking.
    async fn layer(
        &self,
        session: &Session<'_>,
        repository: &str,
        intake: &Intake,
        index: usize,
        layer: &Descriptor,
    ) -> Result<Stored, PullError> {
        let turn = self.layer_turn(&session.endpoint.authority, intake.diff_id(index));
        let _turn = turn.lock().await;
        if let Some(key) = intake.present(index) {
            return Ok(Stored::Ready(key));
        }
        let failed = |source| PullError::Layer { digest: layer.digest.clone(), source };
        let spool = intake.spool(index, layer.size).await.map_err(failed)?;
        let (sink, receiver) = mpsc::channel(blob::QUEUE);
        let fetching = async move { blob::fetch(session, repository, layer, &sink).await };
        // When either fails its end of the channel goes, and the other one ends by itself.
        let (fetched, spooled) = tokio::join!(fetching, spool.fill(receiver));
        fetched?;
        let file = spooled.map_err(failed)?;
        intake.unpack(index, Some(layer.digest.clone()), file).await?.map_err(failed)
    }

    /// The lock of a layer that comes from this server. Another server may be quicker, or tell the truth.
    fn layer_turn(&self, server: &str, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let name = format!("{server} {diff_id}");
        let mut locks = self.0.layer_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&name).and_then(std::sync::Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name, Arc::downgrade(&lock));
        lock
    }
}

/// A pull secret is for the registry that the image's name says, never for its mirrors.
fn credentials(endpoint: &Endpoint, auth: Option<&Auth>, host: &str) -> Credentials {
    let own = Credentials { user: endpoint.auth.clone(), ..Credentials::default() };
    if endpoint.namespace.is_some() {
        return own;
    }
    auth.and_then(|auth| Credentials::of(auth, host)).unwrap_or(own)
}

async fn get_manifest(
    session: &Session<'_>,
    repository: &str,
    version: &str,
    digest: Option<&str>,
) -> Result<Vec<u8>, PullError> {
    let accept = [("accept", manifest::ACCEPT.to_owned())];
    let path = format!("{repository}/manifests/{version}");
    let (headers, bytes) = session.read(&path, &accept, MAX_MANIFEST).await?;
    let url = session.url(&path);
    // What the registry itself says of a tag's content, if it says anything.
    let told = headers.get("docker-content-digest").and_then(|told| told.to_str().ok());
    let bytes = verified(&url, bytes, told.filter(|told| is_digest(told)))?;
    verified(&url, bytes, digest).map(Into::into)
}

async fn get_config(
    session: &Session<'_>,
    repository: &str,
    config: &Descriptor,
) -> Result<Vec<u8>, PullError> {
    let path = format!("{repository}/blobs/{}", config.digest);
    let (_, bytes) = session.read(&path, &[], MAX_CONFIG).await?;
    verified(&session.url(&path), bytes, Some(&config.digest)).map(Into::into)
}

fn verified(url: &str, bytes: Bytes, digest: Option<&str>) -> Result<Bytes, PullError> {
    let actual = digest_of(&bytes);
    match digest {
        Some(expected) if expected != actual => {
            Err(PullError::Digest { what: url.into(), expected: expected.into(), actual })
        }
        _ => Ok(bytes),
    }
}
