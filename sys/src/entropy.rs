//! Giving saved randomness back to the kernel (random(4)).
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
