//! Who may make a cluster. Two machines that each make one have two clusters under the same authorities, and nothing tells them apart. So a machine without
//! data makes one only where the config says that it is the API server that everybody is told of.
use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};
use tokio::time::{Instant, sleep, timeout};

use crate::input::{Input, endpoint_host_port};
use crate::layout::Layout;
use crate::machine_socket;

/// How long one question to the endpoint may take, its name's resolution too.
const ANSWER: Duration = Duration::from_secs(5);
/// How long nobody must have answered at the endpoint.
const SILENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(5);
/// The name of the condition in `pintle health`.
const CONDITION: &str = "ClusterMembership";

/// Where the cluster's endpoint leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    /// It is this machine.
    Here,
    /// Somebody else with a certificate of the cluster's CA answers there.
    Answers,
    /// Nobody has answered there for so long.
    Silent(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Go,
    /// Why not.
    Wait(String),
}

/// Whether a machine may start an etcd of its own.
fn decide(has_data: bool, named: bool, endpoint: Endpoint, url: &str) -> Verdict {
    match endpoint {
        _ if has_data => Verdict::Go,
        Endpoint::Here => Verdict::Go,
        Endpoint::Answers => Verdict::Wait(format!(
            "there is a cluster at {url} already, and a further control-plane machine cannot join it yet; give this machine `role: Worker`"
        )),
        Endpoint::Silent(_) if !named => Verdict::Wait(format!(
            "Cluster.controlPlaneEndpoint {url} is not this machine, so it does not make a cluster; give it `role: Worker`, or, if it is the one and only \
             control-plane machine behind that endpoint, name one of its own addresses in Cluster.apiServerCertSANs"
        )),
        Endpoint::Silent(time) if time < SILENCE => Verdict::Wait(format!(
            "asking at {url} whether there is a cluster already; without an answer this machine makes one {} s after it began to ask",
            SILENCE.as_secs()
        )),
        Endpoint::Silent(_) => Verdict::Go,
    }
}

/// Returns once this machine may be a control plane; until then its condition says why not.
///
/// # Errors
/// When the cluster's CA is unusable, or PID 1 does not take the condition.
pub async fn pass(layout: &Layout, input: &Input) -> Result<()> {
    let url = &input.cluster.control_plane_endpoint;
    let (mut silent_since, mut said) = (Instant::now(), String::new());
    loop {
        let has_data = layout.at(machine::paths::ETCD_DATA).join("member").exists();
        let endpoint = if has_data || is_here(input).await {
            Endpoint::Here
        } else if answers(input).await? {
            silent_since = Instant::now();
            Endpoint::Answers
        } else {
            Endpoint::Silent(silent_since.elapsed())
        };
        match decide(has_data, input.named_in_sans, endpoint, url) {
            Verdict::Go => return if said.is_empty() { Ok(()) } else { tell(true, "").await },
            Verdict::Wait(reason) if reason != said => {
                tracing::warn!(reason, "this machine makes no cluster");
                tell(false, &reason).await?;
                said = reason;
            }
            Verdict::Wait(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn tell(ok: bool, message: &str) -> Result<()> {
    machine_socket::report(CONDITION, ok, if ok { "MayServe" } else { "NoMember" }, message).await
}

/// Whether the endpoint's host is this machine: by its address, its name, or what its name resolves to.
async fn is_here(input: &Input) -> bool {
    if input.endpoint_is_here {
        return true;
    }
    let Some((host, port)) = endpoint_host_port(&input.cluster.control_plane_endpoint) else { return false };
    let found = timeout(ANSWER, tokio::net::lookup_host((host, port))).await;
    let Ok(Ok(mut addresses)) = found else { return false };
    addresses.any(|address| address.ip() == input.address)
}

/// Whether a server with a certificate of the cluster's CA answers at the endpoint, whatever it says.
async fn answers(input: &Input) -> Result<bool> {
    let url = input.cluster.control_plane_endpoint.parse().context("read Cluster.controlPlaneEndpoint")?;
    let mut config = Config::new(url);
    config.root_cert = Some(authorities(&input.cluster.ca.certificate)?);
    config.connect_timeout = Some(ANSWER);
    let client = Client::try_from(config).context("make a client of the cluster's endpoint")?;
    let request = http::Request::get("/version").body(Vec::new())?;
    let answer = timeout(ANSWER, client.request_text(request)).await;
    Ok(matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_)))))
}

/// The certificates of a PEM text.
fn authorities(pem: &str) -> Result<Vec<Vec<u8>>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.map(|block| block.contents).context("read Cluster.ca.certificate"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://10.5.0.10:6443";

    fn waits(verdict: &Verdict, word: &str) -> bool {
        matches!(verdict, Verdict::Wait(reason) if reason.contains(word))
    }

    #[test]
    fn a_second_control_plane_machine_makes_no_cluster() {
        let long = Endpoint::Silent(Duration::from_secs(3600));
        assert!(waits(&decide(false, false, long, URL), "role: Worker"), "the first one may be off just now");
        for named in [false, true] {
            assert!(waits(&decide(false, named, Endpoint::Answers, URL), "already"));
        }
    }

    #[test]
    fn the_machine_of_the_endpoint_makes_it_and_keeps_it() {
        assert_eq!(decide(false, false, Endpoint::Here, URL), Verdict::Go);
        assert_eq!(decide(true, false, Endpoint::Answers, URL), Verdict::Go, "its own, through a balancer");
    }

    #[test]
    fn behind_a_balancer_a_named_machine_makes_it_when_nobody_answers() {
        assert!(waits(&decide(false, true, Endpoint::Silent(Duration::ZERO), URL), "asking"));
        assert_eq!(decide(false, true, Endpoint::Silent(SILENCE), URL), Verdict::Go);
    }
}
