//! Objects of the API server that pods refer to: read on demand, kept by a watch while a pod on this node uses them.
//!
//! The set of watched objects is bounded by what the pods here refer to. Without an API server every read fails with
//! [`ObjectError::NoApiServer`]; static pods refer to nothing, so they do not care.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::context::ApiHandle;
use crate::trust_bundles::TrustBundles;

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The node has no credentials for the API server yet.
    #[error("{kind} {namespace}/{name}: the API server is not known yet")]
    NoApiServer { kind: &'static str, namespace: String, name: String },
    /// `<resource> "name" not found`, the API server's words, which users know from events.
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("get {kind} {namespace}/{name}")]
    Api {
        kind: &'static str,
        namespace: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("get {kind} {namespace}/{name}: no answer within {} s", READ.as_secs())]
    Timeout { kind: &'static str, namespace: String, name: String },
}

const READ: Duration = Duration::from_secs(15);

/// The cache; clones share it.
#[derive(Debug, Clone)]
pub struct Objects {
    api: ApiHandle,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
    /// Trust anchors for pods.
    pub trust_bundles: TrustBundles,
}

impl Objects {
    #[must_use]
    pub fn new(api: ApiHandle) -> Self {
        let trust_bundles = TrustBundles::new(api.clone());
        Self { api, config_maps: Cache::default(), secrets: Cache::default(), trust_bundles }
    }

    /// The ConfigMap as last seen; from the cache when a pod holds it.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        self.cached("configmap", &self.config_maps, namespace, name).await
    }

    /// The Secret as last seen; from the cache when a pod holds it.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ObjectError> {
        self.cached("secret", &self.secrets, namespace, name).await
    }

    /// Any object, straight from the API server.
    ///
    /// # Errors
    /// See [`ObjectError`].
    pub async fn get<K>(&self, kind: &'static str, namespace: &str, name: &str) -> Result<K, ObjectError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let (namespace_owned, name_owned) = (namespace.to_owned(), name.to_owned());
        let Some(client) = self.api.client() else {
            return Err(ObjectError::NoApiServer { kind, namespace: namespace_owned, name: name_owned });
        };
        let api: Api<K> = Api::namespaced(client, namespace);
        match tokio::time::timeout(READ, api.get(name)).await {
            Ok(Ok(object)) => Ok(object),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                Err(ObjectError::NotFound { kind, name: name_owned })
            }
            Ok(Err(source)) => Err(ObjectError::Api {
                kind,
                namespace: namespace_owned,
                name: name_owned,
                source: Box::new(source),
            }),
            Err(_) => Err(ObjectError::Timeout { kind, namespace: namespace_owned, name: name_owned }),
        }
    }

    /// The client, for requests that are more than a read (tokens, reviews).
    #[must_use]
    pub fn client(&self) -> Option<kube::Client> {
        self.api.client()
    }

    /// Tells which objects pod `uid` refers to; watches begin and end accordingly. An empty list lets go of all.
    pub fn hold(&self, uid: &str, config_maps: &[(String, String)], secrets: &[(String, String)]) {
        self.config_maps.hold(uid, config_maps, &self.api);
        self.secrets.hold(uid, secrets, &self.api);
    }

    /// Changes whenever a held ConfigMap or Secret does.
    #[must_use]
    pub fn changes(&self) -> (watch::Receiver<u64>, watch::Receiver<u64>) {
        (self.config_maps.changed(), self.secrets.changed())
    }

    async fn cached<K>(
        &self,
        kind: &'static str,
        cache: &Cache<K>,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<K>, ObjectError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        if let Some(object) = cache.get(namespace, name) {
            return Ok(object);
        }
        self.get::<K>(kind, namespace, name).await.map(Arc::new)
    }
}

type Key = (String, String);

#[derive(Debug)]
struct Held<K> {
    users: Vec<String>,
    object: Arc<Mutex<Option<Arc<K>>>>,
    task: JoinHandle<()>,
}

impl<K> Drop for Held<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Cache<K> {
    held: Arc<Mutex<HashMap<Key, Held<K>>>>,
    version: watch::Sender<u64>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { held: self.held.clone(), version: self.version.clone() }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { held: Arc::default(), version: watch::Sender::new(0) }
    }
}

impl<K> Cache<K> {
    fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let held = self.held.lock().ok()?;
        let entry = held.get(&(namespace.to_owned(), name.to_owned()))?;
        entry.object.lock().ok()?.clone()
    }
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    fn hold(&self, uid: &str, wanted: &[Key], api: &ApiHandle) {
        let Ok(mut held) = self.held.lock() else { return };
        for (key, entry) in held.iter_mut() {
            if !wanted.contains(key) {
                entry.users.retain(|user| user != uid);
            }
        }
        held.retain(|_, entry| !entry.users.is_empty());
        for key in wanted {
            let entry = held.entry(key.clone()).or_insert_with(|| {
                let object = Arc::new(Mutex::new(None));
                let task =
                    tokio::spawn(follow(key.clone(), api.clone(), object.clone(), self.version.clone()));
                Held { users: Vec::new(), object, task }
            });
            if !entry.users.iter().any(|user| user == uid) {
                entry.users.push(uid.to_owned());
            }
        }
    }
}

/// Keeps `slot` equal to one object of the API server.
async fn follow<K>(key: Key, api: ApiHandle, slot: Arc<Mutex<Option<Arc<K>>>>, version: watch::Sender<u64>)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + 'static,
{
    let stream = |client| watcher::watch_object(Api::<K>::namespaced(client, &key.0), &key.1);
    let next = |next: Result<Option<K>, watcher::Error>| match next {
        Ok(object) => {
            if let Ok(mut slot) = slot.lock() {
                *slot = object.map(Arc::new);
            }
            version.send_modify(|v| *v += 1);
        }
        // Whoever needs the object reads it and says why that fails.
        Err(error) => tracing::debug!("watch {}/{}: {error}", key.0, key.1),
    };
    crate::watching::follow(api, stream, next).await;
}
