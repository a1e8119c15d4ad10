//! What a pod and its containers may use, in the kubelet's own numbers, and the cgroup v2 tree that says so to the kernel.
//!
//! Everything but [`tree`] is arithmetic over a pod; [`tree`] writes files below `/sys/fs/cgroup/kubepods`.
mod container;
mod cpu;
mod node;
mod oom;
mod pod;
mod qos;
mod quantity;
mod requests;
mod tree;

pub use container::{container_resources, hugepage_limits};
pub use cpu::{QUOTA_PERIOD_US, cpu_weight, milli_cpu_to_quota, milli_cpu_to_shares, shares_to_milli_cpu};
pub use node::{NodeFacts, page_size_name};
pub use oom::{is_node_critical, oom_score_adj};
pub use pod::{CgroupConfig, besteffort_tier, burstable_tier, kubepods, pod_config, pod_sandbox_resources};
pub use qos::{QosClass, cgroup_parent, pod_cgroup, qos_class};
pub use quantity::{Amount, QuantityError};
pub use requests::{Amounts, pod_level_resources_set, pod_limits, pod_requests};
pub use tree::{CgroupError, CgroupTree};

#[cfg(test)]
mod tests;
