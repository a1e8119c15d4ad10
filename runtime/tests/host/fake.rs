//! A registry in this process, on an address of our own, that fails as it is told. It writes its answers byte by byte, since no library lets one lie so.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::content::{Content, digest_of};

/// What is wrong with an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Its head never ends.
    Silent,
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// The connection is closed after so many bytes of the body.
    Break(usize),
    /// A byte at a time.
    Trickle,
    /// `Content-Length` is off by so much.
    Length(i64),
    /// Another status, with a header.
    Status(u16, &'static str, String),
    /// The same path elsewhere.
    Redirect(String),
    /// Other content under the same name.
    Content(Vec<u8>),
}

/// Which answers are wrong, and how often.
#[derive(Debug, Clone)]
struct Rule {
    paths: Vec<String>,
    times: usize,
    fault: Fault,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    content: RefCell<BTreeMap<String, Vec<u8>>>,
    rules: RefCell<Vec<Rule>>,
    seen: RefCell<Vec<Seen>>,
    /// The challenge, and the authorization that satisfies it.
    guard: RefCell<Option<(String, String)>>,
    knows_no_ranges: Cell<bool>,
    /// A pause after each chunk.
    pause: Cell<Duration>,
    /// Bytes of bodies.
    served: Cell<u64>,
    news: Notify,
}

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct Fake {
    state: Rc<State>,
    pub address: String,
}

/// Addresses for registries. They are not of loopback, where nothing is pulled from that is not configured by name.
pub const HERE: &str = "192.0.2.1";
pub const THERE: &str = "192.0.2.2";
/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Gives the network namespace an address.
async fn take(address: IpAddr) -> Result<(), String> {
    if address.is_loopback() {
        return Ok(());
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(crate::ring::text)?;
    let connection = tokio::task::spawn_local(connection);
    let taken = handle.address().add(LOOPBACK, address, 32).execute().await;
    connection.abort();
    match taken {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(Errno::EEXIST as i32) => Ok(()),
        taken => taken.map_err(crate::ring::text),
    }
}

const CHUNK: usize = 16 << 10;
pub const ALWAYS: usize = usize::MAX;

impl Fake {
    /// Listens on an address, which this network namespace is given if it is none of loopback.
    pub async fn start(ip: &str) -> Result<Self, String> {
        sys::netns::raise_loopback().map_err(crate::ring::text)?;
        take(ip.parse().map_err(crate::ring::text)?).await?;
        let listener = TcpListener::bind((ip, 0)).await.map_err(crate::ring::text)?;
        let address = listener.local_addr().map_err(crate::ring::text)?.to_string();
        let fake = Self { state: Rc::default(), address };
        let serving = fake.clone();
        crate::ring::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                crate::ring::spawn_local(async move { drop(fake.serve(stream).await) });
            }
        });
        Ok(fake)
    }

    /// Serves an image as `<name>:v1`; returns its whole name.
    pub fn publish(&self, name: &str, image: &Content) -> String {
        let mut content = self.state.content.borrow_mut();
        for blob in image.layers.iter().chain([&image.config]) {
            content.insert(format!("/v2/{name}/blobs/{}", digest_of(blob)), blob.clone());
        }
        for version in ["v1", &digest_of(&image.manifest)] {
            content.insert(format!("/v2/{name}/manifests/{version}"), image.manifest.clone());
        }
        format!("{}/{name}:v1", self.address)
    }

    /// Breaks so many answers under paths that contain one of these.
    pub fn fail(&self, paths: &[String], times: usize, fault: Fault) {
        self.state.rules.borrow_mut().push(Rule { paths: paths.to_vec(), times, fault });
    }

    pub fn heal(&self) {
        self.state.rules.borrow_mut().clear();
    }

    pub fn guard(&self, challenge: &str, authorization: &str) {
        *self.state.guard.borrow_mut() = Some((challenge.into(), authorization.into()));
    }

    pub fn know_no_ranges(&self) {
        self.state.knows_no_ranges.set(true);
    }

    pub fn slow_down(&self, pause: Duration) {
        self.state.pause.set(pause);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    /// Waits until so many bytes more have been served.
    pub async fn served(&self, more: u64) {
        let goal = self.state.served.get() + more;
        while self.state.served.get() < goal {
            self.state.news.notified().await;
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let (authorization, range) = (header("authorization"), header("range"));
        let seen = Seen { path: path.clone(), authorization: authorization.clone(), range: range.clone() };
        self.state.seen.borrow_mut().push(seen);
        let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        self.answer(&mut stream, &path, authorization, from).await?;
        stream.shutdown().await
    }

    async fn answer(
        &self,
        stream: &mut TcpStream,
        path: &str,
        authorization: Option<String>,
        from: Option<usize>,
    ) -> std::io::Result<()> {
        let guard = self.state.guard.borrow().clone();
        if let Some((challenge, wanted)) = guard
            && authorization.as_deref() != Some(&wanted)
        {
            let echo = format!("you are {}", authorization.unwrap_or_default());
            let echo = serde_json::json!({"errors": [{"code": "UNAUTHORIZED", "message": echo}]}).to_string();
            return self.plain(stream, 401, ("WWW-Authenticate", &challenge), &echo).await;
        }
        let fault = self.fault(path);
        let mut body = match &fault {
            Some(Fault::Silent) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nX-Begun: yes\r\n").await?;
                return std::future::pending().await;
            }
            Some(Fault::Status(status, name, value)) => {
                return self.plain(stream, *status, (name, value), "no").await;
            }
            Some(Fault::Redirect(to)) => {
                return self.plain(stream, 307, ("Location", &format!("{to}{path}")), "").await;
            }
            Some(Fault::Content(other)) => other.clone(),
            _ => match self.state.content.borrow().get(path) {
                Some(content) => content.clone(),
                None => Vec::new(),
            },
        };
        if body.is_empty() {
            return self.plain(stream, 404, ("X-Nothing", "here"), "").await;
        }
        let (whole, from) = (body.len(), from.filter(|_| !self.state.knows_no_ranges.get()));
        let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
        body.drain(..from.unwrap_or(0).min(whole));
        let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        if let Some(from) = from {
            head += &format!("Content-Range: bytes {from}-{}/{whole}\r\n", whole - 1);
        }
        // Of the content that it should have.
        if path.contains("/manifests/")
            && let Some(content) = self.state.content.borrow().get(path)
        {
            head += &format!("Docker-Content-Digest: {}\r\n", digest_of(content));
        }
        let off = if let Some(Fault::Length(off)) = fault { off } else { 0 };
        head += &format!("Content-Length: {}\r\n\r\n", body.len() as i64 + off);
        stream.write_all(head.as_bytes()).await?;
        self.body(stream, &body, fault).await
    }

    async fn body(&self, stream: &mut TcpStream, body: &[u8], fault: Option<Fault>) -> std::io::Result<()> {
        let (most, chunk, pause) = match fault {
            Some(Fault::Stall(most) | Fault::Break(most)) => (most, CHUNK, self.state.pause.get()),
            Some(Fault::Trickle) => (body.len(), 1, Duration::from_millis(50)),
            _ => (body.len(), CHUNK, self.state.pause.get()),
        };
        for part in body[..most.min(body.len())].chunks(chunk) {
            stream.write_all(part).await?;
            self.state.served.set(self.state.served.get() + part.len() as u64);
            self.state.news.notify_waiters();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        if matches!(fault, Some(Fault::Stall(_))) { std::future::pending().await } else { Ok(()) }
    }

    async fn plain(
        &self,
        stream: &mut TcpStream,
        status: u16,
        header: (&str, &str),
        body: &str,
    ) -> std::io::Result<()> {
        let (name, value) = header;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} Status\r\nConnection: close\r\n{name}: {value}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await
    }

    fn fault(&self, path: &str) -> Option<Fault> {
        let mut rules = self.state.rules.borrow_mut();
        let mut meant = rules.iter_mut().filter(|rule| rule.paths.iter().any(|part| path.contains(part)));
        let rule = meant.find(|rule| rule.times > 0)?;
        rule.times = if rule.times == ALWAYS { ALWAYS } else { rule.times - 1 };
        Some(rule.fault.clone())
    }
}
