use machine::config::Manifest;

use super::*;
use crate::testing::input;

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
}

fn all(input: &Input) -> Vec<Value> {
    objects(input, Observed { several_nodes: false }, "PEM").unwrap()
}

#[test]
fn the_token_lets_nodes_ask_for_certificates() {
    let objects = all(&input());
    let secret = find(&objects, "Secret", "bootstrap-token-abcdef").unwrap();
    assert_eq!(secret["type"], "bootstrap.kubernetes.io/token");
    assert_eq!(secret["stringData"]["token-secret"], "0123456789abcdef");
    let group = &secret["stringData"]["auth-extra-groups"];
    for name in ["pintle:kubelet-bootstrap", "pintle:node-autoapprove-bootstrap"] {
        assert_eq!(&find(&objects, "ClusterRoleBinding", name).unwrap()["subjects"][0]["name"], group);
    }
}

#[test]
fn dns_answers_at_the_tenth_service_address_twice_where_there_are_nodes_for_it() {
    let input = input();
    let objects = all(&input);
    assert_eq!(find(&objects, "Service", "kube-dns").unwrap()["spec"]["clusterIP"], "10.96.0.10");
    let replicas =
        |objects: &[Value]| find(objects, "Deployment", "coredns").unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(&objects), 1);
    assert_eq!(replicas(&super::objects(&input, Observed { several_nodes: true }, "PEM").unwrap()), 2);
    let corefile = find(&objects, "ConfigMap", "coredns").unwrap()["data"]["Corefile"].as_str().unwrap();
    assert!(corefile.contains("kubernetes cluster.local in-addr.arpa ip6.arpa {"));
}

#[test]
fn kube_proxy_runs_everywhere_in_nftables_mode() {
    let objects = all(&input());
    let config = &find(&objects, "ConfigMap", "kube-proxy").unwrap()["data"]["config.conf"];
    let config: Value = serde_yaml_ng::from_str(config.as_str().unwrap()).unwrap();
    assert_eq!((&config["mode"], &config["clusterCIDR"]), (&"nftables".into(), &"10.244.0.0/16".into()));
    let pod = &find(&objects, "DaemonSet", "kube-proxy").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["tolerations"][0]["operator"], "Exists");
    assert_eq!(pod["containers"][0]["image"], machine::paths::KUBERNETES_IMAGE);
}

#[test]
fn add_ons_can_be_left_out() {
    let mut input = input();
    input.cluster.proxy.disabled = true;
    input.cluster.dns.disabled = true;
    let objects = all(&input);
    assert!(find(&objects, "DaemonSet", "kube-proxy").is_none());
    assert!(find(&objects, "Service", "kube-dns").is_none());
}

#[test]
fn manifests_of_the_config_are_applied_in_an_order_that_works() {
    let mut input = input();
    input.manifests = vec![Manifest {
        name: "mine".into(),
        content: "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: mine}\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: mine}\n".into(),
    }];
    let objects = all(&input);
    let place = |kind: &str| objects.iter().position(|o| o["kind"] == kind).unwrap();
    assert!(place("Namespace") < place("Pod"));
    for bad in ["kind: [", "apiVersion: v1\nkind: Pod\n"] {
        input.manifests[0].content = bad.into();
        assert!(
            super::objects(&input, Observed { several_nodes: false }, "PEM")
                .unwrap_err()
                .to_string()
                .contains("mine")
        );
    }
}
