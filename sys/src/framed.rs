//! Length-prefixed frames with file descriptors over a unix stream socket (unix(7), SCM_RIGHTS).
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use tokio::io::Interest;
use tokio::time::Instant;

/// The most descriptors one frame carries.
pub const MAX_FDS: usize = 16;
/// The most bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A connected stream socket that carries frames: a 4-byte big-endian length, that many bytes, and descriptors with the first byte.
///
/// `recv` is cancel safe (what has arrived stays buffered); `send` is not: drop the socket when a send was cancelled.
#[derive(Debug)]
pub struct FramedSocket {
    socket: tokio::net::UnixStream,
    max_frame: usize,
    /// The largest frame that is received; at most `max_frame`.
    max_received: usize,
    /// How long a frame may take from its first byte to its last; `None` is for ever.
    frame_deadline: Option<Duration>,
    /// When the first byte of the frame in `buffer` came.
    begun: Option<Instant>,
    buffer: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl FramedSocket {
    /// Takes over a connected socket; frames above `max_frame` bytes are refused in both directions.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking, or outside a tokio runtime.
    pub fn new(socket: UnixStream, max_frame: usize) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::of(tokio::net::UnixStream::from_std(socket)?, max_frame))
    }

    /// As [`new`](Self::new), of a socket that tokio has already.
    pub const fn of(socket: tokio::net::UnixStream, max_frame: usize) -> Self {
        Self {
            socket,
            max_frame,
            max_received: max_frame,
            frame_deadline: None,
            begun: None,
            buffer: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(path: &str, max_frame: usize) -> io::Result<Self> {
        Self::new(UnixStream::connect(path)?, max_frame)
    }

    /// What a peer that is not trusted may send: frames of at most so many bytes, each within a time from its first byte.
    #[must_use]
    pub fn limited(mut self, max_received: usize, frame_deadline: Duration) -> Self {
        self.max_received = max_received.min(self.max_frame);
        self.frame_deadline = Some(frame_deadline);
        self
    }

    /// The peer's process, user and group as they were when it connected.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn peer(&self) -> io::Result<nix::libc::ucred> {
        let credentials =
            nix::sys::socket::getsockopt(&self.socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(nix::libc::ucred { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() })
    }

    /// Sends one frame with its descriptors.
    ///
    /// # Errors
    /// `InvalidInput` for a frame or descriptor list above the limits; otherwise as sendmsg(2).
    pub async fn send(&self, frame: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        if frame.len() > self.max_frame || descriptors.len() > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame or descriptor list too large"));
        }
        let mut bytes = Vec::with_capacity(frame.len() + 4);
        bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        bytes.extend_from_slice(frame);
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self
                .socket
                .async_io(Interest::WRITABLE, || {
                    let rights = [ControlMessage::ScmRights(descriptors)];
                    let control: &[ControlMessage] =
                        if sent == 0 && !descriptors.is_empty() { &rights } else { &[] };
                    let flags = MsgFlags::MSG_NOSIGNAL;
                    Ok(sendmsg::<()>(
                        self.socket.as_raw_fd(),
                        &[IoSlice::new(&bytes[sent..])],
                        control,
                        flags,
                        None,
                    )?)
                })
                .await?;
        }
        Ok(())
    }

    /// Receives one frame and the descriptors that came with it; `None` at an orderly end. After an error the socket is of no more use.
    ///
    /// # Errors
    /// `InvalidData` for a frame or a number of descriptors above the limit, `TimedOut` and `UnexpectedEof` for half a frame;
    /// otherwise as recvmsg(2).
    pub async fn recv(&mut self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let received = self.receive_frame().await;
        if received.is_err() {
            self.descriptors.clear();
        }
        received
    }

    async fn receive_frame(&mut self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        loop {
            // The rest of the current frame and no more, so that descriptors stay with the frame they came with.
            let missing = match self.buffer.first_chunk::<4>() {
                Some(head) => {
                    let length = u32::from_be_bytes(*head) as usize;
                    if length > self.max_received {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
                    }
                    length + 4 - self.buffer.len()
                }
                None => 4 - self.buffer.len(),
            };
            if missing == 0 {
                self.begun = None;
                let mut frame = std::mem::take(&mut self.buffer);
                frame.drain(..4);
                return Ok(Some((frame, self.descriptors.drain(..).collect())));
            }
            if !self.receive_some(missing.min(CHUNK)).await? {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// False at the end of the stream.
    async fn receive_some(&mut self, most: usize) -> io::Result<bool> {
        let mut chunk = vec![0_u8; most];
        let arriving = self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd(), &mut chunk));
        let deadline = self.begun.zip(self.frame_deadline).map(|(begun, deadline)| begun + deadline);
        let (read, descriptors) = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, arriving).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the rest of a frame does not come")
            })??,
            None => arriving.await?,
        };
        self.descriptors.extend(descriptors);
        if self.descriptors.len() > MAX_FDS {
            return Err(too_many());
        }
        self.begun.get_or_insert_with(Instant::now);
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read > 0)
    }
}

/// Receives what is there, with its descriptors, waiting on a blocking socket; 0 bytes at the end.
///
/// # Errors
/// As recvmsg(2); `InvalidData` when more descriptors came than a frame carries.
pub fn receive_blocking(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive(socket, bytes)
}

fn receive(socket: BorrowedFd<'_>, chunk: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    // Whatever the kernel has installed is the buffer's from the first moment, and closed with it.
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(chunk)];
    let message = rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    // The kernel has dropped those for which there was no room here, or no number left in this process.
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_FDS {
        return Err(too_many());
    }
    Ok((message.bytes, descriptors))
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more descriptors than a frame carries, or than fit here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_with_their_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (FramedSocket::new(a, 1 << 20).unwrap(), FramedSocket::new(b, 1 << 20).unwrap());
        let (read, _write) = nix::unistd::pipe().unwrap();
        let large = vec![7_u8; 300_000];
        let sender = async {
            a.send(b"first", &[read.as_raw_fd()]).await.unwrap();
            a.send(&large, &[]).await.unwrap();
            a.send(b"", &[read.as_raw_fd(), read.as_raw_fd()]).await.unwrap();
            drop(a);
        };
        let receiver = async {
            let (frame, fds) = b.recv().await.unwrap().unwrap();
            assert_eq!((frame.as_slice(), fds.len()), (&b"first"[..], 1));
            let (frame, fds) = b.recv().await.unwrap().unwrap();
            assert_eq!((frame.len(), fds.len()), (300_000, 0));
            let (frame, fds) = b.recv().await.unwrap().unwrap();
            assert_eq!((frame.len(), fds.len()), (0, 2));
            assert!(b.recv().await.unwrap().is_none());
        };
        tokio::join!(sender, receiver);
    }

    #[tokio::test]
    async fn a_frame_above_the_limit_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (FramedSocket::new(a, 1 << 20).unwrap(), FramedSocket::new(b, 16).unwrap());
        a.send(&[0; 17], &[]).await.unwrap();
        assert_eq!(b.recv().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// How many of this process's descriptors are of that file.
    fn copies(file: &std::fs::File) -> usize {
        use std::os::unix::fs::MetadataExt;
        let own = file.metadata().unwrap();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let same = |meta: &std::fs::Metadata| (meta.dev(), meta.ino()) == (own.dev(), own.ino());
        descriptors.filter(|fd| std::fs::metadata(fd.path()).is_ok_and(|meta| same(&meta))).count()
    }

    /// A file that nobody else has, and as many numbers of its descriptor as wanted.
    fn file(count: usize) -> (std::fs::File, Vec<RawFd>) {
        let file = nix::sys::memfd::memfd_create(c"framed", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let file = std::fs::File::from(file);
        let raw = vec![file.as_raw_fd(); count];
        (file, raw)
    }

    fn send_raw(socket: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> nix::Result<usize> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
    }

    #[tokio::test]
    async fn more_descriptors_than_a_frame_may_carry_are_closed_and_refused() {
        for count in [MAX_FDS + 1, 253] {
            let (a, b) = UnixStream::pair().unwrap();
            let mut b = FramedSocket::new(b, 64).unwrap();
            let (file, raw) = file(count);
            send_raw(&a, &[0; 5], &raw).unwrap();
            assert!(b.recv().await.is_err());
            assert_eq!(copies(&file), 1, "{count} descriptors");
        }
        let (a, _b) = UnixStream::pair().unwrap();
        let (_file, raw) = file(300);
        assert_eq!(send_raw(&a, &[0], &raw), Err(nix::errno::Errno::EINVAL), "the kernel's own limit");
    }

    #[tokio::test]
    async fn descriptors_are_counted_by_frame_and_not_by_message() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = FramedSocket::new(b, 64).unwrap();
        let (file, raw) = file(MAX_FDS);
        send_raw(&a, &64_u32.to_be_bytes(), &raw).unwrap();
        for _ in 0..64 {
            send_raw(&a, &[0], &raw).unwrap();
        }
        assert_eq!(b.recv().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop((a, b));
        assert_eq!(copies(&file), 1);
    }

    #[test]
    fn a_blocking_receiver_takes_no_more_than_a_frame_may_carry() {
        let (a, b) = UnixStream::pair().unwrap();
        let (file, raw) = file(MAX_FDS + 1);
        send_raw(&a, &[0], &raw).unwrap();
        assert!(receive_blocking(std::os::fd::AsFd::as_fd(&b), &mut [0; 8]).is_err());
        assert_eq!(copies(&file), 1);
    }

    #[tokio::test]
    async fn a_frame_that_comes_a_byte_at_a_time_is_whole_at_its_end() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = FramedSocket::new(b, 64).unwrap();
        let (file, raw) = file(2);
        send_raw(&a, &[0], &raw).unwrap();
        for byte in [0, 0, 3, 7, 8, 9] {
            send_raw(&a, &[byte], &[]).unwrap();
        }
        let (frame, descriptors) = b.recv().await.unwrap().unwrap();
        assert_eq!((frame.as_slice(), descriptors.len()), (&[7, 8, 9][..], 2));
        drop(descriptors);
        assert_eq!(copies(&file), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_once_begun_has_a_deadline_and_a_silent_peer_has_none() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = FramedSocket::new(b, 1 << 20).unwrap().limited(64, Duration::from_secs(5));
        let idle = tokio::time::timeout(Duration::from_secs(3600), b.recv()).await;
        assert!(idle.is_err(), "nothing was begun");
        send_raw(&a, &[0, 0], &[]).unwrap();
        let cancelled = tokio::time::timeout(Duration::from_secs(4), b.recv()).await;
        assert!(cancelled.is_err(), "the deadline counts on over a receive that is given up");
        let start = Instant::now();
        assert_eq!(b.recv().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = FramedSocket::new(b, 1 << 20).unwrap().limited(64, Duration::from_secs(5));
        send_raw(&a, &65_u32.to_be_bytes(), &[]).unwrap();
        assert_eq!(b.recv().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
