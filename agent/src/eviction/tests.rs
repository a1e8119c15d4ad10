use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::stats::{PodStats, Use};

fn config(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn thresholds_are_quantities_or_percentages() {
    let all = config(&[("memory.available", "100Mi"), ("nodefs.available", "10%"), ("pid.available", "0%")]);
    let (parsed, wrong) = thresholds(&all);
    assert!(wrong.is_empty());
    assert_eq!(parsed[&Signal::MemoryAvailable].of(0), 100 << 20);
    assert_eq!(parsed[&Signal::NodefsAvailable].of(1000), 100);
    assert!(!parsed.contains_key(&Signal::PidAvailable));
    for (name, value) in [("memory.free", "1"), ("memory.available", "lots"), ("nodefs.available", "120%")] {
        let (good, wrong) = thresholds(&config(&[(name, value), ("imagefs.inodesFree", "5%")]));
        assert_eq!((good.len(), wrong.len()), (1, 1), "{name}={value}: the others hold");
    }
    for name in machine::config::EVICTION_SIGNALS {
        assert!(Signal::parse(name).is_some(), "{name} passes validation and must be understood");
    }
}

#[tokio::test(start_paused = true)]
async fn a_condition_stays_for_five_minutes_after_its_cause() {
    let limits = thresholds(&config(&[("memory.available", "100")])).0;
    let seen = |left| BTreeMap::from([(Signal::MemoryAvailable, Available { left, capacity: 1000 })]);
    let mut decider = Decider::default();
    let (met, pressures) = decider.decide(&limits, &seen(100), Instant::now());
    assert!(met.is_empty() && pressures == Pressures::default());
    let (met, pressures) = decider.decide(&limits, &seen(99), Instant::now());
    assert_eq!((met.as_slice(), pressures.memory), (&[Signal::MemoryAvailable][..], true));
    tokio::time::advance(Duration::from_secs(299)).await;
    let (met, pressures) = decider.decide(&limits, &seen(500), Instant::now());
    assert!(met.is_empty() && pressures.memory);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!decider.decide(&limits, &seen(500), Instant::now()).1.memory);
}

fn pod(name: &str, priority: i32, request: &str, usage: u64) -> (Pod, PodStats) {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"memory": request}}}]},
    }))
    .unwrap();
    let stats = PodStats {
        name: name.into(),
        namespace: "ns".into(),
        uid: name.into(),
        cgroup: String::new(),
        started: jiff::Timestamp::default(),
        usage: Use { memory_working_set: Some(usage), ..Use::default() },
        network: vec![],
        processes: Some(1),
        containers: vec![],
    };
    (pod, stats)
}

#[test]
fn pods_above_their_request_go_first_then_by_priority_then_by_excess() {
    let pods = [
        pod("within", 0, "1000", 900),
        pod("over-important", 100, "100", 900),
        pod("over-little", 0, "100", 200),
        pod("over-much", 0, "100", 500),
        pod("critical", 2_000_000_000, "0", 9000),
    ];
    let order = rank(Signal::MemoryAvailable, pods.iter().map(|(pod, stats)| (pod, stats)), &HashMap::new());
    let names: Vec<_> = order.iter().map(|candidate| candidate.name.as_str()).collect();
    assert_eq!(names, ["over-much", "over-little", "over-important", "within"]);
}

#[test]
fn logs_and_volumes_count_when_the_disk_is_short() {
    let pods = [pod("layer", 0, "0", 0), pod("logs", 0, "0", 0)];
    let files = HashMap::from([("logs".to_owned(), (5_u64 << 30, 7_u64))]);
    for signal in [Signal::NodefsAvailable, Signal::ImagefsAvailable, Signal::NodefsInodesFree] {
        let order = rank(signal, pods.iter().map(|(pod, stats)| (pod, stats)), &files);
        assert_eq!(order[0].name, "logs", "{signal:?}");
    }
}
