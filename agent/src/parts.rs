//! What pod tasks share to make and watch containers: volumes, cgroups, probes, exec, Services, image pulls.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;

use crate::allocation::Allocations;
use crate::cgroup::{Amounts, CgroupTree};
use crate::cri::Cri;
use crate::images::Images;
use crate::probe::{self, Exec, ExecOutput};
use crate::volumes::{Source, Volumes};

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
    pub allocations: Allocations,
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
