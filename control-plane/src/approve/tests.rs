use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;
use crate::testing::input;

fn request(common_name: &str, dns: &[&str], addresses: &[&str]) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names.extend(dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(a.parse().unwrap())));
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.into(),
            username: Some("system:node:w1".into()),
            groups: Some(vec!["system:nodes".into(), "system:authenticated".into()]),
            usages: Some(vec!["digital signature".into(), "server auth".into()]),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "w1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "10.5.0.11"},
            {"type": "Hostname", "address": "w1"},
        ]},
    }))
    .unwrap()
}

fn verdict(request: &CertificateSigningRequest, nodes: &[Node]) -> Decision {
    decide(request, nodes, &Reserved::new(&input()))
}

fn refused(request: &CertificateSigningRequest) -> bool {
    matches!(verdict(request, &[node()]), Decision::Refuse(_))
}

#[test]
fn a_node_gets_a_certificate_for_its_own_name_and_addresses() {
    let good = request("system:node:w1", &["w1"], &["10.5.0.11"]);
    assert_eq!(verdict(&good, &[node()]), Decision::Approve);
}

#[test]
fn a_control_plane_node_may_have_the_address_that_the_endpoint_names() {
    let node = |name: &str, labels: serde_json::Value| -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.5.0.10"}]},
        }))
        .unwrap()
    };
    let mut asked = request("system:node:cp1", &["cp1"], &["10.5.0.10"]);
    asked.spec.username = Some("system:node:cp1".into());
    assert_eq!(
        verdict(&asked, &[node("cp1", json!({}))]),
        Decision::Approve,
        "this machine, not labelled yet"
    );
    let asked = request("system:node:w1", &["w1"], &["10.5.0.10"]);
    let labelled = json!({"node-role.kubernetes.io/control-plane": ""});
    assert_eq!(verdict(&asked, &[node("w1", labelled)]), Decision::Approve);
    assert!(matches!(verdict(&asked, &[node("w1", json!({}))]), Decision::Refuse(_)));
}

#[test]
fn an_address_that_two_nodes_claim_is_nobody_s() {
    let other: Node = serde_json::from_value(json!({
        "metadata": {"name": "w2"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.5.0.11"}]},
    }))
    .unwrap();
    let asked = request("system:node:w1", &["w1"], &["10.5.0.11"]);
    assert!(matches!(verdict(&asked, &[node(), other]), Decision::Refuse(reason) if reason.contains("w2")));
}

#[test]
fn a_node_gets_none_for_names_that_are_not_its_own() {
    assert!(refused(&request("system:node:w1", &["w1", "kubernetes.default.svc"], &["10.5.0.11"])));
    assert!(refused(&request("system:node:w1", &["w1"], &["10.5.0.12"])));
    assert!(refused(&request("system:node:w1", &["10.5.0.11"], &[])), "an address is no DNS name");
    assert!(refused(&request("system:node:w2", &["w1"], &["10.5.0.11"])), "another node's subject");
    assert!(refused(&request("system:node:w1", &[], &[])), "no name at all");
}

#[test]
fn groups_and_usages_are_a_kubelets() {
    let good = request("system:node:w1", &["w1"], &[]);
    let mut client = good.clone();
    client.spec.usages = Some(vec!["client auth".into()]);
    assert!(refused(&client));
    let mut stranger = good.clone();
    stranger.spec.groups = Some(vec!["system:authenticated".into()]);
    assert!(refused(&stranger));
    let mut garbage = good;
    garbage.spec.request = ByteString(b"-----BEGIN".to_vec());
    assert!(refused(&garbage));
}

#[test]
fn requests_of_others_or_before_the_node_are_left_alone() {
    let good = request("system:node:w1", &["w1"], &[]);
    assert_eq!(verdict(&good, &[]), Decision::Leave);
    let mut client = good.clone();
    client.spec.signer_name = "kubernetes.io/kube-apiserver-client-kubelet".into();
    assert_eq!(verdict(&client, &[node()]), Decision::Leave);
    let mut person = good;
    person.spec.username = Some("kubernetes-admin".into());
    assert_eq!(verdict(&person, &[node()]), Decision::Leave);
}

/// What a worker does that wants to be taken for somebody else: it claims names and addresses in its own Node's status, which it may write, and asks.
#[test]
fn a_node_gets_none_for_what_it_only_claims() {
    let claims = |kind: &str, address: &str| -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "w1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.5.0.11"}, {"type": kind, "address": address}]},
        }))
        .unwrap()
    };
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "k8s.example",
        "KUBERNETES.default.SVC",
        "api.k8s.example",
        "localhost",
        "cluster.local",
        "*.default.svc",
        "w2",
        "cp1",
        "other.svc",
    ];
    for kind in ["Hostname", "InternalDNS", "ExternalDNS"] {
        for name in names {
            let asked = verdict(&request("system:node:w1", &[name], &["10.5.0.11"]), &[claims(kind, name)]);
            assert!(matches!(asked, Decision::Refuse(_)), "{name}: {asked:?}");
        }
    }
    let addresses = [
        "10.96.0.1",
        "10.96.0.10",
        "10.5.0.10",
        "192.0.2.1",
        "127.0.0.1",
        "10.244.1.7",
        "0.0.0.0",
        "169.254.169.254",
        "::1",
        "::ffff:10.96.0.1",
    ];
    for kind in ["InternalIP", "ExternalIP"] {
        for address in addresses {
            let asked = verdict(&request("system:node:w1", &["w1"], &[address]), &[claims(kind, address)]);
            assert!(matches!(asked, Decision::Refuse(_)), "{address}: {asked:?}");
        }
    }
}

/// A node that is called as the API server is gets no certificate for that name.
#[test]
fn a_node_of_a_reserved_name_gets_none_for_it() {
    for name in ["kubernetes", "kubernetes.default.svc", "localhost", "k8s.example", "n1.cluster.local"] {
        let user = format!("system:node:{name}");
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.5.0.11"}]},
        }))
        .unwrap();
        let mut asked = request(&user, &[name], &["10.5.0.11"]);
        asked.spec.username = Some(user);
        assert!(matches!(verdict(&asked, &[node]), Decision::Refuse(_)), "{name}");
    }
}

/// No other signer's request is approved here, so nobody becomes a client, an administrator or an API server by this way.
#[test]
fn requests_to_other_signers_are_left_to_people() {
    for signer in [
        "kubernetes.io/kube-apiserver-client",
        "kubernetes.io/kube-apiserver-client-kubelet",
        "kubernetes.io/legacy-unknown",
        "example.com/any",
    ] {
        let mut asked = request("system:node:w1", &["w1"], &["10.5.0.11"]);
        asked.spec.signer_name = signer.into();
        assert_eq!(verdict(&asked, &[node()]), Decision::Leave, "{signer}");
    }
}
