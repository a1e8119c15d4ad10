//! The node's certificates: a client certificate by TLS bootstrap, a serving certificate for port 10250, and their rotation.
pub mod client;
pub mod csr;
pub mod pem;
pub mod serving;

use std::time::Duration;

/// The wait after a failure while the node has no certificate at all: without one it is no node, so it asks often, one request at a time.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// The wait after the n-th failure in a row: 1 s doubling to 8 s.
#[must_use]
pub fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(3))
}
