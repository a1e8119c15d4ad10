use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

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
            {"type": "Hostname", "address": "w1.rack"},
        ]},
    }))
    .unwrap()
}

fn refused(request: &CertificateSigningRequest) -> bool {
    matches!(decide(request, Some(&node())), Decision::Refuse(_))
}

#[test]
fn a_node_gets_a_certificate_for_its_own_names_and_addresses() {
    let good = request("system:node:w1", &["w1", "w1.rack"], &["10.5.0.11"]);
    assert_eq!(decide(&good, Some(&node())), Decision::Approve);
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
    assert_eq!(decide(&good, None), Decision::Leave);
    let mut client = good.clone();
    client.spec.signer_name = "kubernetes.io/kube-apiserver-client-kubelet".into();
    assert_eq!(decide(&client, Some(&node())), Decision::Leave);
    let mut person = good;
    person.spec.username = Some("kubernetes-admin".into());
    assert_eq!(decide(&person, Some(&node())), Decision::Leave);
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
    for name in ["kubernetes", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "k8s.example", "w2"] {
        let asked = decide(&request("system:node:w1", &[name], &["10.5.0.11"]), Some(&claims("Hostname", name)));
        assert!(matches!(asked, Decision::Refuse(_)), "{name}: {asked:?}");
    }
    for address in ["10.96.0.1", "10.5.0.10", "192.0.2.1", "127.0.0.1", "10.244.1.7"] {
        let asked = decide(&request("system:node:w1", &["w1"], &[address]), Some(&claims("InternalIP", address)));
        assert!(matches!(asked, Decision::Refuse(_)), "{address}: {asked:?}");
    }
}
