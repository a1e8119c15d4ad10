//! `pintle-api`: the machine API of a node, as an unprivileged process.
//!
//! [`listen`] accepts TLS connections of clients that the machine CA signed and nobody else; [`identity`] reads name and role from the
//! certificate; [`service`] maps each call to one on the machine socket ([`init_client`]), where PID 1 decides again by the process's uid.
//! [`pki::prepare`] runs in PID 1: it leaves the files here that this process may read, and not the CA's key.

mod identity;
mod init_client;
mod kmsg;
mod listen;
mod logs;
mod pki;
mod redact;
mod service;

pub use pki::prepare as prepare_pki;

use anyhow::{Context, Result};
use machine::api::machine_server::MachineServer;
use machine::{api, paths, socket};
use tonic::transport::Server;

/// The largest message either side accepts, in bytes.
const MAX_MESSAGE: usize = socket::MAX_FRAME;

/// Serves until it fails; init restarts it.
///
/// # Errors
/// When the files of [`prepare_pki`] are missing or the port is taken.
pub async fn run() -> Result<()> {
    let listener = listen::Listener::bind(paths::API_PORT, paths::API_PKI.as_ref()).await?;
    init_client::call("", socket::request::Call::Ready(socket::Empty {}))
        .await
        .context("tell init that the API is ready")?;
    tracing::info!(port = paths::API_PORT, "the machine API listens");
    let service: MachineServer<service::MachineApi> =
        api::machine_server::MachineServer::new(service::MachineApi)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
    Server::builder()
        .concurrency_limit_per_connection(16)
        .max_concurrent_streams(32)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .add_service(service)
        .serve_with_incoming(listener.connections())
        .await
        .context("serve the machine API")
}
