//! The environment, command and arguments of a container (pkg/kubelet/kubelet_pods.go makeEnvironmentVariables).
mod downward;
mod expand;
mod services;
mod variables;

pub(crate) use downward::metadata_value;
pub use downward::{PodFacts, field_value, resource_value};
pub use expand::{expand, expand_strict};
pub use services::service_variables;
pub use variables::{EnvError, Environment, command_and_args, container_env};

#[cfg(test)]
mod tests;
