//! Requests and replies on the socket between `pintle-launch` and the runtime, from the side of the launch.
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{MAX_FRAME, Order, Reply, Request};

/// Reads one request with its descriptors.
///
/// # Errors
/// As recvmsg(2); when it is above the limit or no request.
pub fn receive(socket: &OwnedFd) -> io::Result<(Order<Request>, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let (read, descriptors) = receive_part(socket, &mut length)?;
    let size = u32::from_be_bytes(length) as usize;
    if read != 4 || size > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no request, or one above the limit"));
    }
    let mut frame = vec![0; size];
    let mut at = 0;
    while at < size {
        match receive_part(socket, &mut frame[at..])?.0 {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => at += read,
        }
    }
    Ok((serde_json::from_slice(&frame)?, descriptors))
}

/// Reads some bytes with the descriptors that come with them.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_part(socket: &OwnedFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    sys::framed::receive_blocking(socket.as_fd(), bytes)
}

/// Sends one reply frame.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: &OwnedFd, reply: &Reply, descriptors: &[RawFd]) -> io::Result<()> {
    let body = serde_json::to_vec(reply)?;
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let rights = [ControlMessage::ScmRights(descriptors)];
    let mut at = 0;
    while at < bytes.len() {
        let control: &[ControlMessage] = if at == 0 && !descriptors.is_empty() { &rights } else { &[] };
        at += sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&bytes[at..])],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
    }
    Ok(())
}
