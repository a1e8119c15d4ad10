//! The node's certificates: a client certificate by TLS bootstrap, a serving certificate for port 10250, and their rotation.
pub mod client;
pub mod csr;
pub mod pem;
pub mod serving;

use std::time::Duration;

/// The wait after the n-th failure in a row: 2 s doubling to 60 s.
#[must_use]
pub fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(2_u64.saturating_pow(failures.clamp(1, 6)).min(60))
}
