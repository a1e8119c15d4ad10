use std::fmt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::quantity::Amount;
use super::requests::pod_level_resources_set;

/// A pod's quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// The name as `status.qosClass` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The pod's class: the one its status names, otherwise computed (pkg/apis/core/v1/helper/qos).
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => compute(pod),
    }
}

/// The pod's cgroup as CRI takes it, from the root of the hierarchy: `/kubepods/burstable/pod<uid>`.
#[must_use]
pub fn cgroup_parent(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos_class(pod) {
        QosClass::Guaranteed => format!("/kubepods/pod{uid}"),
        QosClass::Burstable => format!("/kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// The pod's cgroup directory below the cgroup2 mount `root`.
#[must_use]
pub fn pod_cgroup(root: &Path, pod: &Pod) -> PathBuf {
    root.join(&cgroup_parent(pod)[1..])
}

fn compute(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    if let Some(resources) = spec.resources.as_ref().filter(|_| pod_level_resources_set(pod)) {
        return of_requirements(Some(resources));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    combine(containers.map(|container| of_requirements(container.resources.as_ref())))
}

/// All alike: that class; anything mixed is Burstable.
fn combine(mut classes: impl Iterator<Item = QosClass>) -> QosClass {
    let Some(first) = classes.next() else { return QosClass::BestEffort };
    if classes.all(|class| class == first) { first } else { QosClass::Burstable }
}

fn of_requirements(resources: Option<&ResourceRequirements>) -> QosClass {
    let amount = |half: Option<&std::collections::BTreeMap<String, _>>, name: &str| {
        half.and_then(|list| list.get(name)).map(Amount::of).unwrap_or_default()
    };
    let Some(resources) = resources else { return QosClass::BestEffort };
    combine(["cpu", "memory"].into_iter().map(|name| {
        let request = amount(resources.requests.as_ref(), name);
        let limit = amount(resources.limits.as_ref(), name);
        match (request == limit, request.is_zero()) {
            (false, _) => QosClass::Burstable,
            (true, true) => QosClass::BestEffort,
            (true, false) => QosClass::Guaranteed,
        }
    }))
}
