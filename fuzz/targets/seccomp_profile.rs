//! Seccomp profiles: what is accepted compiles to a program that the kernel takes, the same each time, and that does what the
//! profile says about calls which no rule names.
#![cfg_attr(feature = "libfuzzer", no_main)]
use std::collections::BTreeSet;

use containers::fuzzing::{Profile, compile};
use fuzz::bpf::{Otherwise, Program};

/// No such call exists.
const UNNAMED: u32 = 4000;

fn profile(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<Profile>(bytes) else { return };
    let otherwise: Otherwise = serde_json::from_slice(bytes).expect("parsed before");
    for capability in ["CAP_CHOWN", "CAP_SYS_ADMIN"] {
        let capabilities = BTreeSet::from([capability.to_owned()]);
        let Ok(program) = compile(&profile, &capabilities) else { continue };
        assert_eq!(program, compile(&profile, &capabilities).expect("compiled before"));
        let program = Program::verify(&program).expect("the kernel would refuse it");
        assert_eq!(program.run(UNNAMED, [0; 6]), otherwise.value());
    }
}

fuzz::target!(profile);
