//! What volumes and environments read of the API server, and ask of it.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec,
};
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;

use crate::errors::chain;
use crate::objects::{ObjectError, Objects};
use crate::volumes::{
    Answer, CertificateRequest, ServiceAccountToken, Source, SourceError, TokenRequest, TrustBundle,
};

const ANSWER: Duration = Duration::from_secs(15);
/// How long a signer is waited for before the pod says that it waits.
const SIGNER: Duration = Duration::from_secs(20);

/// Reads objects and tokens through the agent's cache and client.
#[derive(Debug)]
pub struct ApiSource {
    pub objects: Objects,
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

impl ApiSource {
    fn client(&self) -> Result<kube::Client, SourceError> {
        self.objects.client().ok_or_else(|| SourceError::other("the API server is not known yet"))
    }
}

fn source_error(error: &ObjectError) -> SourceError {
    match error {
        ObjectError::NotFound { .. } => SourceError::not_found(error.to_string()),
        _ => SourceError::other(chain(error)),
    }
}

impl Source for ApiSource {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>> {
        Box::pin(async move { self.objects.config_map(namespace, name).await.map_err(|e| source_error(&e)) })
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>> {
        Box::pin(async move { self.objects.secret(namespace, name).await.map_err(|e| source_error(&e)) })
    }

    fn token<'a>(
        &'a self,
        request: TokenRequest<'a>,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>> {
        Box::pin(async move {
            let client = self.client()?;
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
            let answer = match tokio::time::timeout(ANSWER, create).await {
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

    fn trust_bundles(&self) -> BoxFuture<'_, Result<Arc<Vec<TrustBundle>>, SourceError>> {
        Box::pin(async { self.objects.trust_bundles.get().await.map_err(SourceError::other) })
    }

    fn ask_certificate<'a>(
        &'a self,
        request: CertificateRequest<'a>,
    ) -> BoxFuture<'a, Result<String, SourceError>> {
        Box::pin(async move {
            let client = self.client()?;
            let account = self.objects.get::<ServiceAccount>(
                "serviceaccount",
                request.namespace,
                request.service_account,
            );
            let account = account.await.map_err(|e| source_error(&e))?;
            let node = self.node.borrow().clone();
            let node = node.ok_or_else(|| SourceError::other("the node is not registered yet"))?;
            let object = certificate_request(request, &account, &node);
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let requests: Api<PodCertificateRequest> = Api::namespaced(client, &namespace);
            let params = PostParams::default();
            match tokio::time::timeout(ANSWER, requests.create(&params, &object)).await {
                Ok(Ok(created)) => Ok(created.metadata.name.unwrap_or_default()),
                Ok(Err(error)) => {
                    Err(SourceError::other(format!("create PodCertificateRequest: {}", chain(&error))))
                }
                Err(_) => Err(SourceError::other("create PodCertificateRequest: no answer within 15 s")),
            }
        })
    }

    fn certificate_answer<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Answer, SourceError>> {
        Box::pin(async move {
            let requests: Api<PodCertificateRequest> = Api::namespaced(self.client()?, namespace);
            let waiting = async {
                let mut stream = std::pin::pin!(kube::runtime::watcher::watch_object(requests, name));
                while let Some(next) = stream.next().await {
                    match next {
                        Ok(Some(request)) => match answer(&request) {
                            Answer::Pending => {}
                            answer => return Ok(answer),
                        },
                        Ok(None) => return Err(SourceError::not_found("it was deleted")),
                        Err(error) => return Err(SourceError::other(chain(&error))),
                    }
                }
                Ok(Answer::Pending)
            };
            tokio::time::timeout(SIGNER, waiting).await.unwrap_or(Ok(Answer::Pending))
        })
    }
}

fn certificate_request(
    request: CertificateRequest<'_>,
    account: &ServiceAccount,
    node: &Node,
) -> PodCertificateRequest {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: request.pod_name.into(),
        uid: request.pod_uid.into(),
        ..Default::default()
    };
    PodCertificateRequest {
        metadata: ObjectMeta {
            namespace: Some(request.namespace.into()),
            generate_name: Some("req-".into()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: request.signer.into(),
            pod_name: request.pod_name.into(),
            pod_uid: request.pod_uid.into(),
            service_account_name: request.service_account.into(),
            service_account_uid: account.metadata.uid.clone().unwrap_or_default(),
            node_name: node.metadata.name.clone().unwrap_or_default(),
            node_uid: node.metadata.uid.clone().unwrap_or_default(),
            max_expiration_seconds: request.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(request.pkcs10),
            unverified_user_annotations: request.annotations,
        },
        status: None,
    }
}

/// What a request's status says.
fn answer(request: &PodCertificateRequest) -> Answer {
    let Some(status) = &request.status else { return Answer::Pending };
    for condition in status.conditions.iter().flatten() {
        let refused = |how| Answer::Refused {
            how,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        match condition.type_.as_str() {
            "Denied" => return refused("denied"),
            "Failed" => return refused("failed"),
            "Issued" => {
                let (Some(chain), Some(refresh), Some(end)) =
                    (&status.certificate_chain, &status.begin_refresh_at, &status.not_after)
                else {
                    continue;
                };
                return Answer::Issued { chain: chain.clone(), refresh_at: refresh.0, not_after: end.0 };
            }
            _ => {}
        }
    }
    Answer::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signers_word_is_in_the_conditions() {
        let request = |status: serde_json::Value| -> PodCertificateRequest {
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"signerName": "s", "podName": "p", "podUID": "u",
                "serviceAccountName": "a", "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w", "stubPKCS10Request": ""},
                "status": status}))
            .unwrap()
        };
        let condition = |kind| {
            serde_json::json!([{"type": kind, "status": "True", "reason": "R", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        assert_eq!(answer(&request(serde_json::json!({}))), Answer::Pending);
        let denied = answer(&request(serde_json::json!({"conditions": condition("Denied")})));
        assert_eq!(denied, Answer::Refused { how: "denied", reason: "R".into(), message: "m".into() });
        let issued =
            answer(&request(serde_json::json!({"conditions": condition("Issued"), "certificateChain": "c",
            "beginRefreshAt": "2026-01-01T00:00:00Z", "notAfter": "2026-01-02T00:00:00Z"})));
        assert!(matches!(issued, Answer::Issued { chain, .. } if chain == "c"));
    }
}
