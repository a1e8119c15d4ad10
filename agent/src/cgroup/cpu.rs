//! CPU numbers (pkg/kubelet/cm/helpers_linux.go and cgroup_manager_linux.go).

/// The period that `cpu.max` quotas are measured against, in microseconds.
pub const QUOTA_PERIOD_US: i64 = 100_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// The CFS quota in microseconds per 100 ms; 0 stands for no limit, anything else is at least 1 ms.
#[must_use]
pub fn milli_cpu_to_quota(milli: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(QUOTA_PERIOD_US) / 1000).max(1000)
}

/// CPU shares of so many thousandths of a CPU, between 2 and 262,144.
#[must_use]
pub fn milli_cpu_to_shares(milli: i64) -> u64 {
    let shares = milli.max(0).saturating_mul(1024) / 1000;
    shares.unsigned_abs().clamp(MIN_SHARES, MAX_SHARES)
}

/// Thousandths of a CPU that the shares stand for, rounded up (what pod status shows).
#[must_use]
pub fn shares_to_milli_cpu(shares: u64) -> i64 {
    i64::try_from(shares.saturating_mul(1000).div_ceil(1024)).unwrap_or(i64::MAX)
}

/// The least shares that give this `cpu.weight`.
#[must_use]
pub fn shares_of_weight(weight: u64) -> u64 {
    let (mut low, mut high) = (MIN_SHARES, MAX_SHARES);
    while low < high {
        let middle = low + (high - low) / 2;
        if cpu_weight(middle) < weight { low = middle + 1 } else { high = middle }
    }
    low
}

/// `cpu.weight` of a pod or a QoS class for the shares: 2 to 262,144 drawn out straight to 1 to 10,000 (KEP-2254). The runtime has another curve for its
/// containers, as runc has beside a kubelet.
#[must_use]
pub const fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=MIN_SHARES => 1,
        MAX_SHARES.. => 10_000,
        _ => 1 + (shares - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES),
    }
}
