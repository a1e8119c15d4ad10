//! Container logs: whatever is written, however it is cut, through kills and rotations, a reader gets back every byte once.
#![cfg_attr(feature = "libfuzzer", no_main)]
use fuzz::log::Life;

fn log(bytes: &[u8]) {
    let mut life = Life::default();
    life.play(bytes);
    life.check();
}

fuzz::target!(log);
