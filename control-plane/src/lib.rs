//! The control plane of a machine whose role is ControlPlane.
//!
//! One pass ([`reconcile`]) goes from the machine config and the node's addresses to files, all of them pure renderings: certificates
//! ([`certificates`]), kubeconfigs ([`kubeconfig`]) and static pod manifests ([`pods`]), written only where they differ. A second, slower
//! loop ([`cluster`]) speaks to the API server: it applies the add-ons ([`addons`]), marks the node, and approves the serving certificates of
//! kubelets ([`approve`]). Before both, [`guard`] sees to it that a machine without data makes a cluster only where it is meant to. [`service`] drives them and reports to PID 1 over the machine socket ([`machine_socket`]).

pub mod addons;
mod apply;
pub mod approve;
pub mod certificates;
mod cluster;
mod conditions;
pub mod flags;
mod guard;
pub mod input;
pub mod kubeconfig;
pub mod layout;
mod machine_socket;
pub mod membership;
pub mod pods;
pub mod reconcile;
mod service;

pub use service::run;

#[cfg(test)]
mod testing;
