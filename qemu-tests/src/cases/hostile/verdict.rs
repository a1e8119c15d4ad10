//! Whether a node stood its hostile pods.
use std::collections::BTreeMap;
use std::time::Duration;

use super::measure::Figures;

/// How much longer things may take than beside as many pods that only burn processor time.
const FACTOR: u32 = 2;
/// Below this a median is noise.
const FLOOR: Duration = Duration::from_millis(500);

/// What a node's services are at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// How often each was started again.
    pub restarts: BTreeMap<String, u64>,
    /// Bytes of proportional memory of all.
    pub memory: u64,
}

/// Everything that is not as it must be.
pub fn faults(calm: &Figures, under: &Figures, before: &Services, after: &Services) -> Vec<String> {
    let mut faults = under.failures.clone();
    for (what, calm, under) in [
        ("start", &calm.start, &under.start),
        ("exec", &calm.exec, &under.exec),
        ("deletion", &calm.delete, &under.delete),
    ] {
        let (calm, under) = (median(calm), median(under));
        if under > calm.max(FLOOR) * FACTOR {
            faults.push(format!("a bystander's {what} took {under:.1?}, beside burners {calm:.1?}"));
        }
    }
    for (service, count) in &after.restarts {
        if before.restarts.get(service) != Some(count) {
            faults.push(format!("{service} was started again"));
        }
    }
    if after.memory > before.memory * 2 {
        faults.push(format!("the services' memory went from {} to {} bytes", before.memory, after.memory));
    }
    faults
}

/// The middle of them; nothing at all takes no time.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(milliseconds: u64) -> Figures {
        let times = vec![Duration::from_millis(milliseconds); 3];
        Figures { start: times.clone(), exec: times.clone(), delete: times, failures: Vec::new() }
    }

    fn services(restarts: u64, memory: u64) -> Services {
        Services { restarts: [("runtime".to_owned(), restarts)].into(), memory }
    }

    #[test]
    fn twice_is_the_most() {
        let calm = services(0, 100);
        assert!(faults(&figures(1000), &figures(2000), &calm, &calm).is_empty());
        assert_eq!(faults(&figures(1000), &figures(2100), &calm, &calm).len(), 3);
        assert!(faults(&figures(10), &figures(900), &calm, &calm).is_empty(), "noise");
    }

    #[test]
    fn a_restart_or_memory_without_end_is_a_fault() {
        let same = figures(1000);
        assert_eq!(faults(&same, &same, &services(0, 100), &services(1, 100)), ["runtime was started again"]);
        assert_eq!(faults(&same, &same, &services(0, 100), &services(0, 201)).len(), 1);
        let failed = Figures { failures: vec!["no start".into()], ..same.clone() };
        assert_eq!(faults(&same, &failed, &services(0, 1), &services(0, 1)), ["no start"]);
    }
}
