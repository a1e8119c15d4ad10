//! Asks time servers how far the clock is off (SNTP, RFC 5905).
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use rsntp::{AsyncSntpClient, Config};
use tokio::sync::mpsc;

use machine::net::{Clock, Report};

/// Pause after an answer: short until the clock has been set once and checked, then long.
const EARLY: Duration = Duration::from_secs(64);
const LATE: Duration = Duration::from_secs(1024);
/// Pause after a round in which no server answered; doubles up to [`EARLY`].
const AGAIN: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(3);

/// Reports offsets until it is aborted. The first server that answers is believed.
pub async fn run(servers: Vec<String>, reports: mpsc::Sender<Report>) {
    let mut answers = 0_u32;
    let mut failures = 0_u32;
    loop {
        let pause = match ask(&servers).await {
            Some(clock) => {
                failures = 0;
                answers = answers.saturating_add(1);
                if reports.send(Report::Clock(clock)).await.is_err() {
                    return;
                }
                if answers < 3 { EARLY } else { LATE }
            }
            None => {
                failures = failures.saturating_add(1);
                if failures == 3 {
                    tracing::warn!(?servers, "no time server answers");
                }
                AGAIN.saturating_mul(1 << failures.min(5)).min(EARLY)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn ask(servers: &[String]) -> Option<Clock> {
    for server in servers {
        match tokio::time::timeout(TIMEOUT * 2, query(server)).await {
            Ok(Ok(offset)) => return Some(Clock { offset, server: server.clone() }),
            Ok(Err(error)) => tracing::debug!(server, error, "SNTP"),
            Err(_) => tracing::debug!(server, "SNTP: no answer"),
        }
    }
    None
}

async fn query(server: &str) -> Result<i64, String> {
    let mut addresses = tokio::net::lookup_host((server, 123)).await.map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or("no address")?;
    let mut config = Config::default().timeout(TIMEOUT);
    if address.is_ipv6() {
        config = config.bind_address(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    }
    let result =
        AsyncSntpClient::with_config(config).synchronize(address).await.map_err(|error| error.to_string())?;
    nanoseconds(result.clock_offset().as_secs_f64()).ok_or_else(|| "an offset beyond reason".into())
}

/// Nanoseconds of an offset; none beyond a century, which no clock is off by.
fn nanoseconds(seconds: f64) -> Option<i64> {
    (seconds.abs() < 3.2e9).then_some((seconds * 1e9) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_beyond_reason_are_refused() {
        assert_eq!(nanoseconds(-0.25), Some(-250_000_000));
        assert_eq!(nanoseconds(f64::NAN), None);
        assert_eq!(nanoseconds(1e12), None);
    }

    /// A server on loopback whose clock is an hour ahead.
    #[tokio::test]
    async fn a_server_that_is_ahead_tells_so() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = async move {
            let mut packet = [0; 48];
            let (_, from) = socket.recv_from(&mut packet).await.unwrap();
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let ntp = ((now.as_secs() + 2_208_988_800 + 3600) << 32).to_be_bytes();
            let mut answer = [0_u8; 48];
            (answer[0], answer[1]) = (0x24, 1);
            answer[24..32].copy_from_slice(&packet[40..48]);
            for at in [16, 32, 40] {
                answer[at..at + 8].copy_from_slice(&ntp);
            }
            socket.send_to(&answer, from).await.unwrap();
        };
        let client = AsyncSntpClient::with_config(Config::default().timeout(TIMEOUT));
        let (result, ()) = tokio::join!(client.synchronize(address), server);
        let offset = nanoseconds(result.unwrap().clock_offset().as_secs_f64()).unwrap();
        assert!((offset - 3_600_000_000_000).abs() < 2_000_000_000, "{offset}");
    }
}
