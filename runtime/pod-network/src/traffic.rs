//! What went over a pod's link, as the kernel counts it at the node's end: what the node's end sends, the pod receives.
use std::path::Path;

/// Since the pod was connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub received: u64,
    pub receive_errors: u64,
    /// Bytes.
    pub sent: u64,
    pub send_errors: u64,
}

/// Reads the counters below `links` (`/sys/class/net`); none when there is no such link.
pub fn read(links: &Path, host: &str) -> Option<Traffic> {
    let folder = links.join(host).join("statistics");
    let counter = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some(Traffic {
        received: counter("tx_bytes")?,
        receive_errors: counter("tx_errors")?,
        sent: counter("rx_bytes")?,
        send_errors: counter("rx_errors")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_view_is_the_other_way_round() {
        let links = tempfile::tempdir().unwrap();
        let folder = links.path().join("pod1/statistics");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, value) in
            [("tx_bytes", "10\n"), ("tx_errors", "1\n"), ("rx_bytes", "20\n"), ("rx_errors", "2\n")]
        {
            std::fs::write(folder.join(name), value).unwrap();
        }
        let traffic = Traffic { received: 10, receive_errors: 1, sent: 20, send_errors: 2 };
        assert_eq!(read(links.path(), "pod1"), Some(traffic));
        assert_eq!(read(links.path(), "pod2"), None);
    }
}
