//! The environment of a container (pkg/kubelet/kubelet_pods.go makeEnvironmentVariables).
mod services;
mod variables;

pub use services::service_variables;
pub use variables::{EnvError, container_env};

#[cfg(test)]
mod tests;
