//! Port 50001 of control-plane machines: a machine with the join token has its serving certificate signed. This process checks the token
//! and reads the request; PID 1 gets names, addresses and a key, decides what fits, and signs.
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use machine::api::signer_server::{Signer, SignerServer};
use machine::api::{SignServingRequest, SignServingResponse};
use machine::paths::{API_PKI, JOIN_PORT};
use machine::pki::{self, Request as Asked};
use machine::socket::{self, reply::Result as Answer, request::Call};
use subtle::ConstantTimeEq;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::init_client::call;
use super::listen::{Door, Listener};
use super::rate::Rate;
use machine::paths::api_pki::JOIN_TOKEN;

/// The largest message a stranger may send, in bytes.
const LARGEST: usize = 32 << 10;
/// A connection is for one question.
const LIFETIME: Duration = Duration::from_secs(30);
/// Pause before the port is tried anew.
const AGAIN: Duration = Duration::from_secs(30);

/// The address of a peer of whom nothing else is known.
#[derive(Debug, Clone, Copy)]
struct Stranger(IpAddr);

/// Serves where PID 1 has left a join token, again and again; elsewhere it waits for ever. Trouble here does not end the machine API.
pub async fn serve() {
    if !Path::new(API_PKI).join(JOIN_TOKEN).exists() {
        return std::future::pending().await;
    }
    loop {
        if let Err(error) = listen(Path::new(API_PKI)).await {
            tracing::warn!("sign for joining machines: {error:#}; trying again");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn listen(folder: &Path) -> Result<()> {
    let door = Door {
        port: JOIN_PORT,
        client_certificates: false,
        admit: |_, peer: SocketAddr| Ok(Stranger(peer.ip())),
        strangers: 32,
        strangers_per_address: 8,
        connections: 0,
        lifetime: Some(LIFETIME),
    };
    let listener = Listener::bind(folder, door).await?;
    tracing::info!(port = JOIN_PORT, "signs serving certificates of joining machines");
    let service =
        SignerServer::new(Join { known: Rate::default(), strangers: Rate::default(), folder: folder.into() })
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST);
    Server::builder()
        .timeout(LIFETIME)
        .concurrency_limit_per_connection(1)
        .max_concurrent_streams(1)
        .http2_max_header_list_size(8 << 10)
        .add_service(service)
        .serve_with_incoming(listener.connections())
        .await?;
    Ok(())
}

#[derive(Debug)]
struct Join {
    /// What machines with the token may ask, by address.
    known: Rate,
    /// Whose wrong tokens are worth an audit line.
    strangers: Rate,
    folder: PathBuf,
}

#[tonic::async_trait]
impl Signer for Join {
    async fn sign_serving(
        &self,
        request: Request<SignServingRequest>,
    ) -> Result<Response<SignServingResponse>, Status> {
        let Some(Stranger(peer)) = request.extensions().get::<Stranger>().copied() else {
            return Err(Status::internal("a call without a peer"));
        };
        let token = std::fs::read_to_string(self.folder.join(JOIN_TOKEN)).unwrap_or_default();
        // Pods speak with their node's address. What they may ask without the token is nothing, so it counts for nobody who has it.
        if !shows(request.get_ref(), &token) {
            if self.strangers.allow(peer, Instant::now()) {
                tracing::info!(target: "audit", call = "SignServing", %peer, allowed = false, error = "no join token");
            }
            return Err(Status::unauthenticated("the join token is not the one of this cluster"));
        }
        if !self.known.allow(peer, Instant::now()) {
            return Err(Status::resource_exhausted("too many calls; try again in a minute"));
        }
        let asked = read(request.get_ref());
        let outcome = match &asked {
            Ok(asked) => sign(asked, peer).await,
            Err(status) => Err(status.clone()),
        };
        let names = asked.as_ref().map(names).unwrap_or_default();
        let error = outcome.as_ref().err().map(tonic::Status::message).unwrap_or_default();
        tracing::info!(target: "audit", call = "SignServing", %peer, names, allowed = outcome.is_ok(), error);
        outcome.map(Response::new)
    }
}

/// Whether the request has the token of this cluster. It is asked first: nothing else of a stranger's request is read.
fn shows(request: &SignServingRequest, token: &str) -> bool {
    let same: bool = request.token.as_bytes().ct_eq(token.as_bytes()).into();
    same && pki::is_join_token(token)
}

fn read(request: &SignServingRequest) -> Result<Asked, Status> {
    pki::read_request(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn sign(asked: &Asked, peer: IpAddr) -> Result<SignServingResponse, Status> {
    let request = socket::SignServing {
        common_name: asked.common_name.clone(),
        dns_names: asked.dns_names.clone(),
        addresses: asked.addresses.iter().map(ToString::to_string).collect(),
        public_key: asked.public_key.clone(),
    };
    match call(&format!("machine {peer}"), Call::SignServing(request)).await?.0 {
        Answer::Signed(signed) => {
            Ok(SignServingResponse { certificate: signed.certificate, left_out: signed.left_out })
        }
        _ => Err(Status::internal("init answered SignServing with something else")),
    }
}

/// For the audit line; what a stranger wrote must not forge another.
fn names(asked: &Asked) -> String {
    let all = asked.dns_names.iter().cloned().chain(asked.addresses.iter().map(ToString::to_string));
    let text = all.collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use machine::pki::Leaf;

    use super::*;

    #[test]
    fn without_the_token_nothing_is_read() {
        let token = pki::join_token().unwrap();
        let leaf = Leaf { common_name: "w1".into(), dns_names: vec!["w1".into()], ..Leaf::default() };
        let (_, csr) = pki::new_request(&leaf).unwrap();
        let with = |token: &str, csr: &[u8]| SignServingRequest { token: token.into(), csr: csr.into() };
        assert!(shows(&with(&token, &csr), &token));
        assert_eq!(read(&with(&token, &csr)).unwrap().dns_names, ["w1"]);
        for wrong in ["", "x", &token[1..], &format!("{token}a"), &pki::join_token().unwrap()] {
            assert!(!shows(&with(wrong, &csr), &token), "{wrong}");
        }
        assert_eq!(read(&with(&token, b"x")).unwrap_err().code(), tonic::Code::InvalidArgument);
        assert!(!shows(&with("", &csr), ""), "no token lets nobody in");
    }

    #[tokio::test]
    async fn strangers_behind_a_nodes_address_do_not_use_up_what_the_node_may_ask() {
        let (token, folder) = (pki::join_token().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join(JOIN_TOKEN), &token).unwrap();
        let join = Join { known: Rate::default(), strangers: Rate::default(), folder: folder.path().into() };
        let leaf = Leaf { common_name: "w1".into(), dns_names: vec!["w1".into()], ..Leaf::default() };
        let (_, csr) = pki::new_request(&leaf).unwrap();
        let ask = async |token: &str| {
            let mut request = Request::new(SignServingRequest { token: token.into(), csr: csr.clone() });
            request.extensions_mut().insert(Stranger("192.0.2.1".parse().unwrap()));
            join.sign_serving(request).await.unwrap_err().code()
        };
        for _ in 0..100 {
            assert_eq!(ask("wrong").await, tonic::Code::Unauthenticated);
        }
        // As far as to PID 1, which is not there.
        assert_eq!(ask(&token).await, tonic::Code::Unavailable);
        for _ in 0..100 {
            ask(&token).await;
        }
        assert_eq!(ask(&token).await, tonic::Code::ResourceExhausted, "one machine does not keep PID 1 busy");
    }
}
