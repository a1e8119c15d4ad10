//! Objects of the API server that pods refer to: read on demand, kept by a watch while a pod on this node uses them.
//!
//! The set of watched objects is bounded by what the pods here refer to. Without an API server every read fails with
//! [`ObjectError::NoApiServer`]; static pods refer to nothing, so they do not care.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Resource};
use node_kit::tasks::restarting;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api_handle::ApiHandle;
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
    listeners: Listeners,
    /// Trust anchors for pods.
    pub trust_bundles: TrustBundles,
}

impl Objects {
    #[must_use]
    pub fn new(api: ApiHandle) -> Self {
        let trust_bundles = TrustBundles::new(api.clone());
        let listeners = Listeners::default();
        let (config_maps, secrets) = (Cache::new(&listeners), Cache::new(&listeners));
        Self { api, config_maps, secrets, listeners, trust_bundles }
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

    /// Tells when a ConfigMap or Secret has changed that pod `uid` holds.
    #[must_use]
    pub fn changes(&self, uid: &str) -> Arc<Notify> {
        self.listeners.of(uid)
    }

    /// Pod `uid` is gone: it holds nothing and hears nothing.
    pub fn forget(&self, uid: &str) {
        self.hold(uid, &[], &[]);
        self.listeners.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
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
    object: Option<Arc<K>>,
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
    listeners: Listeners,
}

/// How to tell pods, by uid.
#[derive(Debug, Clone, Default)]
struct Listeners(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

impl Listeners {
    fn of(&self, uid: &str) -> Arc<Notify> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default().clone()
    }

    fn tell(&self, uid: &str) {
        if let Some(listener) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            listener.notify_one();
        }
    }
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { held: self.held.clone(), listeners: self.listeners.clone() }
    }
}

impl<K> Cache<K> {
    fn new(listeners: &Listeners) -> Self {
        Self { held: Arc::default(), listeners: listeners.clone() }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let held = self.held.lock().ok()?;
        let entry = held.get(&(namespace.to_owned(), name.to_owned()))?;
        entry.object.clone()
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
                let (followed, api, cache) = (key.clone(), api.clone(), self.clone());
                let again = move || {
                    let following = follow(followed.clone(), api.clone(), cache.clone());
                    async move {
                        following.await;
                        Ok::<(), std::convert::Infallible>(())
                    }
                };
                let task = tokio::spawn(restarting("watch of a ConfigMap or Secret", again));
                Held { users: Vec::new(), object: None, task }
            });
            if !entry.users.iter().any(|user| user == uid) {
                entry.users.push(uid.to_owned());
            }
        }
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    /// Keeps what the API server has of an object, and tells the pods that hold it if it is not what it
    /// was: a watch that begins anew says again what is known.
    fn took(&self, key: &Key, object: Option<K>) {
        let Ok(mut held) = self.held.lock() else { return };
        let Some(entry) = held.get_mut(key) else { return };
        let version = |object: &K| (object.meta().uid.clone(), object.meta().resource_version.clone());
        let differs = entry.object.as_deref().map(version) != object.as_ref().map(version);
        entry.object = object.map(Arc::new);
        if differs {
            entry.users.iter().for_each(|user| self.listeners.tell(user));
        }
    }
}

/// Keeps the cache equal to one object of the API server.
async fn follow<K>(key: Key, api: ApiHandle, cache: Cache<K>)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let stream = |client| watcher::watch_object(Api::<K>::namespaced(client, &key.0), &key.1);
    let next = |next: Result<Option<K>, watcher::Error>| match next {
        Ok(object) => cache.took(&key, object),
        // Whoever needs the object reads it and says why that fails.
        Err(error) => tracing::debug!("watch {}/{}: {error}", key.0, key.1),
    };
    crate::watching::follow(api, stream, next).await;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn config_map(version: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "a", "resourceVersion": version}})).unwrap()
    }

    #[tokio::test]
    async fn a_change_is_told_to_the_pods_that_use_it_and_a_repetition_to_nobody() {
        let objects = Objects::new(ApiHandle::new(tokio::sync::watch::channel(None).1));
        let (key, other) = (("ns".to_owned(), "a".to_owned()), ("ns".to_owned(), "b".to_owned()));
        objects.hold("user", std::slice::from_ref(&key), &[]);
        objects.hold("bystander", &[other], &[]);
        let told = |uid: &str| objects.changes(uid).notified().now_or_never().is_some();
        assert!(!told("user") && !told("bystander"));
        objects.config_maps.took(&key, Some(config_map("1")));
        assert!(told("user") && !told("bystander"));
        objects.config_maps.took(&key, Some(config_map("1")));
        assert!(!told("user"), "a watch that began anew said the same");
        objects.config_maps.took(&key, Some(config_map("2")));
        assert!(told("user"));
        objects.config_maps.took(&key, None);
        assert!(told("user") && !told("bystander"));
        objects.forget("user");
        assert!(objects.config_maps.get("ns", "a").is_none());
    }
}
