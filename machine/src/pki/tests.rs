use std::net::Ipv4Addr;

use super::*;
use crate::config::CertificateAuthority;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn server() -> Leaf {
    Leaf {
        common_name: "kube-apiserver".into(),
        organization: Some("system:masters".into()),
        dns_names: vec!["kubernetes.default.svc".into()],
        addresses: vec![Ipv4Addr::new(10, 96, 0, 1).into(), "fd00::1".parse().unwrap()],
        usage: Usage::Server,
    }
}

#[test]
fn a_leaf_says_what_was_asked_and_is_signed_by_its_ca_alone() {
    let (ca, other) = (new_ca("kubernetes", now()).unwrap(), new_ca("kubernetes", now()).unwrap());
    let issued = issue(&ca, &server(), now()).unwrap();
    let read = facts(&issued.certificate).unwrap();
    assert_eq!(read.leaf, server());
    assert!(!read.is_ca);
    assert_eq!(read.not_after, now() + LEAF_LIFETIME);
    assert!(signed_by(&issued.certificate, &ca.certificate).unwrap());
    assert!(!signed_by(&issued.certificate, &other.certificate).unwrap());
    assert!(is_key_of(&issued.key, &issued.certificate));
    assert!(!is_key_of(ca.key.as_deref().unwrap(), &issued.certificate));
    assert!(issued.key.starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn a_ca_is_a_ca_for_ten_years() {
    let read = facts(&new_ca("etcd-ca", now()).unwrap().certificate).unwrap();
    assert!(read.is_ca);
    assert_eq!(read.leaf.common_name, "etcd-ca");
    assert_eq!(read.not_after, now() + CA_LIFETIME);
}

#[test]
fn a_leaf_is_due_thirty_days_before_its_end() {
    let ca = new_ca("kubernetes", now()).unwrap();
    let read = facts(&issue(&ca, &server(), now()).unwrap().certificate).unwrap();
    let day = Duration::from_secs(86_400);
    assert!(!read.due(now()));
    assert!(!read.due(now() + 334 * day));
    assert!(read.due(now() + 335 * day));
    assert!(read.due(now() - 2 * CLOCK_SKEW), "a clock that was wrong when it was issued");
}

#[test]
fn a_ca_without_its_key_signs_nothing_and_says_so() {
    let ca = CertificateAuthority { key: None, ..new_ca("kubernetes", now()).unwrap() };
    let error = issue(&ca, &server(), now()).unwrap_err();
    assert!(matches!(error, PkiError::NoKey(_)), "{error}");
    assert!(facts("no certificate").is_err());
}

#[test]
fn tokens_have_kubernetes_shape_and_differ() {
    let (a, b) = (bootstrap_token().unwrap(), bootstrap_token().unwrap());
    assert!(is_bootstrap_token(&a), "{a}");
    assert_ne!(a, b);
    for bad in ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcde.f0123456789abcdef"]
    {
        assert!(!is_bootstrap_token(bad), "{bad}");
    }
}

#[test]
fn the_ca_hash_is_of_the_public_key() {
    // openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum
    let pem = include_str!("testdata/ca.pem");
    assert_eq!(ca_hash(pem).unwrap(), include_str!("testdata/ca.hash").trim());
}

#[test]
fn a_key_pair_is_pkcs8_and_spki() {
    let pair = new_key_pair().unwrap();
    assert!(pair.public.starts_with("-----BEGIN PUBLIC KEY-----"));
    assert!(pair.private.starts_with("-----BEGIN PRIVATE KEY-----"));
}
