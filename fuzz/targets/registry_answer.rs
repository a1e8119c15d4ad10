//! What a registry answers besides content: its challenge, its errors, its token, and where it sends a pull
//! to. It may be anybody's, and what it says goes into requests, into events, and into the choice of who is
//! connected to.
#![cfg_attr(feature = "libfuzzer", no_main)]
use images::fuzzing::{Challenge, Target, error_message, parse_token, refused_name};

fuzz::target!(answer);

fn answer(bytes: &[u8]) {
    if let Some(line) = error_message(bytes, |text| text) {
        assert!(line.chars().count() <= 300 && !line.chars().any(char::is_control), "{line:?}");
    }
    if let Some(token) = parse_token(bytes) {
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()), "{token:?}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Challenge::choose(text.lines());
    let origin = Target { tls: true, authority: "registry.example:5000".into(), path: "/v2/".into() };
    for line in text.lines() {
        let Some(target) = origin.join(line) else { continue };
        assert!(!target.shown().contains('?'), "a query is shown: {target:?}");
        assert!(!target.authority.contains('@'), "credentials in {target:?}");
        if line.starts_with('/') {
            assert!(target.same_server(&origin), "{line:?} leads to {target:?}");
        }
        // As it will be dialled; an address that the kernel reads differently would be judged wrongly.
        if let Ok(address) = target.host().parse::<std::net::IpAddr>() {
            let local = address.is_loopback() || address.is_unspecified();
            let seen = refused_name(target.host()).is_some();
            assert!(seen || !local, "{target:?}, port {}", target.port());
        }
    }
}
