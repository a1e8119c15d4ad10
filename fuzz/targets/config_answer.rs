//! The answer of `pintle-config`, which a hostile text may have taken over: PID 1 takes it or refuses it, and what it took it would take again.
#![cfg_attr(feature = "libfuzzer", no_main)]
use machine::config_helper::{Answer, Wire};
use prost::Message as _;

fn answer(bytes: &[u8]) {
    // As it comes, and as documents alone: the fuzzer finds its way into JSON sooner so.
    let documents = Answer {
        faults: Vec::new(),
        read: Some(Wire { documents: bytes.to_vec(), redacted: String::new() }),
    };
    for bytes in [bytes, &documents.encode_to_vec()] {
        let Ok(outcome) = Answer::outcome(bytes) else { continue };
        if let Err(faults) = &outcome {
            assert!((1..=machine::config_helper::MAX_FAULTS).contains(&faults.len()));
        }
        let again = Answer::new(outcome.clone()).expect("write the documents").encode_to_vec();
        assert_eq!(Answer::outcome(&again).expect("read what was written"), outcome);
    }
}

fuzz::target!(answer);
