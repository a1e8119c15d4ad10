//! Certificates, keys and tokens: made and read, never stored. ECDSA P-256 throughout, which every part of Kubernetes accepts and
//! which costs a node the least.
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

mod ca;
mod facts;
mod leaf;
mod request;
mod token;
#[cfg(feature = "tls")]
mod unverified;

pub use ca::{new_ca, new_key_pair};
pub use facts::{Facts, facts, is_key_of, signed_by};
pub use leaf::{issue, sign_serving};
pub use request::{Request, new_request, read_request};
pub use token::{bootstrap_token, ca_hash, is_bootstrap_token, is_join_token, join_token};
#[cfg(feature = "tls")]
pub use unverified::AnyCertificate;

/// How long a new CA is valid.
pub const CA_LIFETIME: Duration = Duration::from_secs(3650 * DAY);
/// How long a leaf certificate is valid.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * DAY);
/// How long a serving certificate of the machine API is valid; it is asked for anew when a third of that is left.
pub const SERVING_LIFETIME: Duration = Duration::from_secs(30 * DAY);
/// A leaf with less than this left is issued anew.
pub const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY);

const DAY: u64 = 86_400;
/// Certificates begin this long in the past, for clocks of other machines that are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// A certificate with its key, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a leaf certificate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    pub common_name: String,
    /// Kubernetes reads it as a group, the machine API as a role.
    pub organization: Option<String>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
}

/// What a leaf certificate may be used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Usage {
    Server,
    #[default]
    Client,
    /// etcd's members are both to each other.
    ServerAndClient,
}

impl Usage {
    const fn server(self) -> bool {
        matches!(self, Self::Server | Self::ServerAndClient)
    }

    const fn client(self) -> bool {
        matches!(self, Self::Client | Self::ServerAndClient)
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("the CA {0:?} has no key here; only control-plane machines may sign")]
    NoKey(String),
    #[error("{what} is not PEM as it should be; `pintle gen secrets` makes a good one")]
    Parse {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("sign the certificate of {name:?}")]
    Sign {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("a certificate signing request that is none of ours: {0}")]
    Request(&'static str),
    #[error("the system's random source failed")]
    Random,
}

fn validity(params: &mut rcgen::CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
}

#[cfg(test)]
mod tests;
