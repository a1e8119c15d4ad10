use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements, Volume};

/// The ConfigMaps and Secrets that a pod refers to, by name in its namespace; what to watch while it is here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectRefs {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// All references of the pod's volumes and environments, and its pull secrets.
#[must_use]
pub fn object_refs(pod: &Pod) -> ObjectRefs {
    let mut refs = ObjectRefs::default();
    let Some(spec) = &pod.spec else { return refs };
    for volume in spec.volumes.iter().flatten() {
        volume_refs(volume, &mut refs);
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env, &c.env_from));
    let containers =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| (&c.env, &c.env_from));
    for (env, env_from) in containers.chain(ephemeral) {
        for from in env_from.iter().flatten() {
            refs.config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            refs.secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for from in env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            refs.config_maps.extend(from.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            refs.secrets.extend(from.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    refs.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|reference| reference.name.clone()));
    refs.config_maps.remove("");
    refs.secrets.remove("");
    refs
}

fn volume_refs(volume: &Volume, refs: &mut ObjectRefs) {
    refs.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
    refs.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
    let sources = volume.projected.iter().filter_map(|projected| projected.sources.as_ref()).flatten();
    for source in sources {
        refs.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
        refs.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
    }
}

/// Whether the pod shows trust anchors of ClusterTrustBundles.
#[must_use]
pub fn shows_trust_bundles(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten();
    sources.into_iter().any(|source| source.cluster_trust_bundle.is_some())
}

/// Whether the pod shows fields of its own that are others in `after`: labels, annotations and resources can change while it runs.
#[must_use]
pub fn shows_other_fields(before: &Pod, after: &Pod) -> bool {
    let mut volumes = after.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let shows = volumes.any(|volume| {
        let mut sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        volume.downward_api.is_some() || sources.any(|source| source.downward_api.is_some())
    });
    let (old, new) = (&before.metadata, &after.metadata);
    shows
        && (old.labels != new.labels
            || old.annotations != new.annotations
            || resources(before) != resources(after))
}

fn resources(pod: &Pod) -> Vec<Option<&ResourceRequirements>> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.map(|container| container.resources.as_ref()).collect()
}

/// Why a kind of volume is refused, or `None` for those that this node makes.
pub(super) fn unsupported(volume: &Volume) -> Option<String> {
    let known = volume.empty_dir.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.host_path.is_some()
        || volume.image.is_some();
    if known {
        return None;
    }
    let kinds: [(&str, bool); 9] = [
        ("gitRepo", volume.git_repo.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("of a cloud or retired storage system", true),
    ];
    let kind = kinds.iter().find(|kind| kind.1).map(|kind| kind.0).unwrap_or_default();
    let advice = match kind {
        "gitRepo" => {
            "gitRepo volumes are refused (CVE-2024-10220); clone in an init container into an emptyDir"
        }
        "csi" => "CSI drivers are not supported by this node yet",
        _ => {
            "this node does not support such volumes yet; use emptyDir, hostPath, configMap, secret, downwardAPI, projected or image"
        }
    };
    Some(format!("volume is {kind}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(volume: serde_json::Value, label: &str, cpu: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"a": label}},
            "spec": {"volumes": [volume], "containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_that_are_shown_are_followed() {
        let downward = serde_json::json!({"name": "v", "downwardAPI": {}});
        let projected = serde_json::json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}});
        for volume in [downward, projected] {
            let before = pod(volume.clone(), "1", "1");
            assert!(!shows_other_fields(&before, &before));
            assert!(shows_other_fields(&before, &pod(volume.clone(), "2", "1")));
            assert!(shows_other_fields(&before, &pod(volume, "1", "2")));
        }
        let empty = serde_json::json!({"name": "v", "emptyDir": {}});
        assert!(!shows_other_fields(&pod(empty.clone(), "1", "1"), &pod(empty, "2", "1")));
    }
}
