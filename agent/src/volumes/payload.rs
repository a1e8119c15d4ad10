//! The files that configMap, secret, downwardAPI and projected volumes show.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod,
    PodCertificateProjection, ProjectedVolumeSource, Secret, SecretVolumeSource,
    ServiceAccountTokenProjection,
};

use super::atomic::{File, Payload};
use super::bundles;
use super::certificates::Certificates;
use super::source::{Source, SourceError, TokenRequest};
use super::tokens::{TokenCache, due};
use crate::downward::{self, PodFacts};

const DEFAULT_MODE: i32 = 0o644;
const DEFAULT_EXPIRATION: i64 = 3600;

/// What a volume is to show, and when it has to be looked at again although nothing changed.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) payload: Payload,
    pub(super) renew_at: Option<Timestamp>,
}

/// Reads what payload volumes of one pod show.
#[derive(Debug)]
pub(super) struct Gatherer<'a> {
    pub(super) pod: &'a Pod,
    pub(super) facts: &'a PodFacts,
    pub(super) source: &'a dyn Source,
    pub(super) tokens: &'a TokenCache,
    pub(super) certificates: &'a Certificates,
}

impl Gatherer<'_> {
    pub(super) async fn config_map(&self, volume: &ConfigMapVolumeSource) -> Result<Gathered, String> {
        let optional = volume.optional == Some(true);
        let found = absent_if(optional, self.source.config_map(self.namespace(), &volume.name).await)?;
        let data = found.as_deref().map(config_map_data).unwrap_or_default();
        let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
        let payload = select(data, volume.items.as_deref(), mode, optional, "configmap", "config")?;
        Ok(Gathered { payload, renew_at: None })
    }

    pub(super) async fn secret(&self, volume: &SecretVolumeSource) -> Result<Gathered, String> {
        let optional = volume.optional == Some(true);
        let name = volume.secret_name.as_deref().unwrap_or_default();
        let found = absent_if(optional, self.source.secret(self.namespace(), name).await)?;
        let data = found.as_deref().map(secret_data).unwrap_or_default();
        let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
        let payload = select(data, volume.items.as_deref(), mode, optional, "secret", "secret")?;
        Ok(Gathered { payload, renew_at: None })
    }

    pub(super) fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        default_mode: Option<i32>,
    ) -> Result<Payload, String> {
        let mut payload = Payload::new();
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::metadata_value(self.pod, &field.field_path),
                (None, Some(resource)) => downward::resource_value(self.pod, None, resource, self.facts),
                (None, None) => Ok(String::new()),
            };
            let data = text.map_err(|error| error.to_string())?.into_bytes();
            let mode = bits(item.mode.or(default_mode).unwrap_or(DEFAULT_MODE));
            payload.insert(item.path.clone(), File { data, mode, user: None });
        }
        Ok(payload)
    }

    /// All sources of a projected volume; every fault is named, not only the first one.
    pub(super) async fn projected(
        &self,
        name: &str,
        volume: &ProjectedVolumeSource,
    ) -> Result<Gathered, String> {
        let mut gathered = Gathered::default();
        let mut faults = Vec::new();
        let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
        for (index, source) in volume.sources.iter().flatten().enumerate() {
            let added = if let Some(secret) = &source.secret {
                let optional = secret.optional == Some(true);
                let found = absent_if(optional, self.source.secret(self.namespace(), &secret.name).await);
                found.and_then(|found| {
                    let data = found.as_deref().map(secret_data).unwrap_or_default();
                    select(data, secret.items.as_deref(), mode, optional, "secret", "secret")
                })
            } else if let Some(map) = &source.config_map {
                let optional = map.optional == Some(true);
                let found = absent_if(optional, self.source.config_map(self.namespace(), &map.name).await);
                found.and_then(|found| {
                    let data = found.as_deref().map(config_map_data).unwrap_or_default();
                    select(data, map.items.as_deref(), mode, optional, "configmap", "config")
                })
            } else if let Some(downward) = &source.downward_api {
                self.downward(downward.items.as_deref().unwrap_or_default(), Some(mode))
            } else if let Some(token) = &source.service_account_token {
                self.token(token, mode, &mut gathered.renew_at).await
            } else if let Some(bundle) = &source.cluster_trust_bundle {
                self.trust_bundle(bundle, mode).await
            } else if let Some(certificate) = &source.pod_certificate {
                self.certificate((name, index), certificate, mode, &mut gathered.renew_at).await
            } else {
                Ok(Payload::new())
            };
            match added {
                Ok(files) => gathered.payload.extend(files),
                Err(fault) => faults.push(fault),
            }
        }
        match faults.len() {
            0 => Ok(gathered),
            1 => Err(faults.remove(0)),
            _ => Err(format!("[{}]", faults.join(", "))),
        }
    }

    async fn token(
        &self,
        projection: &ServiceAccountTokenProjection,
        default_mode: i32,
        renew_at: &mut Option<Timestamp>,
    ) -> Result<Payload, String> {
        let spec = self.pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let expiration_seconds = projection.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION);
        let request = TokenRequest {
            namespace: self.namespace(),
            service_account: account,
            pod_name: self.pod.metadata.name.as_deref().unwrap_or_default(),
            pod_uid: self.pod.metadata.uid.as_deref().unwrap_or_default(),
            audience: projection.audience.as_deref().filter(|audience| !audience.is_empty()),
            expiration_seconds,
        };
        let now = Timestamp::now();
        let token = self
            .tokens
            .get(self.source, request, now)
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        // One that is overdue could not be renewed just now: try again in half a minute.
        let soon = now.saturating_add(jiff::SignedDuration::from_secs(30)).unwrap_or(now);
        let next = due(&token, expiration_seconds).max(soon);
        *renew_at = Some(renew_at.map_or(next, |at| at.min(next)));
        let file = self.private(token.token.into_bytes(), default_mode);
        Ok(Payload::from([(projection.path.clone(), file)]))
    }

    /// A file for the pod's user alone, where it has one.
    fn private(&self, data: Vec<u8>, default_mode: i32) -> File {
        let user = common_user(self.pod);
        let private = user.is_some() || fs_group(self.pod).is_some();
        File { data, mode: if private { 0o600 } else { bits(default_mode) }, user }
    }

    async fn trust_bundle(
        &self,
        projection: &ClusterTrustBundleProjection,
        mode: i32,
    ) -> Result<Payload, String> {
        let bundles = self.source.trust_bundles().await.map_err(|error| error.to_string())?;
        let anchors = bundles::select(&bundles, projection)?;
        Ok(Payload::from([(projection.path.clone(), self.private(anchors.into_bytes(), mode))]))
    }

    async fn certificate(
        &self,
        place: (&str, usize),
        projection: &PodCertificateProjection,
        mode: i32,
        renew_at: &mut Option<Timestamp>,
    ) -> Result<Payload, String> {
        let now = Timestamp::now();
        let issued = self.certificates.get(self.source, self.pod, place, projection, now).await?;
        let soon = now.saturating_add(jiff::SignedDuration::from_secs(30)).unwrap_or(now);
        let next = issued.refresh_at.max(soon);
        *renew_at = Some(renew_at.map_or(next, |at| at.min(next)));
        let bundle = format!("{}{}", issued.key, issued.chain);
        let files = [
            (&projection.credential_bundle_path, bundle),
            (&projection.key_path, issued.key),
            (&projection.certificate_chain_path, issued.chain),
        ];
        let named = files.into_iter().filter_map(|(path, text)| {
            let path = path.clone().filter(|path| !path.is_empty())?;
            Some((path, self.private(text.into_bytes(), mode)))
        });
        Ok(named.collect())
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}

/// The pod's fsGroup.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user that every container runs as, if the pod says so and it is the same one.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.security_context);
    let containers =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.security_context);
    let mut users = containers
        .chain(ephemeral)
        .map(|context| context.as_ref().and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn absent_if<T>(optional: bool, found: Result<T, SourceError>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if optional && error.is_not_found() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
}

/// All keys as files, or those that `items` names at the paths it gives.
fn select(
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: bool,
    kind: &str,
    key_kind: &str,
) -> Result<Payload, String> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: bits(mode), user: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, data)| (key.to_owned(), file(data, default_mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(data) => {
                payload.insert(item.path.clone(), file(data, item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(format!("{kind} references non-existent {key_kind} key: {}", item.key)),
        }
    }
    Ok(payload)
}

fn bits(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}
