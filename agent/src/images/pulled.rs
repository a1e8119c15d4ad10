//! Who may use an image that is here already (KEP-2535): with whose credentials each was pulled, kept in the kubelet's files and format. Without this a
//! pod could use what another one's pull secret has brought to the node.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use machine::config::{ImagePullCredentialsVerificationPolicy as Policy, NodeAgent};
use machine::cri::AuthConfig;
use node_kit::files::{Durability, make_folder, replace};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets that are remembered of an image; the oldest go.
const MOST_SECRETS: usize = 500;

/// A pull secret's credentials, by where they are from and what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PullSecret {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// SHA-256 of the credentials, in hexadecimal digits.
    pub credential_hash: String,
}

impl PullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// What an [`AuthConfig`] is told from others by.
#[must_use]
pub fn hash(auth: &AuthConfig) -> String {
    let mut digest = Sha256::new();
    for field in [&auth.username, &auth.password, &auth.server_address, &auth.identity_token] {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field);
    }
    hex::encode(digest.finalize())
}

/// Who has shown that he may pull an image from a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Granted {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<PullSecret>,
    /// It was pulled without credentials.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

impl Granted {
    fn to(secret: Option<PullSecret>) -> Self {
        Self { node_pods_accessible: secret.is_none(), kubernetes_secrets: secret.into_iter().collect() }
    }

    fn merge(&mut self, other: Self) {
        if self.node_pods_accessible || other.node_pods_accessible {
            *self = Self::to(None);
        }
        for secret in other.kubernetes_secrets.into_iter().filter(|_| !self.node_pods_accessible) {
            self.kubernetes_secrets.retain(|known| !known.is_same_object(&secret));
            self.kubernetes_secrets.push(secret);
        }
        let surplus = self.kubernetes_secrets.len().saturating_sub(MOST_SECRETS);
        self.kubernetes_secrets.drain(..surplus);
    }

    /// The one of `secrets` that opens it, by its object or its content.
    fn opened_by<'a>(&self, secrets: &'a [PullSecret]) -> Option<&'a PullSecret> {
        secrets.iter().find(|secret| {
            self.kubernetes_secrets.iter().any(|known| {
                known.is_same_object(secret)
                    || (!known.credential_hash.is_empty() && known.credential_hash == secret.credential_hash)
            })
        })
    }
}

/// `ImagePulledRecord` of the kubelet's configuration API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    api_version: String,
    kind: String,
    last_updated_time: String,
    image_ref: String,
    #[serde(default)]
    credential_mapping: BTreeMap<String, Granted>,
}

/// `ImagePullIntent` of the same.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    api_version: String,
    kind: String,
    image: String,
}

/// What is known of an image's origin.
#[derive(Debug)]
enum Origin {
    /// It was not pulled for a pod.
    Elsewhere,
    /// It was, or may have been, and nobody knows with what.
    Unknown,
    Pulled(Record),
}

/// Whether a pod may use an image that is here.
#[derive(Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// If one of its pull secrets is known; see [`Pulled::opens`].
    ToSecrets,
    /// It has to pull.
    Denied,
}

/// Pulls of one image that have not ended.
#[derive(Debug, Default)]
struct Intents {
    under_way: usize,
    /// Whether one ended, or an earlier agent began it, of which nobody knows what it brought.
    left: bool,
}

/// How a pull has ended.
#[derive(Debug)]
pub enum End<'a> {
    Failed,
    /// It brought the image, but nobody knows which.
    Unknown,
    /// With the image's id and the secret that was good for it, if it needed any.
    Pulled {
        image_ref: &'a str,
        secret: Option<PullSecret>,
    },
}

/// The records; clones share them.
#[derive(Debug, Clone)]
pub struct Pulled {
    folder: PathBuf,
    /// By image.
    intents: Arc<Mutex<HashMap<String, Intents>>>,
}

impl Pulled {
    /// Records in `folder`, with what an earlier agent left there.
    #[must_use]
    pub fn open(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        let left = files(&folder.join("pulling")).into_iter().filter_map(|path| read::<Intent>(&path));
        let intents = left.map(|intent| (intent.image, Intents { under_way: 0, left: true })).collect();
        Self { folder, intents: Arc::new(Mutex::new(intents)) }
    }

    fn record_of(&self, image_ref: &str) -> PathBuf {
        self.folder.join("pulled").join(file_name(image_ref))
    }

    fn intent_of(&self, image: &str) -> PathBuf {
        self.folder.join("pulling").join(file_name(image))
    }

    /// Whether a pod may use the image with the id `image_ref`, which it calls `image`.
    #[must_use]
    pub fn access(&self, image: &str, image_ref: &str, settings: &NodeAgent) -> Access {
        access(image, &self.origin(image, image_ref), settings)
    }

    fn origin(&self, image: &str, image_ref: &str) -> Origin {
        let intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.record_of(image_ref);
        match read::<Record>(&path) {
            Some(record) if record.image_ref == image_ref => Origin::Pulled(record),
            // A broken record opens nothing.
            _ if path.exists() || intents.contains_key(image) => Origin::Unknown,
            _ => Origin::Elsewhere,
        }
    }

    /// Whether one of a pod's pull secrets has been good for the image before; it is remembered as it is now.
    #[must_use]
    pub fn opens(&self, image: &str, image_ref: &str, secrets: &[PullSecret]) -> bool {
        let Origin::Pulled(record) = self.origin(image, image_ref) else { return false };
        let opened = record
            .credential_mapping
            .get(repository(image))
            .and_then(|granted| Some((granted, granted.opened_by(secrets)?)));
        let Some((granted, secret)) = opened else { return false };
        if !granted.kubernetes_secrets.contains(secret) {
            self.grant(image, image_ref, Some(secret.clone()));
        }
        true
    }

    /// A pull begins. From here on the image counts as pulled for a pod, even if the agent ends before the pull does.
    ///
    /// # Errors
    /// When that cannot be written down, so the pull must not begin.
    pub fn begin(&self, image: &str) -> io::Result<()> {
        let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        if !intents.contains_key(image) {
            let intent = Intent {
                api_version: API_VERSION.into(),
                kind: "ImagePullIntent".into(),
                image: image.into(),
            };
            write(&self.intent_of(image), &serde_json::to_vec(&intent)?)?;
        }
        intents.entry(image.to_owned()).or_default().under_way += 1;
        Ok(())
    }

    /// A pull has ended.
    pub fn end(&self, image: &str, how: End<'_>) {
        let left = match how {
            End::Failed => None,
            End::Unknown => Some(true),
            // What is not written down stays known as pulled for somebody.
            End::Pulled { image_ref, secret } => Some(!self.grant(image, image_ref, secret)),
        };
        let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_image) = intents.get_mut(image) else { return };
        of_image.under_way = of_image.under_way.saturating_sub(1);
        of_image.left = left.unwrap_or(of_image.left);
        if of_image.under_way == 0 && !of_image.left {
            intents.remove(image);
            let _ = std::fs::remove_file(self.intent_of(image));
        }
    }

    /// Writes down who may use an image; answers whether it is written.
    fn grant(&self, image: &str, image_ref: &str, secret: Option<PullSecret>) -> bool {
        // One at a time.
        let _intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.record_of(image_ref);
        let mut record = read(&path).unwrap_or_else(|| Record {
            api_version: API_VERSION.into(),
            kind: "ImagePulledRecord".into(),
            last_updated_time: String::new(),
            image_ref: image_ref.into(),
            credential_mapping: BTreeMap::new(),
        });
        let granted = record.credential_mapping.entry(repository(image).to_owned()).or_default();
        let before = granted.clone();
        granted.merge(Granted::to(secret));
        if *granted == before {
            return true;
        }
        record.last_updated_time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let written =
            serde_json::to_vec(&record).map_err(io::Error::from).and_then(|text| write(&path, &text));
        if let Err(error) = &written {
            tracing::warn!("remember who may use image {image}: {}: {error}", path.display());
        }
        written.is_ok()
    }
}

/// Where the kubelet keeps its records.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(machine::paths::KUBELET).join("image_manager")
}

/// Forgets images that are not among `present`, unless they were pulled after `since`.
pub fn prune(folder: &Path, present: &BTreeSet<&str>, since: SystemTime) {
    for path in files(&folder.join("pulled")) {
        let is_old = path.metadata().and_then(|of| of.modified()).is_ok_and(|time| time < since);
        let is_present =
            read::<Record>(&path).is_some_and(|record| present.contains(record.image_ref.as_str()));
        if is_old && !is_present {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn access(image: &str, origin: &Origin, settings: &NodeAgent) -> Access {
    let verified = match settings.image_pull_credentials_verification_policy {
        Policy::NeverVerify => false,
        Policy::NeverVerifyPreloadedImages => !matches!(origin, Origin::Elsewhere),
        Policy::NeverVerifyAllowlistedImages => {
            !matches!(origin, Origin::Elsewhere)
                || !settings.preloaded_images_verification_allowlist.iter().any(|entry| fits(entry, image))
        }
        Policy::AlwaysVerify => true,
    };
    if !verified {
        return Access::Granted;
    }
    let Origin::Pulled(record) = origin else { return Access::Denied };
    match record.credential_mapping.get(repository(image)) {
        Some(granted) if granted.node_pods_accessible => Access::Granted,
        Some(granted) if !granted.kubernetes_secrets.is_empty() => Access::ToSecrets,
        _ => Access::Denied,
    }
}

/// Whether an entry of the allow list, a repository or the path of some with `/*` behind it, has the image.
fn fits(entry: &str, image: &str) -> bool {
    let repository = repository(image);
    match entry.strip_suffix("/*") {
        Some(path) => repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')),
        None => repository == entry,
    }
}

/// An image's name without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

fn file_name(of: &str) -> String {
    format!("sha256-{}", hex::encode(Sha256::digest(of)))
}

/// The files in a folder, but for those that are being written.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sha256-"));
    entries.map(|entry| entry.path()).filter(named).collect()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// After a power cut the file is the old or the new one.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    make_folder(path.parent().ok_or(io::ErrorKind::InvalidInput)?, 0o755)?;
    Ok(replace(path, text, 0o600, Durability::PowerCut)?)
}

#[cfg(test)]
mod tests;
