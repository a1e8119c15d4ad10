//! Port 10250 of this node: the server's backend over CRI, the pods' snapshot and the API server.
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use machine::cri;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::backend::{Backend, User};
use super::tls::ServerTls;
use super::{HEALTHZ, PORT, serve, serve_healthz};
use crate::Context;
use crate::cri::CriError;
use crate::pods::{PodEntry, ServedPod};
use crate::probe::{ExecOutput, Manager};
use crate::stats::{self, NodeStats};

const REVIEW_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

/// Serves 10250 and the local health port for ever; a port that cannot be had is tried again.
pub async fn run(ctx: Context, probes: Manager) {
    let backend = Arc::new(NodeBackend { ctx: ctx.clone(), probes });
    let server = async {
        loop {
            let error = match listen_and_serve(&ctx, backend.clone()).await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::error!("port {PORT}: {error:#}; trying again in {} s", RETRY.as_secs());
            tokio::time::sleep(RETRY).await;
        }
    };
    let health = async {
        loop {
            let served = match TcpListener::bind(HEALTHZ).await {
                Ok(listener) => serve_healthz(listener).await,
                Err(error) => Err(error),
            };
            let Err(error) = served else { return };
            tracing::error!("health port {HEALTHZ}: {error}; trying again in {} s", RETRY.as_secs());
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::join!(server, health);
}

async fn listen_and_serve(ctx: &Context, backend: Arc<NodeBackend>) -> anyhow::Result<()> {
    // One socket for both families; without IPv6 in the kernel, for the one there is.
    let listener = match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))).await?,
    };
    let ca =
        |ctx: &Context| ctx.now().cluster().map(|cluster| cluster.ca.certificate.clone()).unwrap_or_default();
    let mut current_ca = ca(ctx);
    let (configs, current) = watch::channel(ServerTls::config(ctx.serving.clone(), &current_ca)?);
    let mut settings = ctx.settings.clone();
    let follow = async {
        while settings.changed().await.is_ok() {
            let new = ca(ctx);
            if new == current_ca {
                continue;
            }
            match ServerTls::config(ctx.serving.clone(), &new) {
                Ok(config) => {
                    current_ca = new;
                    configs.send_replace(config);
                }
                Err(error) => tracing::error!("port {PORT} keeps the old client CA: {error}"),
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        served = serve(listener, ServerTls::new(current), backend, machine::paths::STREAM_SOCKET) => Ok(served?),
        () = follow => Ok(()),
    }
}

struct NodeBackend {
    ctx: Context,
    probes: Manager,
}

impl NodeBackend {
    async fn review<K>(&self, review: K) -> Result<K, String>
    where
        K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let client = self.ctx.api.client().ok_or("this node has no credentials for the API server yet")?;
        let api: Api<K> = Api::all(client);
        match tokio::time::timeout(REVIEW_WITHIN, api.create(&PostParams::default(), &review)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", REVIEW_WITHIN.as_secs())),
        }
    }
}

fn text<T>(result: Result<T, CriError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn served(entry: &PodEntry) -> ServedPod {
    ServedPod {
        pod: entry.pod.clone(),
        sandbox: entry.sandbox.clone(),
        containers: entry.containers.iter().map(|(name, id)| (name.clone(), id.clone())).collect(),
    }
}

/// Whether a container runs, by the pods' status.
fn runs(pod: &Pod, id: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().any(|status| {
        let own = status.container_id.as_deref().and_then(|own| own.split_once("://")).map(|(_, own)| own);
        own == Some(id) && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

impl Backend for NodeBackend {
    fn pods(&self) -> Vec<ServedPod> {
        self.ctx.pods.snapshot().values().map(|entry| served(entry)).collect()
    }

    fn node_name(&self) -> String {
        self.ctx.node_name.to_string()
    }

    fn configz(&self) -> serde_json::Value {
        let settings = self.ctx.now();
        let mut shown = serde_json::to_value(settings.node_agent()).unwrap_or_default();
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("clusterDNS".into(), settings.cluster_dns().into());
            fields.insert("port".into(), PORT.into());
        }
        shown
    }

    fn log_path<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<Option<PathBuf>, String>> {
        async move {
            match self.ctx.cri.container_status(container_id).await {
                Ok(answer) => {
                    let path = answer.status.map(|status| status.log_path).filter(|path| !path.is_empty());
                    Ok(path.map(PathBuf::from))
                }
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        }
        .boxed()
    }

    fn ended<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, ()> {
        async move {
            let mut pods = self.ctx.pods.watch();
            // An error means that nobody writes the snapshot any more: the agent ends.
            let _ = pods.wait_for(|pods| !pods.values().any(|entry| runs(&entry.pod, container_id))).await;
        }
        .boxed()
    }

    fn exec_sync<'a>(
        &'a self,
        container_id: &'a str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecOutput, String>> {
        async move {
            let answer = text(self.ctx.cri.exec_sync(container_id, command, timeout).await)?;
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            Ok(ExecOutput { exit_code: answer.exit_code, output, timed_out: false })
        }
        .boxed()
    }

    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, String>> {
        async move { text(self.ctx.cri.exec(request).await) }.boxed()
    }

    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, String>> {
        async move { text(self.ctx.cri.attach(request).await) }.boxed()
    }

    fn port_forward(&self, request: cri::PortForwardRequest) -> BoxFuture<'_, Result<String, String>> {
        async move { text(self.ctx.cri.port_forward(request).await) }.boxed()
    }

    fn stats(&self) -> BoxFuture<'_, Result<NodeStats, String>> {
        async move {
            let sandboxes = text(self.ctx.cri.list_pod_sandbox_stats().await)?;
            let pods: Vec<Arc<Pod>> =
                self.ctx.pods.snapshot().values().map(|entry| entry.pod.clone()).collect();
            let mut stats = stats::read(machine::paths::STATE.as_ref(), &sandboxes, &pods)
                .map_err(|error| format!("read /proc: {error}"))?;
            self.ctx.rates.fill(&mut stats);
            Ok(stats)
        }
        .boxed()
    }

    fn services(&self) -> BoxFuture<'_, Vec<machine::socket::Service>> {
        async {
            crate::machine_socket::services().await.unwrap_or_else(|error| {
                tracing::warn!("{error:#}");
                Vec::new()
            })
        }
        .boxed()
    }

    fn probe_metrics(&self) -> String {
        stats::probe_metrics(&self.probes.counts())
    }

    fn token_review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        async move {
            let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
            let answer = self.review(TokenReview { spec, ..TokenReview::default() }).await?;
            let status = answer.status.unwrap_or_default();
            let user = status.user.filter(|_| status.authenticated == Some(true));
            Ok(user.map(|user| User {
                name: user.username.unwrap_or_default(),
                uid: user.uid.unwrap_or_default(),
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default().into_iter().collect(),
            }))
        }
        .boxed()
    }

    fn access_review<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        async move {
            let resource = ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node_name()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.iter().cloned().collect()),
                resource_attributes: Some(resource),
                ..SubjectAccessReviewSpec::default()
            };
            let answer = self.review(SubjectAccessReview { spec, ..SubjectAccessReview::default() }).await?;
            Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
        }
        .boxed()
    }
}
