use std::net::Ipv4Addr;

use super::*;
use crate::authority::CertificateAuthority;

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

#[test]
fn a_request_says_what_it_asks_for_and_is_signed_for_serving_only() {
    let ca = new_ca("pintle", now()).unwrap();
    let asked = Leaf {
        common_name: "w1".into(),
        organization: Some("pintle:admin".into()),
        dns_names: vec!["w1".into()],
        addresses: vec![Ipv4Addr::new(10, 5, 0, 11).into()],
        usage: Usage::ServerAndClient,
    };
    let (key, der) = new_request(&asked).unwrap();
    let read = read_request(&der).unwrap();
    assert_eq!(
        (&read.common_name, &read.dns_names, &read.addresses),
        (&asked.common_name, &asked.dns_names, &asked.addresses)
    );
    let certificate = sign_serving(&ca, &asked, &read.public_key, now()).unwrap();
    let facts = facts(&certificate).unwrap();
    assert_eq!(facts.leaf, Leaf { organization: None, usage: Usage::Server, ..asked });
    assert_eq!(facts.not_after, now() + SERVING_LIFETIME);
    assert!(
        !facts.is_ca && is_key_of(&key, &certificate) && signed_by(&certificate, &ca.certificate).unwrap()
    );
    assert!(sign_serving(&ca, &server(), &read.public_key[1..], now()).is_err());
}

#[test]
fn a_request_that_was_changed_is_refused() {
    let (_, der) = new_request(&server()).unwrap();
    assert!(read_request(&der).is_ok());
    // What is signed; algorithm and signature are the last 90 bytes or less.
    for at in 0..der.len() - 100 {
        let mut bent = der.clone();
        bent[at] ^= 1;
        assert!(read_request(&bent).is_err(), "byte {at}");
    }
    assert!(read_request(&der[..der.len() - 1]).is_err());
    assert!(read_request(&[der.clone(), vec![0]].concat()).is_err());
}

proptest::proptest! {
    #[test]
    fn no_request_of_a_stranger_panics(bytes: Vec<u8>, at in 0_usize..400, byte: u8) {
        let _ = read_request(&bytes);
        let (_, mut der) = new_request(&server()).unwrap();
        if let Some(place) = der.get_mut(at) {
            *place = byte;
        }
        let _ = read_request(&der);
    }
}

#[test]
fn join_tokens_are_long_and_differ() {
    let (a, b) = (join_token().unwrap(), join_token().unwrap());
    assert!(is_join_token(&a) && a != b, "{a}");
    for bad in ["", "short", "0123456789012345678901234567890\n2"] {
        assert!(!is_join_token(bad), "{bad:?}");
    }
}
