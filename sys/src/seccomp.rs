//! Loading a system call filter (seccomp(2)).
use std::io;

use nix::libc;

/// Puts the calling thread, and what it becomes by execve, under a filter: classic BPF as an array of 8-byte instructions in the machine's byte order, as
/// libseccomp exports it. It needs CAP_SYS_ADMIN or no_new_privs.
///
/// # Errors
/// `InvalidInput` when the program has an impossible length; otherwise as seccomp(2).
pub fn install(program: &[u8]) -> io::Result<()> {
    let count = program.len() / 8;
    if count == 0 || !program.len().is_multiple_of(8) || count > 4096 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a system call filter has 1 to 4096 instructions",
        ));
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        })
        .collect();
    let filter = libc::sock_fprog { len: count as u16, filter: instructions.as_mut_ptr() };
    // SAFETY: `filter` points to `count` initialised instructions that outlive the call; the kernel copies and verifies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
