use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images whose names start with a registry's host are pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// Host and optional port as it stands in image names; `*` speaks for every registry without a document of its own.
    /// Loopback, link-local and unspecified addresses are connected to only where a document names the host, here or
    /// among the mirrors; addresses of pods and services only by an image's name, or where a document names the host.
    pub host: String,
    /// URLs tried in order before the registry itself, such as `http://10.0.2.2:5000`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// True speaks plain HTTP to the host itself.
    #[serde(default)]
    pub plain_http: bool,
    /// Further CA certificates, PEM.
    #[serde(default, rename = "ca", skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// True accepts any certificate.
    #[serde(default)]
    pub insecure_skip_verify: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegistryAuth>,
    /// Set on one registry: image names that name no registry belong to it, with this path before names of one component (may be empty).
    /// Without it such names are found among the images on the node and never pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_names: Option<String>,
}

/// Credentials of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
}
