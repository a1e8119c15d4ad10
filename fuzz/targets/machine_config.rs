//! Machine config: every fault stands within the text, and what is accepted is the same after it was written and read again.
#![cfg_attr(feature = "libfuzzer", no_main)]
use machine::config::{Fault, parse, to_yaml};

/// 0:0 where no place is to blame, otherwise a character of the text or the end of a line.
fn within(fault: &Fault, text: &str) -> bool {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines = text.split('\n').chain([""]);
    match fault.line.checked_sub(1) {
        None => fault.column == 0,
        Some(line) => lines
            .nth(line as usize)
            .is_some_and(|line| (1..=line.chars().count() + 1).contains(&(fault.column as usize))),
    }
}

fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse("config.yaml", text) {
        Ok(config) => {
            let written = to_yaml(&fuzz::config::documents(config.clone())).expect("write the config");
            match parse("written.yaml", &written) {
                Ok(again) => assert_eq!(again, config, "{written}"),
                Err(faults) => panic!("{faults:?}: {written}"),
            }
        }
        Err(faults) => {
            assert!((1..=200).contains(&faults.len()));
            for fault in faults {
                assert!(
                    within(&fault, text) && !fault.message.is_empty() && !fault.remedy.is_empty(),
                    "{fault:?}"
                );
            }
        }
    }
}

fuzz::target!(config);
