//! What pod tasks share to make and watch containers: volumes, cgroups, probes, exec, Services, image pulls.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use kube::Api;
use kube::api::PostParams;

use crate::cgroup::{Amounts, CgroupTree};
use crate::cri::Cri;
use crate::images::Images;
use crate::objects::{ObjectError, Objects};
use crate::probe::{self, Exec, ExecOutput};
use crate::volumes::{ServiceAccountToken, Source, SourceError, TokenRequest, Volumes};

/// Shared by all pod tasks; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    pub volumes: Volumes,
    pub cgroups: CgroupTree,
    pub probes: probe::Manager,
    pub exec: Arc<dyn Exec>,
    pub source: Arc<dyn Source>,
    pub services: Services,
    pub images: Images,
    /// What pods may use of this node.
    pub allocatable: Arc<Mutex<Amounts>>,
}

impl Parts {
    /// What pods may use of this node, as now known.
    #[must_use]
    pub fn node_allocatable(&self) -> Amounts {
        self.allocatable.lock().map(|a| a.clone()).unwrap_or_default()
    }
}

/// Runs commands through CRI.
#[derive(Debug)]
pub struct CriExec(pub Cri);

impl Exec for CriExec {
    fn exec(
        &self,
        container_id: String,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<ExecOutput, String>> {
        Box::pin(async move {
            // CRI counts whole seconds and takes 0 for no limit; a hook is bounded by whoever waits for it.
            let limit = if timeout.is_zero() { Duration::from_secs(3600) } else { timeout };
            match self.0.exec_sync(&container_id, command, limit).await {
                Ok(answer) => {
                    let mut output = answer.stdout;
                    output.extend_from_slice(&answer.stderr);
                    Ok(ExecOutput { exit_code: answer.exit_code, output, timed_out: false })
                }
                Err(error) if error.code == tonic::Code::DeadlineExceeded => {
                    Ok(ExecOutput { exit_code: -1, output: error.message.into_bytes(), timed_out: true })
                }
                Err(error) => Err(error.message),
            }
        })
    }
}

/// Reads objects and tokens through the agent's cache and client.
#[derive(Debug)]
pub struct ApiSource(pub Objects);

fn source_error(error: &ObjectError) -> SourceError {
    match error {
        ObjectError::NotFound { .. } => SourceError::not_found(error.to_string()),
        _ => SourceError::other(chain(error)),
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl Source for ApiSource {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>> {
        Box::pin(async move { self.0.config_map(namespace, name).await.map_err(|e| source_error(&e)) })
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>> {
        Box::pin(async move { self.0.secret(namespace, name).await.map_err(|e| source_error(&e)) })
    }

    fn token<'a>(
        &'a self,
        request: TokenRequest<'a>,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>> {
        Box::pin(async move {
            let client =
                self.0.client().ok_or_else(|| SourceError::other("the API server is not known yet"))?;
            let accounts: Api<ServiceAccount> = Api::namespaced(client, request.namespace);
            let body = ApiTokenRequest {
                spec: Some(TokenRequestSpec {
                    audiences: Some(request.audience.map(str::to_owned).into_iter().collect()),
                    attestations: None,
                    expiration_seconds: Some(request.expiration_seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: Some(request.pod_name.into()),
                        uid: Some(request.pod_uid.into()),
                    }),
                }),
                ..Default::default()
            };
            let params = PostParams::default();
            let create = accounts.create_token_request(request.service_account, &params, &body);
            let answer = match tokio::time::timeout(Duration::from_secs(15), create).await {
                Ok(answer) => {
                    answer.map_err(|e| SourceError::other(format!("create token: {}", chain(&e))))?
                }
                Err(_) => return Err(SourceError::other("create token: no answer within 15 s")),
            };
            let status =
                answer.status.ok_or_else(|| SourceError::other("create token: the answer has no token"))?;
            let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
                return Err(SourceError::other("create token: the answer has no token"));
            };
            Ok(ServiceAccountToken { token, expires: expires.0 })
        })
    }
}

type ServiceMap = BTreeMap<(String, String), Arc<Service>>;

/// All Services, as last seen; `None` until they have been listed once.
#[derive(Debug, Clone, Default)]
pub struct Services {
    current: Arc<Mutex<Option<ServiceMap>>>,
}

impl Services {
    /// The Services that a pod of this namespace is told of; `None` before the first list.
    #[must_use]
    pub fn visible_from(&self, namespace: &str) -> Option<Vec<Arc<Service>>> {
        let current = self.current.lock().ok()?;
        let visible =
            |(ns, name): &&(String, String)| ns == namespace || (ns == "default" && name == "kubernetes");
        Some(
            current
                .as_ref()?
                .iter()
                .filter(|(key, _)| visible(key))
                .map(|(_, service)| service.clone())
                .collect(),
        )
    }

    pub(crate) fn replace(&self, services: ServiceMap) {
        if let Ok(mut current) = self.current.lock() {
            *current = Some(services);
        }
    }
}
