use super::*;
use crate::testing::input;

fn rendered(input: &Input) -> Vec<(&'static str, Value)> {
    let members = InitialCluster::single(&input.node_name, &etcd_peer_url(input));
    render(input, &members, |name| format!("stamp-{name}"))
        .unwrap()
        .into_iter()
        .map(|(name, text)| (name, serde_yaml_ng::from_str(&text).unwrap()))
        .collect()
}

fn command(pod: &Value) -> Vec<&str> {
    let list = pod["spec"]["containers"][0]["command"].as_array().unwrap();
    list.iter().map(|v| v.as_str().unwrap()).collect()
}

#[test]
fn there_are_four_critical_host_network_pods() {
    let input = input();
    let pods = rendered(&input);
    let names: Vec<_> = pods.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]);
    for (name, pod) in &pods {
        assert_eq!(pod["spec"]["hostNetwork"], true);
        assert_eq!(pod["spec"]["priorityClassName"], "system-node-critical");
        assert_eq!(pod["spec"]["containers"][0]["image"], machine::paths::KUBERNETES_IMAGE);
        assert_eq!(command(pod)[0], format!("/usr/local/bin/{name}"));
        assert!(pod["spec"]["containers"][0]["startupProbe"]["httpGet"]["port"].is_u64());
    }
}

#[test]
fn etcd_and_the_api_server_meet_on_loopback() {
    let pods = rendered(&input());
    let (etcd, api) = (command(&pods[0].1), command(&pods[1].1));
    assert!(etcd.contains(&"--listen-client-urls=https://127.0.0.1:2379,https://10.5.0.10:2379"));
    assert!(etcd.contains(&"--initial-cluster=cp1=https://10.5.0.10:2380"));
    assert!(api.contains(&"--etcd-servers=https://127.0.0.1:2379"));
    assert!(api.contains(&"--advertise-address=10.5.0.10"));
    assert!(api.contains(&"--service-account-issuer=https://kubernetes.default.svc.cluster.local"));
    assert!(api.contains(&"--authorization-mode=Node,RBAC"));
}

#[test]
fn an_ipv6_node_uses_ipv6_loopback() {
    let input = Input { address: "fd00::10".parse().unwrap(), ..input() };
    let pods = rendered(&input);
    assert!(command(&pods[0].1).contains(&"--listen-client-urls=https://[::1]:2379,https://[fd00::10]:2379"));
    assert!(command(&pods[3].1).contains(&"--bind-address=::1"));
}

#[test]
fn a_component_may_have_its_own_image_and_flags() {
    let mut input = input();
    input.cluster.scheduler = Component {
        image: Some("registry.example/kube-scheduler:v1.37.2".into()),
        extra_args: [("v".into(), "4".into()), ("leader-elect".into(), "true".into())].into(),
        ..Component::default()
    };
    let pods = rendered(&input);
    let (_, scheduler) = &pods[3];
    assert_eq!(scheduler["spec"]["containers"][0]["image"], "registry.example/kube-scheduler:v1.37.2");
    assert!(command(scheduler).contains(&"--leader-elect=true"));
    assert!(command(scheduler).contains(&"--v=4"));
}

#[test]
fn leaders_are_elected_where_there_is_more_than_one_candidate() {
    let input = input();
    let mut members = InitialCluster::single("cp1", "https://10.5.0.10:2380");
    for wanted in ["--leader-elect=false", "--leader-elect=true"] {
        let pods = render(&input, &members, |_| String::new()).unwrap();
        for (name, text) in &pods[2..] {
            let pod: Value = serde_yaml_ng::from_str(text).unwrap();
            assert!(command(&pod).contains(&wanted), "{name}");
        }
        members.members.push(("cp2".into(), "https://10.5.0.11:2380".into()));
    }
}

#[test]
fn a_renewed_kubeconfig_changes_the_pod_that_reads_it_once() {
    let pods = rendered(&input());
    assert_eq!(pods[2].1["metadata"]["annotations"]["pintle.dev/kubeconfig"], "stamp-controller-manager");
    assert_eq!(pods[3].1["metadata"]["annotations"]["pintle.dev/kubeconfig"], "stamp-scheduler");
}

#[test]
fn requests_leave_room_on_a_node_of_one_gibibyte() {
    let total: u64 = rendered(&input())
        .iter()
        .map(|(_, pod)| {
            let memory = &pod["spec"]["containers"][0]["resources"]["requests"]["memory"];
            memory.as_str().unwrap().trim_end_matches("Mi").parse::<u64>().unwrap()
        })
        .sum();
    assert!(total <= 450, "{total} MiB");
}

#[test]
fn nothing_but_etcd_writes_to_the_host() {
    for (name, pod) in rendered(&input()) {
        for mount in pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap() {
            let writable = mount["readOnly"] == false;
            assert_eq!(writable, name == "etcd" && mount["mountPath"] == "/var/lib/etcd");
        }
    }
}

/// A certificate that is valid for the API server's clients can only come from the cluster's CA, and kubelets' do not.
#[test]
fn kubelets_serve_with_certificates_of_an_authority_of_their_own() {
    let pods = rendered(&input());
    let (api, manager) = (command(&pods[1].1), command(&pods[2].1));
    assert!(api.contains(&"--kubelet-certificate-authority=/etc/kubernetes/pki/kubelet-ca-bundle.crt"));
    let signs = "--cluster-signing-kubelet-serving-cert-file=/etc/kubernetes/pki/kubelet-serving-ca.crt";
    assert!(manager.contains(&signs));
    assert!(manager.contains(&"--cluster-signing-kubelet-client-cert-file=/etc/kubernetes/pki/ca.crt"));
    assert!(
        !manager.iter().any(|flag| flag.starts_with("--cluster-signing-cert-file")),
        "it excludes the others"
    );
}
