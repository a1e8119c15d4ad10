use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};

use super::services::service_variables;
use crate::downward::{Environment, FieldError, PodFacts, expand, field_value, resource_value};
use crate::volumes::{Source, SourceError};

/// Why a container's environment cannot be made. The text is what the user reads as the container's waiting message.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { kind: &'static str, namespace: String, name: String, key: String },
    #[error(
        "variable {variable}: fileKeyRef is not supported by this node; use configMapKeyRef or secretKeyRef"
    )]
    FileKey { variable: String },
}

/// Resolves the variables of one container: `envFrom`, then `env` in its order, then those of Services that nothing overrides.
///
/// `services` are all Services of the pod's namespace and of `default`; the caller waits until they have been listed once, except for
/// static pods.
///
/// # Errors
/// When something that is not optional cannot be had.
pub async fn container_env(
    pod: &Pod,
    container: &Container,
    services: &[Arc<Service>],
    facts: &PodFacts,
    source: &dyn Source,
) -> Result<Environment, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let service = service_variables(services.iter().map(AsRef::as_ref), namespace, links);
    let mut fetched = Fetched { namespace, source, config_maps: HashMap::new(), secrets: HashMap::new() };
    let mut variables = fetched.env_from(container).await?;
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| variables.get(name).or_else(|| service.get(name)).cloned();
        let value = match (variable.value.as_deref().filter(|value| !value.is_empty()), &variable.value_from)
        {
            (Some(value), _) => expand(value, lookup),
            (None, None) => String::new(),
            (None, Some(from)) => match fetched.value_from(pod, container, variable, from, facts).await? {
                Some(value) => value,
                None => continue,
            },
        };
        variables.insert(variable.name.clone(), value);
    }
    for (name, value) in service {
        variables.entry(name).or_insert(value);
    }
    Ok(variables.into())
}

/// What has been fetched for this container already, so that each object is read once and in one state.
struct Fetched<'a> {
    namespace: &'a str,
    source: &'a dyn Source,
    config_maps: HashMap<String, Arc<ConfigMap>>,
    secrets: HashMap<String, Arc<Secret>>,
}

impl Fetched<'_> {
    async fn config_map(&mut self, name: &str, optional: bool) -> Result<Option<Arc<ConfigMap>>, EnvError> {
        if let Some(found) = self.config_maps.get(name) {
            return Ok(Some(found.clone()));
        }
        match self.source.config_map(self.namespace, name).await {
            Ok(found) => {
                self.config_maps.insert(name.to_owned(), found.clone());
                Ok(Some(found))
            }
            Err(error) if optional && error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn secret(&mut self, name: &str, optional: bool) -> Result<Option<Arc<Secret>>, EnvError> {
        if let Some(found) = self.secrets.get(name) {
            return Ok(Some(found.clone()));
        }
        match self.source.secret(self.namespace, name).await {
            Ok(found) => {
                self.secrets.insert(name.to_owned(), found.clone());
                Ok(Some(found))
            }
            Err(error) if optional && error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn env_from(&mut self, container: &Container) -> Result<BTreeMap<String, String>, EnvError> {
        let mut variables = BTreeMap::new();
        for from in container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            if let Some(reference) = &from.config_map_ref {
                let found = self.config_map(&reference.name, reference.optional == Some(true)).await?;
                let data = found.iter().flat_map(|map| map.data.iter().flatten());
                variables.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
            } else if let Some(reference) = &from.secret_ref {
                let found = self.secret(&reference.name, reference.optional == Some(true)).await?;
                let data = found.iter().flat_map(|secret| secret.data.iter().flatten());
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                variables.extend(data.map(|(key, value)| (format!("{prefix}{key}"), text(&value.0))));
            }
        }
        Ok(variables)
    }

    /// `None`: the variable is optional and its source is not there.
    async fn value_from(
        &mut self,
        pod: &Pod,
        container: &Container,
        variable: &EnvVar,
        from: &EnvVarSource,
        facts: &PodFacts,
    ) -> Result<Option<String>, EnvError> {
        let missing = |kind, name: &str, key: &str, optional: bool| {
            if optional {
                return Ok(None);
            }
            let (namespace, name, key) = (self.namespace.to_owned(), name.to_owned(), key.to_owned());
            Err(EnvError::Key { kind, namespace, name, key })
        };
        if let Some(field) = &from.field_ref {
            return Ok(Some(field_value(pod, &field.field_path, facts)?));
        }
        if let Some(selector) = &from.resource_field_ref {
            return Ok(Some(resource_value(pod, Some(container), selector, facts)?));
        }
        if let Some(reference) = &from.config_map_key_ref {
            let optional = reference.optional == Some(true);
            let missing = missing("ConfigMap", &reference.name, &reference.key, optional);
            let Some(found) = self.config_map(&reference.name, optional).await? else { return Ok(None) };
            let value = found.data.as_ref().and_then(|data| data.get(&reference.key));
            return value.map_or(missing, |value| Ok(Some(value.clone())));
        }
        if let Some(reference) = &from.secret_key_ref {
            let optional = reference.optional == Some(true);
            let missing = missing("Secret", &reference.name, &reference.key, optional);
            let Some(found) = self.secret(&reference.name, optional).await? else { return Ok(None) };
            let value = found.data.as_ref().and_then(|data| data.get(&reference.key));
            return value.map_or(missing, |value| Ok(Some(String::from_utf8_lossy(&value.0).into_owned())));
        }
        if from.file_key_ref.is_some() {
            return Err(EnvError::FileKey { variable: variable.name.clone() });
        }
        Ok(Some(String::new()))
    }
}
