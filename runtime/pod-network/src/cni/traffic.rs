//! What went over a pod's `eth0`, counted inside its namespace: which link of the node leads there, if any, is the plugins' affair.
use std::path::Path;

use super::INTERFACE;
use crate::Traffic;

/// Enters the namespace pinned at `netns` for as long as it takes to read one file.
pub async fn traffic(netns: &Path) -> Option<Traffic> {
    let netns = netns.to_owned();
    let read = move || sys::netns::run_in(&netns, || std::fs::read_to_string("/proc/thread-self/net/dev"));
    let text = tokio::task::spawn_blocking(read).await.ok()?.ok()?;
    parse(&text, INTERFACE)
}

/// From proc_net_dev(5): bytes, packets, errors and five more received, and then the same sent.
fn parse(text: &str, interface: &str) -> Option<Traffic> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
    let mut nth = |index| numbers.nth(index)?;
    Some(Traffic { received: nth(0)?, receive_errors: nth(1)?, sent: nth(5)?, send_errors: nth(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       2    3    4    5     6          7         8        9      10   11   12   13    14      15         16
  eth0:  100002      20    3    0    0     0          0         0  5000000000   30    4    0    0     0       0          0
";

    #[test]
    fn the_columns_are_the_kernels() {
        let traffic = Traffic { received: 100_002, receive_errors: 3, sent: 5_000_000_000, send_errors: 4 };
        assert_eq!(parse(TEXT, "eth0"), Some(traffic));
        assert_eq!(parse(TEXT, "eth"), None);
        assert_eq!(parse("eth0: 1 2 3", "eth0"), None);
    }

    proptest! {
        #[test]
        fn text_never_panics(text in "(?s).{0,200}") {
            let _ = parse(&text, "eth0");
        }
    }
}
