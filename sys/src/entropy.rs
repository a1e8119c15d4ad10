//! The kernel's random number generator: whether it has its first entropy, and giving saved randomness back (random(4), getrandom(2)).
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

const RNDADDENTROPY: u64 = 0x4008_5203;
/// The longest seed that is used, in bytes.
pub const SEED: usize = 512;

/// Mixes `seed` into the kernel's pool and credits it as entropy; at most [`SEED`] bytes.
///
/// # Errors
/// As the ioctl.
pub fn credit(seed: &[u8]) -> io::Result<()> {
    let seed = &seed[..seed.len().min(SEED)];
    let mut request = vec![0_u32; 2 + SEED / 4];
    request[0] = seed.len() as u32 * 8;
    request[1] = seed.len() as u32;
    for (word, bytes) in request[2..].iter_mut().zip(seed.chunks(4)) {
        let mut whole = [0; 4];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(whole);
    }
    let device = OpenOptions::new().write(true).open("/dev/random")?;
    // SAFETY: the buffer has the layout of `struct rand_pool_info` with buf_size bytes of data behind its two ints.
    let result = unsafe { nix::libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, request.as_ptr()) };
    nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Whether the generator has its first entropy.
///
/// # Errors
/// As getrandom(2).
pub fn is_ready() -> io::Result<bool> {
    match get_byte(nix::libc::GRND_NONBLOCK) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for the first entropy: about a second on a processor without a generator of its own. The call itself makes the kernel gather it from the jitter of
/// its timers. Waiting by poll(2) on /dev/random, as libraries in static executables do, does not: they would wait for ever.
///
/// # Errors
/// As getrandom(2).
pub fn wait() -> io::Result<()> {
    loop {
        match get_byte(0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn get_byte(flags: u32) -> io::Result<()> {
    let mut byte = [0_u8; 1];
    // SAFETY: the buffer is one byte long, as the length says.
    let result = unsafe { nix::libc::getrandom(byte.as_mut_ptr().cast(), byte.len(), flags) };
    nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_waiting_it_is_ready() {
        wait().unwrap();
        assert!(is_ready().unwrap());
    }
}
