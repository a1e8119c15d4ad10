//! A service's own memory: what it does not need now, it gives back.
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use nix::libc;

/// How often. A minute's working set is fetched again in well under a millisecond.
const INTERVAL: Duration = Duration::from_secs(60);

/// A mapping of this process's executable that is never written: first and last address.
type Range = (usize, usize);

/// Gives memory back each minute, for ever. A static executable's code is mapped 64 KiB around each page that is touched and stays mapped, though starting
/// up and rare requests need most of it once; unmapped, it is the first that the kernel reclaims when memory is short.
pub async fn keep_small() {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(error) = give_back() {
            tracing::debug!(%error, "give memory back");
            return;
        }
    }
}

/// Unmaps pages of the executable's code and constants, and returns free heap to the kernel. What is touched next comes from the page cache again.
///
/// # Errors
/// When /proc cannot be read; as madvise(2).
pub fn give_back() -> io::Result<()> {
    static RANGES: OnceLock<Vec<Range>> = OnceLock::new();
    let ranges = match RANGES.get() {
        Some(ranges) => ranges,
        None => {
            let executable = std::fs::read_link("/proc/self/exe")?;
            let maps = std::fs::read_to_string("/proc/self/smaps")?;
            RANGES.get_or_init(|| unwritten(&maps, &executable.to_string_lossy()))
        }
    };
    for &(start, end) in ranges {
        // SAFETY: the range is a private read-only mapping of the executable's file without a page of its own, for the life of the process: what is
        // unmapped is read from the same file again, with the same content.
        let result = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: malloc_trim(3) takes the allocator's own locks and touches only free memory.
    unsafe { libc::malloc_trim(0) };
    Ok(())
}

/// Mappings of the executable that are read-only and have no page that differs from the file: those with relocations do.
fn unwritten(smaps: &str, executable: &str) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(range) = mapping(line) {
            candidate = range.filter(|_| line.ends_with(executable));
        } else if line.strip_prefix("Anonymous:").is_some_and(|size| size.trim() == "0 kB") {
            ranges.extend(candidate.take());
        }
    }
    ranges
}

/// A line that begins a mapping, and its range if it can only be read: `start-end perms offset device inode path`.
fn mapping(line: &str) -> Option<Option<Range>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    let permissions = fields.next()?;
    let read_only = permissions.starts_with('r') && !permissions.contains('w') && permissions.ends_with('p');
    Some(read_only.then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00200000-006ff000 r--p 00000000 fd:00 1 /usr/lib/pintle/pintle-x
Pss:                 1344 kB
Anonymous:             0 kB
006ff000-00f20000 r-xp 004fe000 fd:00 1 /usr/lib/pintle/pintle-x
Anonymous:             0 kB
00f20000-00f2d000 r--p 00d1e000 fd:00 1 /usr/lib/pintle/pintle-x
Anonymous:            52 kB
00f2d000-00f2e000 rw-p 00d2a000 fd:00 1 /usr/lib/pintle/pintle-x
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 fd:00 2 /usr/lib/libc.so.6
Anonymous:             0 kB
";

    #[test]
    fn only_what_the_file_still_has_is_given_back() {
        let ranges = unwritten(SMAPS, "/usr/lib/pintle/pintle-x");
        assert_eq!(ranges, [(0x0020_0000, 0x006f_f000), (0x006f_f000, 0x00f2_0000)]);
    }

    #[test]
    fn a_process_goes_on_after_it_gave_back() {
        let kept = vec![7_u8; 1 << 20];
        give_back().unwrap();
        give_back().unwrap();
        assert!(kept.iter().all(|byte| *byte == 7));
        assert_eq!(format!("{:?}", Some("text")), "Some(\"text\")");
    }
}
