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

/// An offset that a clock comes to by itself is small; a larger one needs more than one server's word, as whoever is on the way to it can say anything.
const LARGE: i64 = 1000 * 1_000_000_000;
/// How far two servers' offsets may be apart and still be the same time.
const AGREE: i64 = 10 * 1_000_000_000;
/// Rounds in a row that a server which nobody contradicts has to say the same large offset.
const INSISTS: u32 = 3;

/// Reports offsets until it is aborted.
pub async fn run(servers: Vec<String>, reports: mpsc::Sender<Report>) {
    let mut answers = 0_u32;
    let mut failures = 0_u32;
    let mut doubted: Option<(i64, u32)> = None;
    loop {
        let heard = ask(&servers).await;
        let rounds = doubted.map_or(0, |(offset, rounds)| if repeats(&heard, offset) { rounds } else { 0 });
        let pause = match believed(&heard, answers == 0, rounds + 1) {
            Some(clock) => {
                (failures, doubted) = (0, None);
                answers = answers.saturating_add(1);
                if reports.send(Report::Clock(clock.clone())).await.is_err() {
                    return;
                }
                if answers < 3 { EARLY } else { LATE }
            }
            None => {
                if let Some(clock) = heard.first() {
                    doubted = Some((clock.offset, rounds + 1));
                    tracing::warn!(
                        server = clock.server,
                        seconds = clock.offset / 1_000_000_000,
                        "a time server says that the clock is far off, and no other agrees; it is not believed yet"
                    );
                }
                failures = failures.saturating_add(1);
                if failures == 3 && heard.is_empty() {
                    tracing::warn!(?servers, "no time server answers");
                }
                AGAIN.saturating_mul(1 << failures.min(5)).min(EARLY)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whose word is taken: that of the first whose offset is small, or else that of two who agree. At the machine's first round, when nothing has set its clock, and
/// once it has insisted, that of the only one who answers.
fn believed(heard: &[Clock], first: bool, rounds: u32) -> Option<&Clock> {
    if let Some(near) = heard.iter().find(|clock| clock.offset.saturating_abs() <= LARGE) {
        return Some(near);
    }
    let agrees = |one: &Clock, other: &Clock| one.offset.abs_diff(other.offset) <= AGREE.unsigned_abs();
    let seconded = heard
        .iter()
        .enumerate()
        .find(|(index, one)| heard[index + 1..].iter().any(|other| agrees(one, other)));
    match (seconded, heard) {
        (Some((_, clock)), _) => Some(clock),
        (None, [alone]) if first || rounds >= INSISTS => Some(alone),
        _ => None,
    }
}

/// Whether the first who answered says what was doubted before. The clock has run on meanwhile, and the offset with it not.
fn repeats(heard: &[Clock], doubted: i64) -> bool {
    heard.first().is_some_and(|clock| clock.offset.abs_diff(doubted) <= AGREE.unsigned_abs())
}

/// Asks one server after the other, until one says that the clock is about right, or all have been asked.
async fn ask(servers: &[String]) -> Vec<Clock> {
    let mut heard: Vec<Clock> = Vec::new();
    for server in servers {
        match tokio::time::timeout(TIMEOUT * 2, query(server)).await {
            Ok(Ok(offset)) => {
                heard.push(Clock { offset, server: server.clone() });
                if believed(&heard, false, 0).is_some() {
                    break;
                }
            }
            Ok(Err(error)) => tracing::debug!(server, error, "SNTP"),
            Err(_) => tracing::debug!(server, "SNTP: no answer"),
        }
    }
    heard
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

    #[test]
    fn a_clock_is_moved_far_on_more_than_one_servers_word_only() {
        const SECOND: i64 = 1_000_000_000;
        let says = |seconds: &[i64]| -> Vec<Clock> {
            let clock = |(index, seconds): (usize, &i64)| Clock {
                offset: seconds * SECOND,
                server: index.to_string(),
            };
            seconds.iter().enumerate().map(clock).collect()
        };
        let year = 365 * 86_400;
        let who = |seconds: &[i64], first, rounds| {
            believed(&says(seconds), first, rounds).map(|clock| clock.server.clone())
        };
        assert_eq!(who(&[], true, 9), None);
        assert_eq!(who(&[3], false, 1).as_deref(), Some("0"));
        assert_eq!(who(&[year], false, 1), None, "somebody on the way to one server");
        assert_eq!(who(&[year, -2], false, 1).as_deref(), Some("1"));
        assert_eq!(who(&[year, year + 1], false, 1).as_deref(), Some("0"));
        assert_eq!(who(&[year, -year, year], false, 1).as_deref(), Some("0"));
        assert_eq!(who(&[year, -year], true, 9), None, "they contradict each other");
        assert_eq!(who(&[year], true, 1).as_deref(), Some("0"), "a machine without a clock");
        assert_eq!(who(&[year], false, INSISTS).as_deref(), Some("0"));
        assert!(repeats(&says(&[year]), (year - 5) * SECOND) && !repeats(&says(&[year]), 0));
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
