//! What the runtime is and can do, and what it is told about the node.
use std::collections::HashMap;

use machine::cri;
use tonic::Status;

use super::Service;
use containers::HANDLER;
use containers::SandboxRecord;

/// What CRI calls verbose: a record as JSON, for people.
pub(super) fn info_of(record: &impl serde::Serialize, wanted: bool) -> HashMap<String, String> {
    if !wanted {
        return HashMap::new();
    }
    [("info".to_owned(), serde_json::to_string(record).unwrap_or_default())].into()
}

impl Service {
    /// Conditions, handlers and features.
    pub(super) async fn current_status(&self, verbose: bool) -> cri::StatusResponse {
        let condition = |name: &str, result: Result<(), String>| cri::RuntimeCondition {
            r#type: name.into(),
            status: result.is_ok(),
            reason: if result.is_ok() { String::new() } else { format!("{name}Not") },
            message: result.err().unwrap_or_default(),
        };
        let network = self.runtime.network.ready().await.map_err(|error| error.to_string());
        let features =
            cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
        let handler = |name: &str| cri::RuntimeHandler { name: name.into(), features: Some(features) };
        let counts = serde_json::json!({
            "sandboxes": self.runtime.all_sandboxes().len(), "containers": self.runtime.containers_of(None).len(),
        });
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", Ok(())), condition("NetworkReady", network)],
            }),
            info: info_of(&counts, verbose),
            runtime_handlers: vec![handler(""), handler(HANDLER)],
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
        }
    }

    /// The record of a sandbox, and what CNI plugins say of its network.
    pub(super) async fn sandbox_info(&self, record: &SandboxRecord, wanted: bool) -> HashMap<String, String> {
        let mut info = info_of(record, wanted);
        if wanted && let Some(cni) = self.runtime.network.inspect(&record.id).await {
            info.insert("cni".into(), cni.to_string());
        }
        info
    }

    /// The ranges of the node's pods.
    pub(super) async fn configure(&self, request: cri::UpdateRuntimeConfigRequest) -> Result<(), Status> {
        let config = request.runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        let parse = |text: &str| {
            text.trim()
                .parse()
                .map_err(|error| Status::invalid_argument(format!("pod CIDR {text:?}: {error}")))
        };
        let cidrs = config
            .pod_cidr
            .split(',')
            .filter(|text| !text.is_empty())
            .map(parse)
            .collect::<Result<Vec<_>, _>>()?;
        if !cidrs.is_empty() {
            let cluster = crate::settings::cluster_cidrs();
            self.runtime
                .network
                .configure(&cidrs, &cluster)
                .await
                .map_err(|error| Status::internal(format!("configure the pod network: {error}")))?;
        }
        Ok(())
    }
}
