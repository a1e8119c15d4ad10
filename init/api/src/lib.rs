//! `pintle-api`: the machine API of a node, as an unprivileged process.
//!
//! [`listen`] accepts TLS connections of clients that the machine CA signed and nobody else; [`identity`] reads name and role from the
//! certificate; [`service`] maps each call to one on the machine socket ([`init_client`]), where PID 1 decides again by the process's uid.
//! [`pki`] is PID 1's side: it leaves the files that this process may read, and not the CA's key. [`join`] is the second port of
//! control-plane machines, where others have their serving certificates signed.

mod identity;
mod init_client;
mod join;
mod kmsg;
mod listen;
mod logs;
mod rate;
mod service;

use anyhow::{Context, Result};
use machine::api::machine_server::MachineServer;
use machine::{paths, socket};
use tonic::transport::Server;

use identity::Identity;
use listen::{Door, Listener};

/// The largest message either side accepts, in bytes.
const MAX_MESSAGE: usize = socket::MAX_FRAME;

/// Serves until it fails; init restarts it.
///
/// # Errors
/// When the files of [`pki`] are missing or a port is taken.
pub async fn run() -> Result<()> {
    let listener = Listener::bind(paths::API_PKI.as_ref(), door(paths::API_PORT)).await?;
    init_client::call("", socket::request::Call::Ready(socket::Empty {}))
        .await
        .context("tell init that the API is ready")?;
    tracing::info!(port = paths::API_PORT, "the machine API listens");
    let service: MachineServer<service::MachineApi> = MachineServer::new(service::MachineApi)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let machine = Server::builder()
        .concurrency_limit_per_connection(16)
        .max_concurrent_streams(32)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .add_service(service)
        .serve_with_incoming(listener.connections());
    tokio::select! {
        ended = machine => ended.context("serve the machine API"),
        () = join::serve() => Ok(()),
    }
}

/// For clients that the machine CA has signed.
fn door(port: u16) -> Door<Identity> {
    Door {
        port,
        client_certificates: true,
        admit: |certificate, peer| {
            let certificate = certificate.context("no client certificate")?;
            Identity::from_certificate(certificate, peer.to_string())
        },
        strangers: 64,
        strangers_per_address: 16,
        connections: 128,
        lifetime: None,
    }
}
