//! Reading a config outside of this process: PID 1 sees documents, and YAML never.
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machine::config::{Fault, MachineConfig};
use machine::config_helper::{Answer, MAX_ANSWER, Nonsense, Read, Request};
use machine::paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use sys::spawn::{CAP_SYS_ADMIN, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::children::Children;

const PROGRAM: &str = "/usr/lib/pintle/pintle-config";
const CGROUP: &str = "/sys/fs/cgroup/system/config";
/// From the start of the process to its answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a text waits for those before it.
const TURN: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(2);
/// The most of what the process says on standard error that an error shows, in bytes.
const SAID: u64 = 1024;
/// It is the first to go when memory is short; the text can be read again.
const OOM_SCORE_ADJ: i32 = 500;

/// A config's text and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub yaml: String,
    pub source: String,
}

/// The active config, as text and as documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActiveConfig {
    pub yaml: String,
    /// Where it came from: `state`, `image`, `cmdline`, `volume PINTLE-CONFIG`, `fw_cfg`, `api`.
    pub source: String,
    pub config: MachineConfig,
    /// The text without its secrets.
    pub redacted: String,
}

/// Why a text is no config.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    #[error("{} faults", .0.len())]
    Faults(Vec<Fault>),
    #[error("start {PROGRAM}: {0}")]
    Start(#[source] io::Error),
    #[error("the reader of configs is busy with others for {} s", TURN.as_secs())]
    Busy,
    #[error("the reader did not answer within {} s and was killed: the text is too much for it", DEADLINE.as_secs())]
    Late,
    #[error("the reader did not survive the text: {0}")]
    Ended(String),
    #[error("the reader's answer makes no sense: {0}")]
    Nonsense(#[from] Nonsense),
    #[error("the reader's answer has {0} bytes; {MAX_ANSWER} are the most")]
    Long(usize),
}

impl NotRead {
    /// Whether the text is to blame, so that another try would end as this one did.
    pub const fn is_of_the_text(&self) -> bool {
        !matches!(self, Self::Start(_) | Self::Busy | Self::Late)
    }
}

/// Reads configs, each in a process of its own, one at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    children: Children,
    turn: Arc<tokio::sync::Mutex<()>>,
    #[cfg(test)]
    instead: Option<Instead>,
}

/// Stands in for the process.
#[cfg(test)]
type Instead = fn(&Found) -> Result<Arc<ActiveConfig>, NotRead>;

impl Reader {
    /// Starts its processes as children of `children`.
    pub fn new(children: Children) -> Self {
        Self {
            children,
            turn: Arc::default(),
            #[cfg(test)]
            instead: None,
        }
    }

    #[cfg(test)]
    pub fn of(instead: Instead) -> Self {
        Self { instead: Some(instead), ..Self::new(Children::default()) }
    }

    /// Reads what a source gave.
    ///
    /// # Errors
    /// Every fault of the text, or why nobody could read it.
    pub async fn read(&self, found: &Found) -> Result<Arc<ActiveConfig>, NotRead> {
        #[cfg(test)]
        if let Some(instead) = self.instead {
            return instead(found);
        }
        let _turn = tokio::time::timeout(TURN, self.turn.lock()).await.map_err(|_| NotRead::Busy)?;
        let (process, socket) = Process::start(&self.children).map_err(NotRead::Start)?;
        let answer = tokio::time::timeout(DEADLINE, ask(socket, found)).await;
        let ended = process.end().await;
        let Read { config, redacted } = match answer {
            Ok(Ok(bytes)) => Answer::outcome(&bytes)?.map_err(NotRead::Faults)?,
            Ok(Err(Unanswered::Long(length))) => return Err(NotRead::Long(length)),
            Ok(Err(Unanswered::Socket(why))) => return Err(NotRead::Ended(format!("{why}; {ended}"))),
            Err(_) => return Err(NotRead::Late),
        };
        let (yaml, source) = (found.yaml.clone(), found.source.clone());
        Ok(Arc::new(ActiveConfig { yaml, source, config, redacted }))
    }
}

/// One that reads.
#[derive(Debug)]
struct Process {
    pid: i32,
    ended: oneshot::Receiver<i32>,
    output: io::PipeReader,
}

impl Process {
    fn start(children: &Children) -> io::Result<(Self, UnixStream)> {
        fs::create_dir_all(CGROUP)?;
        let (ours, theirs) = UnixStream::pair()?;
        let (output, write) = io::pipe()?;
        // Whoever is being started just now may have the other end for a while.
        nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        let (pid, ended) = children.start(Program {
            path: PROGRAM.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cgroup_procs: Some(Path::new(CGROUP).join("cgroup.procs")),
            user: Some(paths::CONFIG_UID),
            // With it the process gives up the network; then it gives it up too, before it reads (sys::confine).
            capabilities: vec![CAP_SYS_ADMIN],
            output: write.into(),
            channel: Some(OwnedFd::from(theirs)),
            oom_score_adj: Some(OOM_SCORE_ADJ),
        })?;
        Ok((Self { pid, ended, output }, ours))
    }

    /// Ends it, whatever it still does, and tells what became of it.
    async fn end(mut self) -> String {
        // One that has closed its socket is about to end by itself, with its reason.
        let own = tokio::time::timeout(GONE / 4, &mut self.ended).await;
        let status = match own {
            Ok(status) => status.ok(),
            Err(_) => {
                let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
                tokio::time::timeout(GONE, &mut self.ended).await.ok().and_then(Result::ok)
            }
        };
        let Some(status) = status else { return "its end was not seen".into() };
        let mut said = Vec::new();
        let _ = self.output.take(SAID).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said).replace(|c: char| c.is_control(), " ");
        format!("{} ({})", sys::wait::describe(status), said.trim())
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0} bytes")]
    Long(usize),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Sends the text and receives the answer's bytes.
async fn ask(socket: UnixStream, found: &Found) -> Result<Vec<u8>, Unanswered> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    let request = Request { source: found.source.clone(), yaml: found.yaml.clone().into_bytes() };
    let request = request.encode_to_vec();
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    socket.write_all(&length.to_be_bytes()).await?;
    socket.write_all(&request).await?;
    let length = socket.read_u32().await? as usize;
    if length > MAX_ANSWER {
        return Err(Unanswered::Long(length));
    }
    // Grown as bytes come: a length is only a claim.
    let mut answer = Vec::new();
    socket.take(length as u64).read_to_end(&mut answer).await?;
    if answer.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn found() -> Found {
        Found { yaml: "a: b".into(), source: "t".into() }
    }

    /// Reads the request and answers with these bytes; then the other end is gone.
    fn answers(bytes: Vec<u8>) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut length = [0; 4];
            theirs.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            theirs.read_exact(&mut request).unwrap();
            assert_eq!(Request::decode(&*request).unwrap().yaml, b"a: b");
            let _ = theirs.write_all(&bytes);
        });
        ours
    }

    #[tokio::test]
    async fn a_whole_answer_is_taken_and_no_other() {
        assert_eq!(ask(answers(b"\0\0\0\x02ab".to_vec()), &found()).await.unwrap(), b"ab");
        for short in [&b""[..], b"\0\0", b"\0\0\0\x03ab", b"\0\x0f\0\0ab"] {
            let why = ask(answers(short.to_vec()), &found()).await.unwrap_err();
            assert!(
                matches!(&why, Unanswered::Socket(e) if e.kind() == io::ErrorKind::UnexpectedEof),
                "{why}"
            );
        }
        let why = ask(answers(b"\xff\xff\xff\xffab".to_vec()), &found()).await.unwrap_err();
        assert!(matches!(why, Unanswered::Long(_)), "{why}");
    }

    #[test]
    fn what_another_try_may_change_is_no_fault_of_the_text() {
        assert!(NotRead::Ended(String::new()).is_of_the_text());
        assert!(!NotRead::Start(io::ErrorKind::NotFound.into()).is_of_the_text());
        assert!(!NotRead::Late.is_of_the_text() && !NotRead::Busy.is_of_the_text());
    }
}
