//! The standard health service (grpc.health.v1) as a client, without a generated module: one string in, one enum out.
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::address::join;
use super::outcome::Outcome;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks `service` for its health, without TLS.
pub(super) async fn probe(host: &str, port: u16, service: &str) -> Outcome {
    match check(&join(host, port), service).await {
        Ok(1) => Outcome::Success,
        Ok(status) => {
            let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let name = usize::try_from(status).ok().and_then(|at| name.get(at)).copied().unwrap_or("UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Err(message) => Outcome::Failure(message),
    }
}

async fn check(address: &str, service: &str) -> Result<i32, String> {
    let unreachable =
        |error: &dyn std::error::Error| format!("failed to connect service {address:?}: {error}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(&error))?;
    let endpoint = endpoint.user_agent("kube-probe/1.37").map_err(|error| unreachable(&error))?;
    let channel = endpoint.connect_timeout(Duration::from_secs(60)).connect().await;
    let mut client = Grpc::new(channel.map_err(|error| unreachable(&error))?);
    client.ready().await.map_err(|error| unreachable(&error))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    match client.unary(request, path, codec).await {
        Ok(response) => Ok(response.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        Err(status) => Err(format!("health rpc probe failed: {}", status.message())),
    }
}
