//! The last step: reboot(2), and what is left when that fails or does not come back.
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

/// How long the kernel may take to stop devices, which it does within reboot(2).
const REBOOT_DEADLINE: Duration = Duration::from_secs(60);
/// Magic SysRq asks nobody.
const SYSRQ_DEADLINE: Duration = Duration::from_secs(10);
/// All of it, for whoever waits.
pub const LONGEST: Duration = Duration::from_secs(90);

/// A way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Reboot(RebootMode),
    /// A letter of /proc/sysrq-trigger (Documentation/admin-guide/sysrq.rst): `o` powers off, `b` resets at once.
    SysRq(char),
}

/// Ways out in order, each with how long it may take until the next is tried. All end with a reset: a machine that cannot be powered off must not
/// stand there without services.
fn ways(power_off: bool) -> Vec<(Way, Duration)> {
    let reset = (Way::SysRq('b'), SYSRQ_DEADLINE);
    match power_off {
        true => vec![
            (Way::Reboot(RebootMode::RB_POWER_OFF), REBOOT_DEADLINE),
            (Way::SysRq('o'), SYSRQ_DEADLINE),
            reset,
        ],
        false => vec![(Way::Reboot(RebootMode::RB_AUTOBOOT), REBOOT_DEADLINE), reset],
    }
}

/// Leaves by the first way that works. It does not come back. Every call is made on a thread of its own, so this one may be the main one.
pub fn leave(power_off: bool) -> ! {
    loop {
        walk(&ways(power_off), go);
    }
}

/// Tries each way until its time is over; one that fails at once is over then.
fn walk(ways: &[(Way, Duration)], go: fn(Way) -> io::Result<()>) {
    for (way, patience) in ways {
        let way = *way;
        let results = crate::bounded::each(vec![way], *patience, go);
        let why = match results.into_iter().next().flatten() {
            // The kernel has taken the letter and acts on it in its own time.
            Some(Ok(())) => {
                thread::sleep(*patience);
                "the machine still runs".into()
            }
            Some(Err(error)) => error.to_string(),
            None => format!("not back after {} s", patience.as_secs()),
        };
        crate::console::line(&format!("ERROR leave by {way:?}: {why}"));
        thread::sleep(Duration::from_millis(100));
    }
}

fn go(way: Way) -> io::Result<()> {
    match way {
        Way::Reboot(mode) => match reboot(mode) {
            Err(error) => Err(error.into()),
        },
        Way::SysRq(letter) => fs::write("/proc/sysrq-trigger", letter.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_way_out_ends_with_a_reset() {
        for power_off in [true, false] {
            let ways = ways(power_off);
            assert!(matches!(ways[0].0, Way::Reboot(_)), "the orderly way first");
            assert_eq!(ways.last().map(|(way, _)| *way), Some(Way::SysRq('b')));
            assert!(ways.iter().map(|(_, patience)| *patience).sum::<Duration>() < LONGEST);
        }
        assert!(ways(true).iter().any(|(way, _)| *way == Way::SysRq('o')));
    }

    #[test]
    fn what_fails_or_hangs_is_followed_by_the_next() {
        static TRIED: Mutex<Vec<Way>> = Mutex::new(Vec::new());
        fn go(way: Way) -> io::Result<()> {
            TRIED.lock().unwrap().push(way);
            match way {
                Way::Reboot(_) => {
                    thread::park();
                    Ok(())
                }
                Way::SysRq('o') => Err(io::Error::other("not built in")),
                Way::SysRq(_) => Ok(()),
            }
        }
        let soon: Vec<_> = ways(true).into_iter().map(|(way, _)| (way, Duration::from_millis(50))).collect();
        walk(&soon, go);
        let expected: Vec<Way> = soon.iter().map(|(way, _)| *way).collect();
        assert_eq!(*TRIED.lock().unwrap(), expected);
    }
}
