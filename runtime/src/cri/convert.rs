//! Records as CRI's messages.
use machine::cri;

use containers::{ContainerRecord, Event, Phase, SandboxRecord};

/// A container's state in CRI's terms.
pub fn container_state(phase: Phase) -> cri::ContainerState {
    match phase {
        Phase::Creating | Phase::Created | Phase::Starting => cri::ContainerState::ContainerCreated,
        Phase::Running => cri::ContainerState::ContainerRunning,
        Phase::Exited | Phase::Removing => cri::ContainerState::ContainerExited,
    }
}

/// A sandbox's state in CRI's terms.
pub fn sandbox_state(record: &SandboxRecord) -> cri::PodSandboxState {
    if record.ready { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready }
}

/// For ListContainers.
pub fn container(record: &ContainerRecord) -> cri::Container {
    cri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_id.clone(),
        state: container_state(record.phase) as i32,
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

/// For ContainerStatus.
pub fn container_status(record: &ContainerRecord) -> cri::ContainerStatus {
    let user = cri::LinuxContainerUser {
        uid: record.user.uid.into(),
        gid: record.user.gid.into(),
        supplemental_groups: record.user.groups.iter().map(|group| i64::from(*group)).collect(),
    };
    let resources = record.config.linux.as_ref().and_then(|linux| linux.resources.clone());
    let image = record.config.image.clone().map(|mut image| {
        if !image.user_specified_image.is_empty() {
            image.image.clone_from(&image.user_specified_image);
        }
        image
    });
    cri::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: container_state(record.phase) as i32,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image,
        image_ref: record.image_id.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.log_path.clone(),
        resources: Some(cri::ContainerResources { linux: resources, windows: None }),
        image_id: record.image_id.clone(),
        user: Some(cri::ContainerUser { linux: Some(user) }),
        stop_signal: record.config.stop_signal,
    }
}

/// For ListPodSandbox.
pub fn sandbox(record: &SandboxRecord) -> cri::PodSandbox {
    cri::PodSandbox {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: sandbox_state(record) as i32,
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

/// For PodSandboxStatus.
pub fn sandbox_status(record: &SandboxRecord) -> cri::PodSandboxStatus {
    let mut ips = record.ips.iter().cloned();
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    cri::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: sandbox_state(record) as i32,
        created_at: record.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(containers::options(&record.config)) }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

/// For GetContainerEvents.
pub fn event(event: &Event) -> cri::ContainerEventResponse {
    cri::ContainerEventResponse {
        container_id: event.container_id.clone(),
        container_event_type: event.kind as i32,
        created_at: event.at,
        pod_sandbox_status: event.sandbox.as_ref().map(sandbox_status),
        containers_statuses: event.containers.iter().map(container_status).collect(),
    }
}

/// Whether labels fulfil a selector.
pub fn selected<S: std::hash::BuildHasher>(
    labels: &std::collections::HashMap<String, String, S>,
    selector: &std::collections::HashMap<String, String, S>,
) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
