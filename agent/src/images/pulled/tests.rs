use std::time::Duration;

use proptest::prelude::*;

use super::*;

const IMAGE: &str = "registry.test:5000/team/web:1";

fn secret(uid: &str, password: &str) -> PullSecret {
    let auth = AuthConfig { username: "user".into(), password: password.into(), ..Default::default() };
    PullSecret {
        uid: uid.into(),
        namespace: "default".into(),
        name: format!("secret-{uid}"),
        credential_hash: hash(&auth),
    }
}

fn settings(policy: Policy) -> NodeAgent {
    NodeAgent { image_pull_credentials_verification_policy: policy, ..Default::default() }
}

/// As the default has it.
fn at(pulled: &Pulled, image: &str) -> Access {
    pulled.access(image, "id", &NodeAgent::default())
}

#[test]
fn what_a_secret_has_brought_is_for_those_who_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let pulled = Pulled::open(folder.path());
    assert_eq!(at(&pulled, IMAGE), Access::Granted, "it was there before");
    pulled.begin(IMAGE).unwrap();
    assert_eq!(at(&pulled, IMAGE), Access::Denied, "nobody knows yet with whose secret");
    pulled.end(IMAGE, End::Pulled { image_ref: "id", secret: Some(secret("1", "p")) });
    assert_eq!(at(&pulled, IMAGE), Access::ToSecrets);
    assert!(!pulled.opens(IMAGE, "id", &[]));
    assert!(!pulled.opens(IMAGE, "id", &[secret("2", "other")]));
    assert!(pulled.opens(IMAGE, "id", &[secret("2", "other"), secret("1", "p")]));
    // The same image by another name is another registry's to give.
    assert_eq!(at(&pulled, "elsewhere.test/team/web:1"), Access::Denied);
    // So it is after a restart.
    assert_eq!(at(&Pulled::open(folder.path()), IMAGE), Access::ToSecrets);
    // Somebody needed none.
    pulled.begin(IMAGE).unwrap();
    pulled.end(IMAGE, End::Pulled { image_ref: "id", secret: None });
    assert_eq!(at(&pulled, IMAGE), Access::Granted);
    assert_eq!(std::fs::read_dir(folder.path().join("pulling")).unwrap().count(), 0);
}

#[test]
fn a_secret_is_known_by_its_object_and_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let pulled = Pulled::open(folder.path());
    pulled.begin(IMAGE).unwrap();
    pulled.end(IMAGE, End::Pulled { image_ref: "id", secret: Some(secret("1", "p")) });
    assert!(pulled.opens(IMAGE, "id", &[secret("1", "rotated")]));
    assert!(pulled.opens(IMAGE, "id", &[secret("2", "rotated")]), "the rotated one is remembered");
    assert!(!pulled.opens(IMAGE, "id", &[secret("3", "p")]), "and the one before no more");
}

#[test]
fn a_pull_that_the_agent_did_not_see_end_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    Pulled::open(folder.path()).begin(IMAGE).unwrap();
    let pulled = Pulled::open(folder.path());
    assert_eq!(at(&pulled, IMAGE), Access::Denied);
    // A second pod without a secret has tried meanwhile.
    pulled.begin(IMAGE).unwrap();
    pulled.end(IMAGE, End::Failed);
    assert_eq!(at(&Pulled::open(folder.path()), IMAGE), Access::Denied);
    std::fs::create_dir_all(folder.path().join("pulled")).unwrap();
    std::fs::write(pulled.record_of("broken"), "{").unwrap();
    assert_eq!(pulled.access("web", "broken", &NodeAgent::default()), Access::Denied);
}

#[test]
fn what_a_pull_brought_that_nobody_could_look_at_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pulled = Pulled::open(folder.path());
    pulled.begin(IMAGE).unwrap();
    pulled.end(IMAGE, End::Unknown);
    assert_eq!(at(&pulled, IMAGE), Access::Denied);
    assert_eq!(at(&Pulled::open(folder.path()), IMAGE), Access::Denied);
    pulled.begin(IMAGE).unwrap();
    pulled.end(IMAGE, End::Pulled { image_ref: "id", secret: None });
    assert_eq!(at(&pulled, IMAGE), Access::Granted);
    assert_eq!(std::fs::read_dir(folder.path().join("pulling")).unwrap().count(), 0);
}

#[test]
fn the_policy_says_whose_images_are_verified() {
    let record = Record {
        api_version: String::new(),
        kind: String::new(),
        last_updated_time: String::new(),
        image_ref: String::new(),
        credential_mapping: [(repository(IMAGE).to_owned(), Granted::to(Some(secret("1", "p"))))].into(),
    };
    let origins = [Origin::Elsewhere, Origin::Unknown, Origin::Pulled(record)];
    use Access::{Denied, Granted as Open, ToSecrets};
    for (policy, allowed, expected) in [
        (Policy::NeverVerify, "", [Open, Open, Open]),
        (Policy::NeverVerifyPreloadedImages, "", [Open, Denied, ToSecrets]),
        (Policy::NeverVerifyAllowlistedImages, "registry.test:5000/team", [Denied, Denied, ToSecrets]),
        (Policy::NeverVerifyAllowlistedImages, "registry.test:5000/*", [Open, Denied, ToSecrets]),
        (Policy::NeverVerifyAllowlistedImages, "registry.test:5000/team/web", [Open, Denied, ToSecrets]),
        (Policy::AlwaysVerify, "registry.test:5000/*", [Denied, Denied, ToSecrets]),
    ] {
        let settings =
            NodeAgent { preloaded_images_verification_allowlist: vec![allowed.into()], ..settings(policy) };
        assert_eq!(origins.each_ref().map(|origin| access(IMAGE, origin, &settings)), expected, "{policy:?}");
    }
}

#[test]
fn images_that_are_gone_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let pulled = Pulled::open(folder.path());
    for id in ["here", "gone"] {
        pulled.begin(IMAGE).unwrap();
        pulled.end(IMAGE, End::Pulled { image_ref: id, secret: None });
    }
    let (present, now) = (BTreeSet::from(["here"]), SystemTime::now());
    prune(folder.path(), &present, now - Duration::from_secs(60));
    assert!(pulled.record_of("gone").exists(), "pulled since");
    prune(folder.path(), &present, now + Duration::from_secs(60));
    assert!(pulled.record_of("here").exists() && !pulled.record_of("gone").exists());
}

#[test]
fn repositories_have_neither_tag_nor_digest() {
    for (image, name) in [
        (IMAGE, "registry.test:5000/team/web"),
        ("registry.test:5000/web", "registry.test:5000/web"),
        ("web:1@sha256:00", "web"),
        ("web", "web"),
    ] {
        assert_eq!(repository(image), name);
    }
}

proptest! {
    #[test]
    fn any_file_is_a_record_or_opens_nothing(text in ".*") {
        let folder = tempfile::tempdir().unwrap();
        let pulled = Pulled::open(folder.path());
        write(&pulled.record_of("id"), text.as_bytes()).unwrap();
        prop_assert_eq!(at(&pulled, IMAGE), Access::Denied);
    }
}
