//! PID 1 as the runtime needs it: the fd store, the exit ledger, and the word that we are ready.
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use machine::socket::{self, Empty, FdName, Reply, Request, reply::Result as Answer, request::Call};
use prost::Message;
use sys::framed::FramedSocket;
use tokio::sync::Mutex;

/// PID 1 answers from memory.
const DEADLINE: Duration = Duration::from_secs(10);

/// The connection for single calls. It reconnects by itself.
#[derive(Debug, Default)]
pub struct MachineSocket {
    connection: Mutex<Option<FramedSocket>>,
}

impl MachineSocket {
    /// The socket of this machine's PID 1; none on a host that has another.
    pub fn find() -> Option<Self> {
        std::path::Path::new(machine::paths::MACHINE_SOCKET).exists().then(Self::default)
    }

    /// Tells that the service is ready.
    ///
    /// # Errors
    /// When PID 1 cannot be asked.
    pub async fn ready(&self) -> io::Result<()> {
        self.call(Call::Ready(Empty {}), &[]).await.map(drop)
    }

    /// Keeps descriptors under a name across our death.
    ///
    /// # Errors
    /// When PID 1 cannot be asked or its store is full.
    pub async fn put(&self, name: &str, descriptors: &[RawFd]) -> io::Result<()> {
        self.call(Call::FdPut(FdName { name: name.into() }), descriptors).await.map(drop)
    }

    /// The descriptors kept under a name.
    ///
    /// # Errors
    /// When PID 1 cannot be asked or knows no such name.
    pub async fn get(&self, name: &str) -> io::Result<Vec<OwnedFd>> {
        self.call(Call::FdGet(FdName { name: name.into() }), &[]).await.map(|(_, descriptors)| descriptors)
    }

    /// Forgets the descriptors under a name.
    ///
    /// # Errors
    /// When PID 1 cannot be asked.
    pub async fn remove(&self, name: &str) -> io::Result<()> {
        self.call(Call::FdRemove(FdName { name: name.into() }), &[]).await.map(drop)
    }

    /// Every name in the store.
    ///
    /// # Errors
    /// When PID 1 cannot be asked.
    pub async fn names(&self) -> io::Result<Vec<String>> {
        match self.call(Call::FdList(Empty {}), &[]).await?.0 {
            Answer::FdNames(names) => Ok(names.names),
            _ => Err(unexpected()),
        }
    }

    /// Says that an exit is on record here, so that PID 1 may forget it.
    ///
    /// # Errors
    /// When PID 1 cannot be asked.
    pub async fn acknowledge(&self, pid: i32, start_time: u64) -> io::Result<()> {
        self.call(Call::AckExit(socket::ExitKey { pid, start_time }), &[]).await.map(drop)
    }

    async fn call(&self, call: Call, descriptors: &[RawFd]) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let mut connection = self.connection.lock().await;
        // Taken out for the call: a call that is cancelled or fails leaves no half-used connection behind.
        let (mut socket, reused) = match connection.take() {
            Some(socket) => (socket, true),
            None => (connect()?, false),
        };
        let result = match exchange(&mut socket, &call, descriptors).await {
            Err(_) if reused => {
                socket = connect()?;
                exchange(&mut socket, &call, descriptors).await
            }
            other => other,
        };
        let (answer, descriptors) = result?;
        *connection = Some(socket);
        match answer {
            Answer::Error(error) => Err(io::Error::other(error.message)),
            answer => Ok((answer, descriptors)),
        }
    }
}

async fn exchange(
    socket: &mut FramedSocket,
    call: &Call,
    descriptors: &[RawFd],
) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let request = Request { id: 1, call: Some(call.clone()), ..Request::default() };
    let talk = async {
        socket.send(&request.encode_to_vec(), descriptors).await?;
        socket.recv().await
    };
    let reply = tokio::time::timeout(DEADLINE, talk)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "PID 1 did not answer within 10 s"))??;
    let (frame, descriptors) = reply.ok_or(io::ErrorKind::UnexpectedEof)?;
    let answer = Reply::decode(&frame[..]).map_err(|_| unexpected())?.result.ok_or_else(unexpected)?;
    Ok((answer, descriptors))
}

fn connect() -> io::Result<FramedSocket> {
    FramedSocket::connect(machine::paths::MACHINE_SOCKET, socket::MAX_FRAME)
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "PID 1 sent something unexpected")
}

/// The ledger's stream: unacknowledged exits first, then each as it happens.
#[derive(Debug)]
pub struct ExitStream(FramedSocket);

impl ExitStream {
    /// Opens it.
    ///
    /// # Errors
    /// When PID 1 cannot be asked.
    pub async fn open() -> io::Result<Self> {
        let socket = connect()?;
        let request = Request { id: 1, call: Some(Call::WatchExits(Empty {})), ..Request::default() };
        socket.send(&request.encode_to_vec(), &[]).await?;
        Ok(Self(socket))
    }

    /// The next exit.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> io::Result<socket::Exit> {
        loop {
            let (frame, _) = self.0.recv().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            match Reply::decode(&frame[..]).map_err(|_| unexpected())?.result {
                Some(Answer::Exit(exit)) => return Ok(exit),
                Some(Answer::Error(error)) => return Err(io::Error::other(error.message)),
                _ => {}
            }
        }
    }
}
