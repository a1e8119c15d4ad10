//! Kernel device events (NETLINK_KOBJECT_UEVENT).
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

/// One device event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind` …
    pub action: String,
    /// The device's path below /sys.
    pub devpath: String,
    pub subsystem: String,
    /// What modules say in `modules.alias` to claim the device.
    pub modalias: Option<String>,
}

/// A socket that hears every device event from its creation on.
#[derive(Debug)]
pub struct UeventSocket {
    socket: OwnedFd,
}

impl UeventSocket {
    /// Opens the socket, non-blocking.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        // A burst of devices must not overflow while modules load.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20));
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self { socket })
    }

    /// The next event that is already there; messages that did not come from the kernel are passed over. `None` when there is none.
    ///
    /// # Errors
    /// As recvfrom(2); `ENOBUFS` tells that events were lost and sysfs must be read again.
    pub fn next(&self) -> io::Result<Option<Uevent>> {
        let mut buffer = [0_u8; 8192];
        loop {
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(sender))) if sender.pid() == 0 => {
                    if let Some(event) = parse(&buffer[..length]) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UeventSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn parse(message: &[u8]) -> Option<Uevent> {
    let text = std::str::from_utf8(message).ok()?;
    let mut event =
        Uevent { action: String::new(), devpath: String::new(), subsystem: String::new(), modalias: None };
    for field in text.split('\0').skip(1) {
        match field.split_once('=') {
            Some(("ACTION", value)) => event.action = value.into(),
            Some(("DEVPATH", value)) => event.devpath = value.into(),
            Some(("SUBSYSTEM", value)) => event.subsystem = value.into(),
            Some(("MODALIAS", value)) => event.modalias = Some(value.into()),
            _ => {}
        }
    }
    (!event.action.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_rubbish_is_not() {
        let message =
            b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=pci\0MODALIAS=pci:v1\0SEQNUM=1\0";
        let event = parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.modalias.as_deref()), ("add", Some("pci:v1")));
        assert_eq!(parse(b"\xff\0ACTION=add"), None);
        assert_eq!(parse(b""), None);
    }
}
