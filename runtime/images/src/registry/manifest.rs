//! Manifests and indexes of the OCI and Docker formats.
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::PullError;
use crate::reference::is_digest;
use node_kit::errors::Chain;

/// The largest manifest or index, as registries have it.
pub const MAX_MANIFEST: usize = 4 << 20;
/// The largest image config.
pub const MAX_CONFIG: usize = 8 << 20;

/// What we accept for an image's name.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// A piece of content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// One image, or several to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// `sha256:<hex>` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Manifest {
    /// Reads a manifest or index, whatever its media type claims: having both kinds of content at once is
    /// refused.
    ///
    /// # Errors
    /// When it is neither, or a digest or the number of layers is beyond what we take.
    pub fn parse(bytes: &[u8], most_layers: usize) -> Result<Self, PullError> {
        let bad = |what: &str| PullError::Malformed(format!("manifest: {what}"));
        if bytes.len() > MAX_MANIFEST {
            return Err(bad("too large"));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|e| bad(&e.to_string()))?;
        if document.schema_version != 2 {
            return Err(bad("its schemaVersion is not 2; push the image again with a current tool"));
        }
        let manifest = match (document.config, document.layers, document.manifests) {
            (Some(config), Some(layers), None) => Self::Image { config, layers },
            (None, None, Some(manifests)) => Self::Index(manifests),
            _ => return Err(bad("it is neither an image nor an index")),
        };
        let descriptors = match &manifest {
            Self::Image { config, layers } => [std::slice::from_ref(config), layers].concat(),
            Self::Index(manifests) => manifests.clone(),
        };
        if !descriptors.iter().all(|d| is_digest(&d.digest)) {
            return Err(bad("a digest is not sha256"));
        }
        if matches!(&manifest, Self::Image { layers, .. } if layers.len() > most_layers) {
            return Err(bad(&format!("more than {most_layers} layers")));
        }
        Ok(manifest)
    }
}

/// The manifest for this machine in an index.
///
/// # Errors
/// When there is none.
pub fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, PullError> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
    let plain = |platform: &Platform| matches!(platform.variant.as_deref(), None | Some("" | "v1" | "v8"));
    let with = |test: &dyn Fn(&Platform) -> bool| {
        manifests.iter().find(|d| d.platform.as_ref().is_some_and(|p| fits(p) && test(p)))
    };
    with(&plain)
        .or_else(|| with(&|_| true))
        .or_else(|| manifests.first().filter(|d| manifests.len() == 1 && d.platform.is_none()))
        .ok_or_else(|| PullError::Platform(format!("linux/{architecture}")))
}

/// Reads a config and its diff ids, one for each layer.
///
/// # Errors
/// When the config is malformed or does not fit the manifest.
pub fn check_config(bytes: &[u8], layers: usize) -> Result<(ImageConfiguration, Vec<String>), PullError> {
    let config = ImageConfiguration::from_reader(bytes)
        .map_err(|e| PullError::Malformed(format!("image config: {}", Chain(&e))))?;
    let diff_ids = config.rootfs().diff_ids().clone();
    if diff_ids.len() != layers {
        return Err(PullError::Malformed(format!(
            "image config: {} diff ids for {layers} layers",
            diff_ids.len()
        )));
    }
    if !diff_ids.iter().all(|d| is_digest(d)) {
        return Err(PullError::Malformed("image config: a diff id is not sha256".into()));
    }
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(n: u8, platform: &str) -> String {
        format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":{n}{platform}}}"#, hex::encode([n; 32]))
    }

    #[test]
    fn an_index_gives_the_manifest_for_this_machine() {
        let arm = r#","platform":{"os":"linux","architecture":"s390x"}"#;
        let ours = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let v3 = format!(r#","platform":{{"os":"linux","architecture":"{ours}","variant":"v3"}}"#);
        let plain = format!(r#","platform":{{"os":"linux","architecture":"{ours}"}}"#);
        let json = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            descriptor(1, arm),
            descriptor(2, &v3),
            descriptor(3, &plain)
        );
        let Manifest::Index(all) = Manifest::parse(json.as_bytes(), 9).unwrap() else { panic!() };
        assert_eq!(choose(&all).unwrap().size, 3);
        assert_eq!(choose(&all[..2]).unwrap().size, 2);
        assert!(matches!(choose(&all[..1]), Err(PullError::Platform(_))));
    }

    #[test]
    fn what_is_both_image_and_index_is_refused() {
        let json =
            format!(r#"{{"schemaVersion":2,"config":{0},"layers":[],"manifests":[{0}]}}"#, descriptor(1, ""));
        assert!(Manifest::parse(json.as_bytes(), 9).is_err());
        let json = format!(r#"{{"schemaVersion":2,"config":{0},"layers":[{0},{0}]}}"#, descriptor(1, ""));
        assert!(Manifest::parse(json.as_bytes(), 1).is_err());
        assert!(Manifest::parse(json.as_bytes(), 2).is_ok());
        assert!(Manifest::parse(json.replace("sha256:", "sha256:../").as_bytes(), 2).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes, 10);
            let _ = check_config(&bytes, 1);
        }

        #[test]
        fn any_numbers_and_names_are_read_or_refused(size in any::<i64>(), digest in "\\PC{0,80}", version in 0..4_u32) {
            let json = serde_json::json!({"schemaVersion": version, "config": {"digest": digest, "size": size}, "layers": []});
            let _ = Manifest::parse(json.to_string().as_bytes(), 10);
        }
    }
}
