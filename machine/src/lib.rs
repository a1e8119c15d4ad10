//! The contracts between Pintle's parts: config documents, the machine API and the machine socket, CRI, paths and ids.
//! Nothing here does IO; every other crate of the workspace may import it, and it imports none of them.

mod authority;
pub mod bundle;
pub mod config;
pub mod net;
pub mod network;
pub mod paths;
pub mod pki;

/// The container runtime interface, generated from Kubernetes' own `api.proto` (k8s.io/cri-api v0.37.2).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, rustdoc::all)]
pub mod cri {
    include!("proto/runtime.v1.rs");
    #[cfg(feature = "grpc")]
    include!("proto/runtime.v1.services.rs");
}

/// The machine API that `pintle` speaks to a node (mTLS gRPC, port [`paths::API_PORT`]).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, rustdoc::all)]
pub mod api {
    include!("proto/pintle.machine.v1.rs");
    #[cfg(feature = "grpc")]
    include!("proto/pintle.machine.v1.services.rs");
}

/// The machine socket between PID 1 and the services (length-prefixed prost messages at [`paths::MACHINE_SOCKET`]).
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, rustdoc::all)]
pub mod socket {
    include!("proto/pintle.socket.v1.rs");

    /// The largest frame either side accepts, in bytes.
    pub const MAX_FRAME: usize = 4 << 20;
    /// The longest machine config, in bytes.
    pub const MAX_CONFIG: usize = 1 << 20;
    /// The most file descriptors one frame may carry.
    pub const MAX_FDS: usize = 16;
}
