//! Calls that are answered once.
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use machine::socket::{Condition, Empty, ExitKey, FdName, Service, reply, request::Call};
use sys::framed::FramedSocket;
use tokio::sync::Mutex;

use super::{Answer, CallError, connect, receive, send};

/// PID 1 answers most calls from memory.
const DEADLINE: Duration = Duration::from_secs(10);

/// A connection for single calls, one at a time. It connects when it is first needed, and again after a failure.
#[derive(Debug, Default)]
pub struct Client {
    connection: Mutex<Option<FramedSocket>>,
}

impl Client {
    /// The client of this machine's PID 1; none on a host that has another.
    pub fn find() -> Option<Self> {
        std::path::Path::new(machine::paths::MACHINE_SOCKET).exists().then(Self::default)
    }

    /// The service gives a sign of life.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn alive(&self) -> Result<(), CallError> {
        self.call(Call::Alive(Empty {}), &[]).await.map(drop)
    }

    /// The service is ready.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn ready(&self) -> Result<(), CallError> {
        self.call(Call::Ready(Empty {}), &[]).await.map(drop)
    }

    /// Reports what `pintle health` shows; `since_unix_ms` is when it became so.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn report(
        &self,
        name: &str,
        ok: bool,
        reason: &str,
        message: &str,
        since_unix_ms: i64,
    ) -> Result<(), CallError> {
        let condition = Condition {
            name: name.into(),
            ok,
            reason: reason.into(),
            message: message.into(),
            since_unix_ms,
            reporter: String::new(),
        };
        self.call(Call::ReportCondition(condition), &[]).await.map(drop)
    }

    /// Keeps descriptors under a name across the service's death.
    ///
    /// # Errors
    /// When PID 1 does not answer or its store is full.
    pub async fn put(&self, name: &str, descriptors: &[RawFd]) -> Result<(), CallError> {
        self.call(Call::FdPut(FdName { name: name.into() }), descriptors).await.map(drop)
    }

    /// The descriptors that are kept under a name.
    ///
    /// # Errors
    /// When PID 1 does not answer or knows no such name.
    pub async fn get(&self, name: &str) -> Result<Vec<OwnedFd>, CallError> {
        self.call(Call::FdGet(FdName { name: name.into() }), &[]).await.map(|(_, descriptors)| descriptors)
    }

    /// Forgets the descriptors under a name.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn remove(&self, name: &str) -> Result<(), CallError> {
        self.call(Call::FdRemove(FdName { name: name.into() }), &[]).await.map(drop)
    }

    /// Every name in the store.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn names(&self) -> Result<Vec<String>, CallError> {
        match self.call(Call::FdList(Empty {}), &[]).await?.0 {
            reply::Result::FdNames(names) => Ok(names.names),
            _ => Err(CallError::Unreadable),
        }
    }

    /// The services of the machine, with how often each was started again and how often it hung.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn services(&self) -> Result<Vec<Service>, CallError> {
        match self.call(Call::ListServices(Empty {}), &[]).await?.0 {
            reply::Result::Services(list) => Ok(list.services),
            _ => Err(CallError::Unreadable),
        }
    }

    /// Says that an exit is on record here, so that PID 1 may forget it. `start_time` is in clock ticks since the machine started.
    ///
    /// # Errors
    /// When PID 1 does not answer.
    pub async fn acknowledge(&self, pid: i32, start_time: u64) -> Result<(), CallError> {
        self.call(Call::AckExit(ExitKey { pid, start_time }), &[]).await.map(drop)
    }

    async fn call(&self, call: Call, descriptors: &[RawFd]) -> Result<Answer, CallError> {
        let mut connection = self.connection.lock().await;
        // Taken out for the call: one that is cancelled or fails leaves no half-used connection behind.
        if let Some(mut socket) = connection.take() {
            match exchange(&mut socket, call.clone(), descriptors).await {
                // PID 1 hangs up on connections that are idle for long.
                Err(CallError::Unreachable(_) | CallError::Closed) => {}
                done => {
                    *connection = matches!(done, Ok(_) | Err(CallError::Refused { .. })).then_some(socket);
                    return done;
                }
            }
        }
        let mut socket = connect()?;
        let done = exchange(&mut socket, call, descriptors).await;
        *connection = matches!(done, Ok(_) | Err(CallError::Refused { .. })).then_some(socket);
        done
    }
}

async fn exchange(socket: &mut FramedSocket, call: Call, descriptors: &[RawFd]) -> Result<Answer, CallError> {
    let talk = async {
        send(socket, "", call, descriptors).await?;
        receive(socket).await
    };
    let (answer, _) = tokio::time::timeout(DEADLINE, talk)
        .await
        .map_err(|_| CallError::Late(DEADLINE))??
        .ok_or(CallError::Closed)?;
    Ok(answer)
}
