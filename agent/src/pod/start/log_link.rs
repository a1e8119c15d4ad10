use k8s_openapi::api::core::v1::{Container, Pod};

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`, which log collectors read.
pub(super) async fn link_log(pod: &Pod, container: &Container, id: &str, log_directory: &str, attempt: u32) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let folder = machine::paths::CONTAINER_LOGS;
    let stem: String = format!("{name}_{namespace}_{}-{id}", container.name).chars().take(251).collect();
    let link = format!("{folder}/{stem}.log");
    let target = format!("{log_directory}/{}/{attempt}.log", container.name);
    let made = async {
        tokio::fs::create_dir_all(folder).await?;
        tokio::fs::symlink(&target, &link).await
    };
    if let Err(error) = made.await {
        tracing::debug!("link {link}: {error}");
    }
}
