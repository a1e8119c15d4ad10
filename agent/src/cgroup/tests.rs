use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

fn node() -> NodeFacts {
    NodeFacts {
        memory_capacity: 4_000_000_000,
        huge_page_sizes: vec![2 << 20],
        swap_controller: true,
        pod_pids_limit: -1,
    }
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "a", "uid": "1-2"}, "spec": spec})).unwrap()
}

#[test]
fn quantities_round_away_from_zero() {
    let parse = |text| Amount::parse(text).unwrap();
    assert_eq!(parse("100m").milli_value(), 100);
    assert_eq!(parse("0.1").milli_value(), 100);
    assert_eq!(parse("1500u").milli_value(), 2);
    assert_eq!(parse("1n").milli_value(), 1);
    assert_eq!(parse("1.5Gi").value(), 1_610_612_736);
    assert_eq!(parse("1e3").value(), 1000);
    assert_eq!(parse("12E").value(), i64::MAX);
    assert_eq!(parse("-1500m").value(), -2);
    assert_eq!(parse("1E").value(), 1_000_000_000_000_000_000);
    assert_eq!(parse(".5").milli_value(), 500);
    assert_eq!(parse("1Ki").to_string(), "1024");
    for bad in ["", "1.2.3", "m", "1Kb", "ä", "1e", "--1", "0x10"] {
        assert!(Amount::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn cpu_numbers_are_the_kubelets() {
    assert_eq!([0, 1, 2, 100, 1000, 300_000].map(milli_cpu_to_shares), [2, 2, 2, 102, 1024, 262_144]);
    assert_eq!([0, 1, 10, 15, 1000].map(milli_cpu_to_quota), [0, 1000, 1000, 1500, 100_000]);
    assert_eq!([2, 1024, 512, 102, 262_144].map(cpu_weight), [1, 39, 20, 4, 10_000]);
    assert_eq!(shares_to_milli_cpu(102), 100);
}

#[test]
fn requests_follow_init_containers_sidecars_and_overhead() {
    let cpu = |value: &str| json!({"requests": {"cpu": value}});
    let pod = pod(json!({
        "overhead": {"cpu": "10m"},
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": cpu("100m")},
            {"name": "init", "resources": cpu("450m")},
        ],
        "containers": [{"name": "a", "resources": cpu("200m")}, {"name": "b", "resources": cpu("150m")}],
    }));
    // The init step runs beside the sidecar: 550m, more than 450m of the running pod.
    assert_eq!(pod_requests(&pod)["cpu"].milli_value(), 560);
}

#[test]
fn classes_and_cgroup_names() {
    let same =
        json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1024Mi"}});
    let guaranteed = pod(json!({"containers": [{"name": "a", "resources": same}]}));
    assert_eq!(cgroup_parent(&guaranteed), "/kubepods/pod1-2");
    let mixed = pod(json!({"containers": [{"name": "a", "resources": same}, {"name": "b"}]}));
    assert_eq!(cgroup_parent(&mixed), "/kubepods/burstable/pod1-2");
    let none = pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(cgroup_parent(&none), "/kubepods/besteffort/pod1-2");
    let pod_level = pod(json!({"resources": same, "containers": [{"name": "a"}]}));
    assert_eq!(qos_class(&pod_level), QosClass::Guaranteed);
    let only_cpu = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}});
    assert_eq!(
        qos_class(&pod(json!({"containers": [{"name": "a", "resources": only_cpu}]}))),
        QosClass::Burstable
    );
}

#[test]
fn pod_limits_need_a_limit_on_every_container() {
    let limited =
        json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let all = pod(json!({"containers": [{"name": "a", "resources": limited}]}));
    let files = pod_config(&all, &node()).files();
    let value = |name: &str| files.iter().find(|file| file.0 == name).map(|file| file.1.as_str());
    assert_eq!(value("cpu.weight"), Some("10"));
    assert_eq!(value("cpu.max"), Some("50000 100000"));
    assert_eq!(value("memory.max"), Some("67108864"));
    assert_eq!(value("hugetlb.2MB.max"), Some("0"));
    assert_eq!(value("pids.max"), None);
    let some = pod(json!({"containers": [{"name": "a", "resources": limited}, {"name": "b"}]}));
    let config = pod_config(&some, &NodeFacts { pod_pids_limit: 100, ..node() });
    assert_eq!((config.cpu_quota, config.memory_max, config.pids_max), (None, None, Some(100)));
}

#[test]
fn a_container_says_what_the_kubelet_says() {
    let limited = json!({"limits": {"memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "40000000"}});
    let pod = pod(json!({"containers": [{"name": "a", "resources": limited}]}));
    let resources = container_resources(&pod, &pod.spec.as_ref().unwrap().containers[0], &node());
    assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (102, 0, 100_000));
    assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    assert_eq!(resources.oom_score_adj, 990);
    assert_eq!(resources.unified["memory.oom.group"], "1");
    assert_eq!(resources.unified["memory.swap.max"], "0");
    assert_eq!(resources.hugepage_limits[0].page_size, "2MB");
}

#[test]
fn oom_scores_stay_between_guaranteed_and_best_effort() {
    let of = |spec: serde_json::Value| {
        let pod = pod(spec);
        oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], 4_000_000_000)
    };
    assert_eq!(of(json!({"containers": [{"name": "a"}]})), 1000);
    let tiny = json!({"requests": {"memory": "1"}});
    assert_eq!(of(json!({"containers": [{"name": "a", "resources": tiny}]})), 999);
    let all = json!({"requests": {"memory": "4G"}});
    assert_eq!(of(json!({"containers": [{"name": "a", "resources": all}]})), 3);
    assert_eq!(of(json!({"priority": 2_000_001_000, "containers": [{"name": "a"}]})), -997);
}

#[test]
fn the_burstable_tier_is_as_heavy_as_its_pods() {
    let burstable = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}}}]}));
    let best_effort = pod(json!({"containers": [{"name": "a"}]}));
    let config = burstable_tier([&burstable, &best_effort, &burstable], &node());
    assert_eq!(config.cpu_shares, Some(614));
    assert_eq!(config.huge_pages[&(2 << 20)], 1 << 62);
}
