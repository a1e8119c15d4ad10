//! Names of the images with which a stock kubelet is tried; a registry on the host serves them.

/// Carries the kubelet, and puts it on a node.
pub const INSTALLER: &str = "test.pintle.dev/stock-kubelet:v1";
/// Kubernetes' test program, which answers all kinds of probes, with a shell beside it.
pub const AGNHOST: &str = "test.pintle.dev/agnhost:v1";
