//! What the machine has, and what of it pods may use. Exact integer arithmetic.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use machine::config::NodeAgent;

use crate::cgroup::{Amount, Amounts, NodeFacts};

/// What is read of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    pub cpus: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of the file system that holds /var/lib/kubelet.
    pub storage: i64,
    pub huge_page_sizes: Vec<u64>,
    /// Reserved huge pages by size, in bytes.
    pub huge_pages: BTreeMap<u64, i64>,
}

impl Hardware {
    /// Reads it.
    #[must_use]
    pub fn read(facts: &NodeFacts) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let storage = nix::sys::statvfs::statvfs(machine::paths::STATE)
            .map_or(0, |s| i64::try_from(s.blocks().saturating_mul(s.fragment_size())).unwrap_or(i64::MAX));
        let pages = |size: &u64| {
            let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", size / 1024);
            let count =
                std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<i64>().ok()).unwrap_or(0);
            (*size, count.saturating_mul(i64::try_from(*size).unwrap_or(0)))
        };
        Self {
            cpus,
            memory: facts.memory_capacity,
            storage,
            huge_pages: facts.huge_page_sizes.iter().map(pages).collect(),
            huge_page_sizes: facts.huge_page_sizes.clone(),
        }
    }
}

/// Capacity, allocatable, and the limit of `/kubepods` (allocatable without the eviction threshold).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub capacity: Amounts,
    pub allocatable: Amounts,
    pub kubepods: Amounts,
}

/// Computes them.
#[must_use]
pub fn resources(hardware: &Hardware, agent: &NodeAgent) -> Resources {
    let mut capacity: Amounts = [
        ("cpu".to_owned(), Amount::units(hardware.cpus)),
        ("memory".to_owned(), Amount::units(hardware.memory)),
        ("ephemeral-storage".to_owned(), Amount::units(hardware.storage)),
        ("pods".to_owned(), Amount::units(agent.max_pods.into())),
    ]
    .into();
    for (size, bytes) in &hardware.huge_pages {
        capacity.insert(format!("hugepages-{}", binary(*size)), Amount::units(*bytes));
    }
    let reserved = |name: &str| -> i64 {
        [&agent.kube_reserved, &agent.system_reserved]
            .into_iter()
            .filter_map(|map| Amount::parse(map.get(name)?).ok())
            .map(|amount| if name == "cpu" { amount.milli_value() } else { amount.value() })
            .sum()
    };
    let mut kubepods = Amounts::new();
    let mut allocatable = Amounts::new();
    let huge: i64 = hardware.huge_pages.values().sum();
    for (name, amount) in &capacity {
        if name == "cpu" {
            let left = Amount::milli((amount.milli_value() - reserved(name)).max(0));
            kubepods.insert(name.clone(), left);
            allocatable.insert(name.clone(), left);
            continue;
        }
        let without = (amount.value() - reserved(name)).max(0);
        kubepods.insert(name.clone(), Amount::units(without));
        let threshold = match name.as_str() {
            "memory" => threshold(agent, "memory.available", amount.value()) + huge,
            "ephemeral-storage" => threshold(agent, "nodefs.available", amount.value()),
            _ => 0,
        };
        allocatable.insert(name.clone(), Amount::units((without - threshold).max(0)));
    }
    kubepods.remove("pods");
    kubepods.remove("ephemeral-storage");
    Resources { capacity, allocatable, kubepods }
}

fn threshold(agent: &NodeAgent, signal: &str, capacity: i64) -> i64 {
    let Some(text) = agent.eviction_hard.get(signal) else { return 0 };
    match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) => (capacity as f64 * percent / 100.0) as i64,
        Some(Err(_)) => 0,
        None => Amount::parse(text).map_or(0, Amount::value),
    }
}

/// A power-of-two size as quantities write it: `2Mi`, `1Gi`.
fn binary(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fits = units.into_iter().find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// As the kubelet writes them in the Node.
#[must_use]
pub fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let text = |name: &str, amount: Amount| match name {
        "cpu" if amount.milli_value() % 1000 == 0 => (amount.milli_value() / 1000).to_string(),
        "cpu" => format!("{}m", amount.milli_value()),
        "memory" | "ephemeral-storage" if amount.value() % 1024 == 0 => {
            format!("{}Ki", amount.value() / 1024)
        }
        name if name.starts_with("hugepages-") && amount.value() > 0 => binary(amount.value().unsigned_abs()),
        _ => amount.value().to_string(),
    };
    amounts.iter().map(|(name, amount)| (name.clone(), Quantity(text(name, *amount)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_is_capacity_less_reservations_and_threshold() {
        let hardware = Hardware { cpus: 4, memory: 1000 << 20, storage: 1000 << 20, ..Default::default() };
        let mut agent = NodeAgent::default();
        agent.kube_reserved.insert("cpu".into(), "80m".into());
        agent.system_reserved.insert("memory".into(), "50Mi".into());
        let r = resources(&hardware, &agent);
        let text = |amounts: &Amounts, name: &str| quantities(amounts)[name].0.clone();
        assert_eq!(text(&r.capacity, "cpu"), "4");
        assert_eq!(text(&r.allocatable, "cpu"), "3920m");
        assert_eq!(text(&r.allocatable, "memory"), format!("{}Ki", (1000 - 150) << 10));
        assert_eq!(text(&r.kubepods, "memory"), format!("{}Ki", (1000 - 50) << 10));
        assert_eq!(text(&r.allocatable, "ephemeral-storage"), format!("{}Ki", 900 << 10));
        assert_eq!(text(&r.allocatable, "pods"), "110");
    }
}
