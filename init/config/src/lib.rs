//! `pintle-config`: reads machine config for PID 1, wherever it came from, in a process of its own that lives for one text. It starts as a user of
//! its own and gives up the network, every capability, further processes and most memory before it reads a byte.

mod redact;

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use machine::config::{self, Fault};
use machine::config_helper::{Answer, MAX_ANSWER, MAX_FAULTS, MAX_REQUEST, Read, Request};
use prost::Message as _;
use sys::confine::{Limits, confine};

/// Much more than the worst text of 1 MiB takes, in a process whose own pages are shared.
const LIMITS: Limits = Limits { memory: 512 << 20, processor_seconds: 5, descriptors: 16 };

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("give up what reading needs not: {0}")]
    Confine(#[source] io::Error),
    #[error("read the request: {0}")]
    Request(#[source] io::Error),
    #[error("the request has {0} bytes; {MAX_REQUEST} are the most")]
    Long(usize),
    #[error("the request is no message: {0}")]
    Message(#[from] prost::DecodeError),
    #[error("write the documents: {0}")]
    Documents(#[from] serde_json::Error),
    #[error("the answer has {0} bytes; {MAX_ANSWER} are the most")]
    LongAnswer(usize),
    #[error("write the answer: {0}")]
    Answer(#[source] io::Error),
}

/// Answers the one request that comes over the socket.
///
/// # Errors
/// When it cannot be confined, or the socket fails.
pub fn run(socket: UnixStream) -> Result<(), Failed> {
    confine(LIMITS).map_err(Failed::Confine)?;
    serve(socket)
}

fn serve(mut socket: UnixStream) -> Result<(), Failed> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).map_err(Failed::Request)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_REQUEST {
        return Err(Failed::Long(length));
    }
    let mut request = vec![0; length];
    socket.read_exact(&mut request).map_err(Failed::Request)?;
    let request = Request::decode(&*request)?;
    let answer = Answer::new(read(&request))?.encode_to_vec();
    let length = u32::try_from(answer.len()).ok().filter(|length| *length as usize <= MAX_ANSWER);
    let length = length.ok_or(Failed::LongAnswer(answer.len()))?;
    socket.write_all(&length.to_be_bytes()).and_then(|()| socket.write_all(&answer)).map_err(Failed::Answer)
}

/// Reads a text: the documents and the text without secrets, or every fault.
fn read(request: &Request) -> Result<Read, Vec<Fault>> {
    let whole = |message: String, remedy: &str| {
        let (file, remedy) = (request.source.clone(), remedy.into());
        vec![Fault { file, line: 0, column: 0, field: String::new(), message, remedy }]
    };
    let text = std::str::from_utf8(&request.yaml)
        .map_err(|why| whole(format!("it is no UTF-8 text: {why}"), "save it as UTF-8"))?;
    let mut outcome = config::parse(&request.source, text);
    if let Err(faults) = &mut outcome {
        faults.truncate(MAX_FAULTS);
    }
    let config = outcome?;
    let redacted = redact::redact(text)
        .map_err(|why| whole(format!("its secrets cannot be left out: {why}"), "write it as plain YAML"))?;
    Ok(Read { config, redacted })
}

#[cfg(test)]
mod tests;
