//! Graceful node shutdown (pkg/kubelet/nodeshutdown): while the agent holds login1's delay inhibitor, the machine waits for its pods to end.
//!
//! Where the kubelet fails every pod, a reboot here only pauses those that run for ever (restartPolicy Always, and static pods): they run again
//! when the machine is back, with their restart counts going on. Pods that run to their end, and all pods when the machine is powered off, fail
//! as the kubelet's do, so that their controllers replace them.
mod login1;
mod order;
mod run;
#[cfg(test)]
mod tests;

pub use run::run;
