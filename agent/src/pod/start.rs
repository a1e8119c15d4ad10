//! Making sandboxes and containers, and ending them.
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use machine::cri;

mod interrupted;
mod log_link;

use interrupted::start_container;
use log_link::link_log;

use super::convert::{self, ContainerParts, SandboxParts};
use super::decide::Failure;
use super::security::ImageUser;
use crate::backoff::{Nanos, SECOND};
use crate::clock::now;
use crate::context::Context;
use crate::downward::{PodFacts, command_and_args};
use crate::errors::chain;
use crate::events::Kind as Severity;
use crate::hooks::{self, HookTarget};
use crate::parts::Parts;
use crate::spec::{self, Kind};
use crate::volumes::{IDS, MountContext, PodVolumes, PreparedVolume};
use crate::{cgroup, env};

/// What starting needs to know of the pod.
#[derive(Debug, Clone)]
pub struct Scene {
    pub ctx: Context,
    pub parts: Parts,
    pub pod: Arc<Pod>,
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// Held by whoever makes or removes the pod's volumes: what is read last is written last.
    pub preparing: Arc<tokio::sync::Mutex<()>>,
}

pub(super) fn failure(reason: &str, message: impl Into<String>, wait: Nanos) -> Failure {
    Failure { reason: reason.to_owned(), message: message.into(), retry_at: now() + wait }
}

impl Scene {
    fn facts(&self) -> PodFacts {
        PodFacts {
            pod_ips: self.pod_ips.clone(),
            host_ips: self.host_ips.clone(),
            node_allocatable: self.parts.node_allocatable(),
        }
    }

    fn domain(&self) -> String {
        self.ctx.now().cluster().map_or_else(|| "cluster.local".into(), |c| c.dns_domain.clone())
    }

    /// The ids of the pod's user namespace, when it has one of its own.
    async fn ids(&self) -> Result<Option<cri::IdMapping>, String> {
        if spec::spec(&self.pod).host_users != Some(false) {
            return Ok(None);
        }
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let owner = self.parts.volumes.owner(uid).await;
        let host_id = owner.map_err(|error| format!("choose user ids: {error}"))?;
        Ok(Some(cri::IdMapping { host_id, container_id: 0, length: IDS }))
    }

    async fn sandbox_config(&self, attempt: u32) -> Result<cri::PodSandboxConfig, Failure> {
        let parts = SandboxParts {
            cgroup_parent: cgroup::cgroup_parent(&self.pod),
            resources: Some(cgroup::pod_sandbox_resources(&self.pod)),
            ids: self
                .ids()
                .await
                .map_err(|message| failure("CreatePodSandboxError", message, 10 * SECOND))?,
        };
        convert::sandbox(&self.pod, &self.ctx.now(), attempt, parts)
            .map_err(|error| failure("CreatePodSandboxError", error.to_string(), 10 * SECOND))
    }

    /// Makes the pod's volumes, or what is missing of them.
    ///
    /// # Errors
    /// The FailedMount event's message.
    pub async fn prepare_volumes(&self) -> Result<PodVolumes, Failure> {
        let _alone = self.preparing.lock().await;
        match self.parts.volumes.prepare(&self.pod, &self.facts()).await {
            Ok(volumes) => Ok(volumes),
            Err(error) => {
                self.ctx.events.pod(&self.pod, Severity::Warning, "FailedMount", error.to_string());
                let (reason, message) = ("ContainerCreating".into(), String::new());
                Err(Failure { reason, message, retry_at: Failure::BY_BACK_OFF })
            }
        }
    }

    /// Makes cgroup, volumes and sandbox.
    ///
    /// # Errors
    /// What to say while it is tried again.
    pub async fn create_sandbox(&self, attempt: u32) -> Result<PodVolumes, Failure> {
        if let Err(error) = self.parts.cgroups.ensure_pod(&self.pod) {
            let message = format!("error determining status of pod cgroup: {}", chain(&error));
            self.ctx.events.pod(&self.pod, Severity::Warning, "FailedCreatePodContainer", message.clone());
            return Err(failure("ContainerCreating", message, 5 * SECOND));
        }
        let volumes = self.prepare_volumes().await?;
        let config = self.sandbox_config(attempt).await?;
        let folder = config.log_directory.clone();
        tokio::fs::create_dir_all(&folder).await.map_err(|error| {
            failure("CreatePodSandboxError", format!("create {folder}: {error}"), 5 * SECOND)
        })?;
        let handler = self.runtime_handler().await?;
        match self.ctx.cri.run_pod_sandbox(config, handler).await {
            Ok(_) => Ok(volumes),
            Err(error) => {
                let message = format!(
                    "Failed to create pod sandbox: rpc error: code = {:?} desc = {}",
                    error.code, error.message
                );
                self.ctx.events.pod(&self.pod, Severity::Warning, "FailedCreatePodSandBox", message.clone());
                Err(failure("ContainerCreating", message, 5 * SECOND))
            }
        }
    }

    async fn runtime_handler(&self) -> Result<String, Failure> {
        let Some(class) = spec::spec(&self.pod).runtime_class_name.as_deref().filter(|c| !c.is_empty())
        else {
            return Ok(String::new());
        };
        let unknown = |message: String| failure("ContainerCreating", message, 10 * SECOND);
        let client =
            self.ctx.api.client().ok_or_else(|| unknown("the API server is not known yet".into()))?;
        let classes: kube::Api<k8s_openapi::api::node::v1::RuntimeClass> = kube::Api::all(client);
        match tokio::time::timeout(Duration::from_secs(10), classes.get(class)).await {
            Ok(Ok(class)) => Ok(class.handler),
            Ok(Err(error)) => {
                let message = format!("failed to get RuntimeClass {class}: {error}");
                self.ctx.events.pod(&self.pod, Severity::Warning, "FailedCreatePodSandBox", message.clone());
                Err(unknown(message))
            }
            Err(_) => Err(unknown(format!("RuntimeClass {class}: no answer within 10 s"))),
        }
    }

    /// Pulls, creates and starts one container and runs its postStart hook.
    ///
    /// # Errors
    /// What the container waits for.
    pub async fn start(
        &self,
        name: &str,
        attempt: u32,
        sandbox: &super::observed::Sandbox,
        volumes: Option<&PodVolumes>,
        target: Option<String>,
    ) -> Result<String, Failure> {
        let Some((kind, container)) = spec::find(&self.pod, name) else {
            return Err(failure(
                "RunContainerError",
                format!("the pod has no container {name}"),
                60 * SECOND,
            ));
        };
        let field = spec::field_path(kind, name);
        let warn = |message: &str| {
            self.ctx.events.container(
                &self.pod,
                field.clone(),
                Severity::Warning,
                "Failed",
                format!("Error: {message}"),
            );
        };
        let sandbox_config = self.sandbox_config(sandbox.attempt).await?;
        let prepared;
        let volumes = match volumes {
            Some(volumes) => volumes,
            None => {
                prepared = self.prepare_volumes().await?;
                &prepared
            }
        };
        let images = self.parts.images.clone();
        let pulled = images.ensure(&self.ctx, &self.pod, kind, &container, &sandbox_config, now).await;
        let (image_spec, image) = pulled.map_err(|e| Failure {
            reason: e.reason.into(),
            message: e.message,
            retry_at: e.retry_at,
        })?;
        let volume_images = self.volume_images(kind, &container, volumes, &sandbox_config).await?;
        let config =
            self.container_config(&container, attempt, volumes, &volume_images, image_spec, &image, target);
        let config = config.await.inspect_err(|failure| warn(&failure.message))?;
        let log_folder = Path::new(&sandbox_config.log_directory).join(name);
        tokio::fs::create_dir_all(&log_folder).await.map_err(|error| {
            failure("CreateContainerError", format!("create {}: {error}", log_folder.display()), 5 * SECOND)
        })?;
        let created = self.ctx.cri.create_container(&sandbox.id, config, sandbox_config.clone()).await;
        let id = created.map_err(|error| {
            warn(&error.message);
            failure("CreateContainerError", error.message, 5 * SECOND)
        })?;
        let say = |reason, message: &str| {
            self.ctx.events.container(&self.pod, field.clone(), Severity::Normal, reason, message);
        };
        say("Created", "Container created");
        if let Err(error) = start_container(&self.ctx.cri, &id).await {
            warn(&error.message);
            return Err(failure("RunContainerError", error.message, 5 * SECOND));
        }
        say("Started", "Container started");
        link_log(&self.pod, &container, &id, &sandbox_config.log_directory, attempt).await;
        self.post_start(&container, &field, &id).await?;
        Ok(id)
    }

    async fn post_start(&self, container: &Container, field: &str, id: &str) -> Result<(), Failure> {
        let target = HookTarget {
            pod: &self.pod,
            container,
            container_id: id,
            pod_ip: self.pod_ips.first().map(String::as_str).unwrap_or_default(),
            names: self.parts.probes.names(),
        };
        let Err(error) = hooks::post_start(target, &*self.parts.exec).await else { return Ok(()) };
        self.ctx.events.container(
            &self.pod,
            field.to_owned(),
            Severity::Warning,
            "FailedPostStartHook",
            error.to_string(),
        );
        let grace = spec::spec(&self.pod).termination_grace_period_seconds.unwrap_or(30);
        self.stop(&container.name, id, grace, "FailedPostStartHook").await.ok();
        Err(failure("PostStartHookError", error.to_string(), SECOND))
    }

    /// The images of image volumes that this container mounts.
    async fn volume_images(
        &self,
        kind: Kind,
        container: &Container,
        volumes: &PodVolumes,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<BTreeMap<String, cri::ImageSpec>, Failure> {
        let mut images = BTreeMap::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(PreparedVolume::Image { reference, pull_policy }) = volumes.volumes.get(&mount.name)
            else {
                continue;
            };
            let like = Container {
                name: container.name.clone(),
                image: Some(reference.clone()),
                image_pull_policy: pull_policy.clone(),
                ..Default::default()
            };
            let ensured = self.parts.images.ensure(&self.ctx, &self.pod, kind, &like, sandbox, now).await;
            let (image, _) = ensured.map_err(|e| Failure {
                reason: e.reason.into(),
                message: e.message,
                retry_at: e.retry_at,
            })?;
            images.insert(mount.name.clone(), image);
        }
        Ok(images)
    }

    #[allow(clippy::too_many_arguments)]
    async fn container_config(
        &self,
        container: &Container,
        attempt: u32,
        volumes: &PodVolumes,
        volume_images: &BTreeMap<String, cri::ImageSpec>,
        image_spec: cri::ImageSpec,
        image: &cri::Image,
        target: Option<String>,
    ) -> Result<cri::ContainerConfig, Failure> {
        let refuse = |message: String| failure("CreateContainerConfigError", message, 10 * SECOND);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let services = match self.parts.services.visible_from(namespace) {
            Some(services) => services,
            None if spec::is_static(&self.pod) => Vec::new(),
            None => {
                let message =
                    "services have not yet been read at least once, cannot construct envvars".to_owned();
                return Err(failure("CreateContainerConfigError", message, 2 * SECOND));
            }
        };
        let facts = self.facts();
        let environment =
            env::container_env(&self.pod, container, &services, &facts, &*self.parts.source).await;
        let environment = environment.map_err(|error| refuse(chain(&error)))?;
        let (command, args) = command_and_args(container, &environment);
        let (hostname, domain) = convert::hostname(&self.pod, &self.domain());
        let context = MountContext {
            volumes,
            environment: &environment,
            pod_ips: &self.pod_ips,
            hostname: &hostname,
            domain: &domain,
            images: volume_images,
            attempt,
            recursive_read_only: true,
        };
        let mounts = self.parts.volumes.container_mounts(&self.pod, container, context).await;
        let mounts = mounts.map_err(|error| refuse(error.to_string()))?.mounts;
        let parts = ContainerParts {
            image: image_spec,
            image_user: ImageUser {
                uid: image.uid.as_ref().map(|uid| uid.value),
                name: image.username.clone(),
            },
            command,
            args,
            envs: environment.to_cri(),
            mounts,
            resources: cgroup::container_resources(&self.pod, container, self.parts.cgroups.node()),
            target,
            ids: self.ids().await.map_err(refuse)?,
        };
        convert::container(&self.pod, container, attempt, parts).map_err(|error| refuse(error.to_string()))
    }

    /// preStop, then the stop signal, then SIGKILL.
    ///
    /// # Errors
    /// When the runtime cannot stop it.
    pub async fn stop(&self, name: &str, id: &str, grace: i64, message: &str) -> Result<(), Failure> {
        let found = spec::find(&self.pod, name);
        let field = found
            .as_ref()
            .map_or_else(|| format!("spec.containers{{{name}}}"), |(kind, _)| spec::field_path(*kind, name));
        let text = if message.is_empty() { format!("Stopping container {name}") } else { message.to_owned() };
        self.ctx.events.container(&self.pod, field.clone(), Severity::Normal, "Killing", text);
        let mut left = grace;
        if let Some((_, container)) = &found {
            let pod_ip = self.pod_ips.first().map(String::as_str).unwrap_or_default();
            let names = self.parts.probes.names();
            let target = HookTarget { pod: &self.pod, container, container_id: id, pod_ip, names };
            let (rest, result) = hooks::pre_stop(target, &*self.parts.exec, grace).await;
            left = rest;
            if let Err(error) = result {
                self.ctx.events.container(
                    &self.pod,
                    field,
                    Severity::Warning,
                    "FailedPreStopHook",
                    error.to_string(),
                );
            }
        }
        match self.ctx.cri.stop_container(id, left).await {
            Err(error) if !error.is_not_found() => {
                Err(failure("KillContainerError", error.message, 5 * SECOND))
            }
            _ => Ok(()),
        }
    }

    /// Gives back what the pod holds on the node: volumes and cgroup.
    ///
    /// # Errors
    /// The first that stays.
    pub async fn release(&self) -> Result<(), Failure> {
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let _alone = self.preparing.lock().await;
        let volumes = self.parts.volumes.teardown(&uid).await;
        volumes.map_err(|error| failure("", chain(&error), 5 * SECOND))?;
        self.parts.cgroups.remove_pod(&uid).await.map_err(|error| failure("", chain(&error), 5 * SECOND))
    }
}
