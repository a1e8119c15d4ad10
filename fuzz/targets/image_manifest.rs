//! Manifests, indexes and image configs: what is accepted is within the bounds, and chosen for this machine.
#![cfg_attr(feature = "libfuzzer", no_main)]
use images::fuzzing::{Manifest, check_config, choose};

const MOST_LAYERS: usize = 4;

fn is_digest(text: &str) -> bool {
    text.len() == 71
        && text.starts_with("sha256:")
        && text[7..].bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn manifest_or_config(bytes: &[u8]) {
    match Manifest::parse(bytes, MOST_LAYERS) {
        Ok(Manifest::Image { config, layers }) => {
            assert!(layers.len() <= MOST_LAYERS);
            assert!(layers.iter().chain([&config]).all(|descriptor| is_digest(&descriptor.digest)));
        }
        Ok(Manifest::Index(manifests)) => {
            assert!(manifests.iter().all(|descriptor| is_digest(&descriptor.digest)));
            if let Ok(chosen) = choose(&manifests) {
                assert!(manifests.contains(chosen));
            }
        }
        Err(_) => {}
    }
    for layers in 0..=MOST_LAYERS {
        if let Ok((config, diff_ids)) = check_config(bytes, layers) {
            assert_eq!((diff_ids.len(), config.rootfs().diff_ids()), (layers, &diff_ids));
            assert!(diff_ids.iter().all(|diff_id| is_digest(diff_id)));
        }
    }
}

fuzz::target!(manifest_or_config);
