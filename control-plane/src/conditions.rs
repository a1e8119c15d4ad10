//! Whether etcd and the API server of this node answer.
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::input::Input;
use crate::pods::ETCD_METRICS_PORT;

const DEADLINE: Duration = Duration::from_secs(5);

/// Asks etcd's health endpoint on loopback.
///
/// # Errors
/// Says what it answered, or that it did not.
pub async fn etcd(input: &Input) -> Result<()> {
    let ask = async {
        let mut stream =
            TcpStream::connect((input.loopback(), ETCD_METRICS_PORT)).await.context("connect")?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = [0_u8; 64];
        let read = stream.read(&mut answer).await?;
        let line = String::from_utf8_lossy(&answer[..read]);
        let line = line.lines().next().unwrap_or_default();
        if !line.contains(" 200 ") {
            bail!("answered {line:?}");
        }
        Ok(())
    };
    timeout(DEADLINE, ask).await.context("no answer within 5 s")?
}

/// Asks the API server whether it is ready.
///
/// # Errors
/// Says what it answered, or that it did not.
pub async fn api_server(client: &Client) -> Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    match timeout(DEADLINE, client.request_text(request)).await.context("no answer within 5 s")? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => bail!("not ready: {}", failed_checks(&status.message)),
        Err(error) => Err(error).context("ask /readyz"),
    }
}

/// The names of the checks that failed, of the report that /readyz gives: lines of `[+]name ok` and `[-]name failed: …`.
fn failed_checks(report: &str) -> String {
    let names = report.lines().filter_map(|line| line.strip_prefix("[-]")?.split(' ').next());
    names.take(20).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_failed_checks_are_named() {
        let report = "[+]ping ok\n[-]etcd-readiness failed: reason withheld\n[-]poststarthook/rbac/bootstrap-roles failed\n";
        assert_eq!(failed_checks(report), "etcd-readiness, poststarthook/rbac/bootstrap-roles");
    }
}
