//! Server-side apply of a set of objects, and removal of those that left the set.
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Owner of the fields that are applied.
const MANAGER: &str = "pintle-control-plane";
/// ConfigMap that remembers what was applied.
const INVENTORY: &str = "pintle-addons";
const NAMESPACE: &str = "kube-system";
/// The most objects that an inventory remembers.
const INVENTORY_LIMIT: usize = 2000;

/// What identifies an object in the inventory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    pub api_version: String,
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
}

/// Applies every object, then deletes what an earlier set had and this one has not.
///
/// # Errors
/// The first object's that the API server refuses, after all were tried; nothing is deleted then.
pub async fn apply(client: &Client, objects: &[Value]) -> Result<()> {
    let mut applier = Applier { client, kinds: BTreeMap::new() };
    let mut identities = Vec::new();
    let mut failure = None;
    for object in objects {
        match applier.apply(object).await {
            Ok(identity) => identities.push(identity),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let inventory: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &config_map());
    let before = inventory.get_opt(INVENTORY).await.context("read the inventory of add-ons")?;
    for gone in stale(&before.map(|map| remembered(&map.data)).unwrap_or_default(), &identities) {
        applier.delete(&gone).await?;
    }
    identities.truncate(INVENTORY_LIMIT);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": INVENTORY, "namespace": NAMESPACE},
        "data": {"objects": serde_json::to_string(&identities)?},
    });
    applier.apply(&map).await.map(|_| ())
}

fn config_map() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"))
}

fn remembered(map: &Value) -> Vec<Identity> {
    let text = map.pointer("/data/objects").and_then(Value::as_str);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What was applied before and is not any more.
fn stale(before: &[Identity], now: &[Identity]) -> Vec<Identity> {
    before.iter().filter(|old| !now.contains(old)).cloned().collect()
}

struct Applier<'a> {
    client: &'a Client,
    kinds: BTreeMap<(String, String), (ApiResource, Scope)>,
}

impl Applier<'_> {
    async fn api(
        &mut self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Api<DynamicObject>> {
        let key = (api_version.to_owned(), kind.to_owned());
        let (resource, scope) = match self.kinds.get(&key) {
            Some(known) => known.clone(),
            None => {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                let gvk = GroupVersionKind::gvk(group, version, kind);
                let (resource, capabilities) = discovery::pinned_kind(self.client, &gvk)
                    .await
                    .with_context(|| format!("the API server knows no {kind} of {api_version}"))?;
                self.kinds.insert(key, (resource.clone(), capabilities.scope.clone()));
                (resource, capabilities.scope)
            }
        };
        let client = self.client.clone();
        Ok(match scope {
            Scope::Cluster => Api::all_with(client, &resource),
            Scope::Namespaced => Api::namespaced_with(client, namespace.unwrap_or("default"), &resource),
        })
    }

    async fn apply(&mut self, object: &Value) -> Result<Identity> {
        let mut object: DynamicObject =
            serde_json::from_value(object.clone()).context("an add-on is no object")?;
        let types = object.types.clone().context("an add-on has no kind")?;
        object.labels_mut().insert("app.kubernetes.io/managed-by".into(), "pintle".into());
        let (name, namespace) = (object.name_any(), object.namespace());
        let what = || format!("apply {} {name}", types.kind);
        let api = self.api(&types.api_version, &types.kind, namespace.as_deref()).await.with_context(what)?;
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(what)?;
        Ok(Identity { api_version: types.api_version, kind: types.kind, namespace, name })
    }

    async fn delete(&mut self, gone: &Identity) -> Result<()> {
        let what = || format!("delete {} {}, which is no longer in the config", gone.kind, gone.name);
        let api =
            self.api(&gone.api_version, &gone.kind, gone.namespace.as_deref()).await.with_context(what)?;
        match api.delete(&gone.name, &DeleteParams::background()).await {
            Ok(_) => tracing::info!(kind = gone.kind, name = gone.name, "deleted: no longer in the config"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(what),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_set_is_stale() {
        let id = |name: &str| Identity {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("default".into()),
            name: name.into(),
        };
        assert_eq!(stale(&[id("a"), id("b")], &[id("b"), id("c")]), [id("a")]);
        let map = json!({"data": {"objects": serde_json::to_string(&[id("a")]).unwrap()}});
        assert_eq!(remembered(&map), [id("a")]);
        assert_eq!(remembered(&json!({"data": {"objects": "["}})), []);
    }
}
