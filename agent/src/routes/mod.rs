//! Routes to the pods of other nodes: each podCIDR by way of its node's InternalIP, for nodes on a subnet that this machine is on.
//!
//! One task follows all Nodes (the node group needs `get, list, watch` on nodes, which the Node authorizer alone does not give) and the
//! machine's own addresses. Routes carry a protocol number of their own, so what nobody wants any more is found and removed, also
//! after a restart.
mod decide;
mod kernel;
mod run;

pub use decide::{Peer, PodRoute, changes, peer, wanted};
pub use run::run;

#[cfg(test)]
mod tests;
