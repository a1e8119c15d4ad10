//! A pod's requests and limits as a whole (component-helpers' resource.PodRequests and PodLimits).
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::Amount;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Amount>;

/// Which half of a container's resources.
#[derive(Clone, Copy)]
enum Half {
    Requests,
    Limits,
}

/// What the scheduler counts for the pod: its containers and sidecars together, or its largest init step if that is more,
/// replaced by pod-level requests, plus the overhead.
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    pod_amounts(pod, Half::Requests)
}

/// The same for limits; the overhead only grows resources that have a limit.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    pod_amounts(pod, Half::Limits)
}

/// Whether the pod sets requests or limits for itself rather than for its containers.
#[must_use]
pub fn pod_level_resources_set(pod: &Pod) -> bool {
    let resources = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    resources.is_some_and(|resources| {
        [&resources.requests, &resources.limits]
            .into_iter()
            .flatten()
            .any(|list| list.keys().any(|name| is_pod_level(name)))
    })
}

/// A container's amount of one resource; nothing when it names none.
pub(super) fn limit_of(container: &Container, name: &str) -> Amount {
    amount_of(container, name, Half::Limits)
}

pub(super) fn request_of(container: &Container, name: &str) -> Amount {
    amount_of(container, name, Half::Requests)
}

/// An amount of the pod-level limits.
pub(super) fn pod_level_limit(pod: &Pod, name: &str) -> Amount {
    let resources = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    limits.and_then(|limits| limits.get(name)).map(Amount::of).unwrap_or_default()
}

/// Whether an init container is a sidecar.
pub(super) fn is_restartable(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn list(container: &Container, half: Half) -> Option<&BTreeMap<String, Quantity>> {
    let resources = container.resources.as_ref()?;
    match half {
        Half::Requests => resources.requests.as_ref(),
        Half::Limits => resources.limits.as_ref(),
    }
}

fn amount_of(container: &Container, name: &str, half: Half) -> Amount {
    list(container, half).and_then(|list| list.get(name)).map(Amount::of).unwrap_or_default()
}

fn amounts(container: &Container, half: Half) -> Amounts {
    list(container, half)
        .into_iter()
        .flatten()
        .map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
        .collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = *entry + *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// The containers' requests together, without the pod's own and its overhead.
pub(super) fn container_requests(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(|spec| of_containers(spec, Half::Requests)).unwrap_or_default()
}

fn of_containers(spec: &PodSpec, half: Half) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &amounts(container, half));
    }
    let mut sidecars = Amounts::new();
    let mut init = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = amounts(container, half);
        if is_restartable(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            raise(&mut init, &step);
        }
    }
    raise(&mut total, &init);
    total
}

fn pod_amounts(pod: &Pod, half: Half) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut total = of_containers(spec, half);
    if let Some(resources) = &spec.resources {
        let pod_level = match half {
            Half::Requests => resources.requests.as_ref(),
            Half::Limits => resources.limits.as_ref(),
        };
        for (name, quantity) in pod_level.into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
            total.insert(name.clone(), Amount::of(quantity));
        }
    }
    for (name, quantity) in spec.overhead.iter().flatten() {
        let amount = Amount::of(quantity);
        match half {
            Half::Requests => add(&mut total, &Amounts::from([(name.clone(), amount)])),
            Half::Limits => {
                if let Some(limit) = total.get_mut(name).filter(|limit| !limit.is_zero()) {
                    *limit = *limit + amount;
                }
            }
        }
    }
    total
}
