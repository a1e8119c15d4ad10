//! What init and `pintle-config` say to each other: one request and one answer on the socketpair that `pintle-config` has as descriptor 3, each
//! a length of four bytes (big endian) and a message. Both ends are of one build. `pintle-config` is the one that reads YAML of strangers.
//!
//! Documents go as JSON of the types themselves. They are read strictly (no unknown fields, no more than [`MAX_DOCUMENTS`]), JSON is what their
//! serde attributes are made for (defaults that are left out, tags, untyped pods), and PID 1 reads JSON anyway.
use prost::Message as _;

use crate::config::{Fault, MachineConfig};
use crate::socket;

/// The largest request, in bytes: a config and its envelope.
pub const MAX_REQUEST: usize = socket::MAX_CONFIG + 4096;
/// The largest JSON of the documents, in bytes: JSON writes a character of the text with six at most.
pub const MAX_DOCUMENTS: usize = 6 * socket::MAX_CONFIG + (64 << 10);
/// The largest answer, in bytes: documents, and the text without its secrets, which YAML may write longer than it was.
pub const MAX_ANSWER: usize = 2 * MAX_DOCUMENTS;
/// The most faults of an answer.
pub const MAX_FAULTS: usize = 200;

/// From init to `pintle-config`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Request {
    /// What faults call the text.
    #[prost(string, tag = "1")]
    pub source: String,
    /// As it came; it need not be text.
    #[prost(bytes = "vec", tag = "2")]
    pub yaml: Vec<u8>,
}

/// From `pintle-config` to init. Without documents there are faults.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    #[prost(message, repeated, tag = "1")]
    pub faults: Vec<socket::Fault>,
    #[prost(message, optional, tag = "2")]
    pub read: Option<Wire>,
}

/// A config without faults, on its way.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Wire {
    /// JSON of [`MachineConfig`].
    #[prost(bytes = "vec", tag = "1")]
    pub documents: Vec<u8>,
    /// The text without its secrets, for readers of the machine API.
    #[prost(string, tag = "2")]
    pub redacted: String,
}

/// A config without faults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    pub config: MachineConfig,
    /// The text without its secrets.
    pub redacted: String,
}

/// Why an answer is none.
#[derive(Debug, thiserror::Error)]
pub enum Nonsense {
    #[error("the answer is no message: {0}")]
    Message(#[from] prost::DecodeError),
    #[error("the documents in the answer are none: {0}")]
    Documents(#[from] serde_json::Error),
    #[error("the answer holds {0} bytes of documents; {MAX_DOCUMENTS} are the most")]
    Long(usize),
    #[error("the answer holds {0} faults{also}; without documents it is 1 to {MAX_FAULTS}", also = if *.1 { " and documents" } else { "" })]
    Faults(usize, bool),
}

impl Answer {
    /// The answer for what was read, or for its faults.
    ///
    /// # Errors
    /// When a document cannot be written as JSON.
    pub fn new(outcome: Result<Read, Vec<Fault>>) -> Result<Self, serde_json::Error> {
        Ok(match outcome {
            Ok(read) => {
                let documents = serde_json::to_vec(&read.config)?;
                Self { faults: Vec::new(), read: Some(Wire { documents, redacted: read.redacted }) }
            }
            Err(faults) => Self { faults: faults.into_iter().map(Into::into).collect(), read: None },
        })
    }

    /// What an answer says, whoever wrote it.
    ///
    /// # Errors
    /// When it is none.
    pub fn outcome(bytes: &[u8]) -> Result<Result<Read, Vec<Fault>>, Nonsense> {
        let answer = Self::decode(bytes)?;
        let count = answer.faults.len();
        match answer.read {
            Some(wire) if count == 0 => {
                if wire.documents.len() > MAX_DOCUMENTS {
                    return Err(Nonsense::Long(wire.documents.len()));
                }
                let config = serde_json::from_slice(&wire.documents)?;
                Ok(Ok(Read { config, redacted: wire.redacted }))
            }
            None if (1..=MAX_FAULTS).contains(&count) => {
                Ok(Err(answer.faults.into_iter().map(Into::into).collect()))
            }
            read => Err(Nonsense::Faults(count, read.is_some())),
        }
    }
}

impl From<Fault> for socket::Fault {
    fn from(fault: Fault) -> Self {
        let Fault { file, line, column, field, message, remedy } = fault;
        Self { file, line, column, field, message, remedy }
    }
}

impl From<socket::Fault> for Fault {
    fn from(fault: socket::Fault) -> Self {
        let socket::Fault { file, line, column, field, message, remedy } = fault;
        Self { file, line, column, field, message, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: Result<Read, Vec<Fault>>) -> Result<Read, Vec<Fault>> {
        Answer::outcome(&Answer::new(outcome).unwrap().encode_to_vec()).unwrap()
    }

    #[test]
    fn faults_arrive_as_they_were_found() {
        let fault = Fault {
            file: "api".into(),
            line: 3,
            column: 5,
            field: "Link.mtu".into(),
            message: "too small".into(),
            remedy: "use 1280 or more".into(),
        };
        assert_eq!(told(Err(vec![fault.clone()])), Err(vec![fault]));
    }

    #[test]
    fn an_answer_without_sense_is_refused() {
        let said = |answer: Answer| Answer::outcome(&answer.encode_to_vec()).unwrap_err().to_string();
        let read = |json: &str| Some(Wire { documents: json.into(), redacted: String::new() });
        assert!(Answer::outcome(b"\xff\xff").unwrap_err().to_string().contains("no message"));
        assert!(said(Answer::default()).contains("0 faults"));
        let faults = vec![socket::Fault::default(); MAX_FAULTS + 1];
        assert!(said(Answer { faults, read: None }).contains("201 faults"));
        let whole =
            String::from_utf8(Answer::new(Ok(Read::default())).unwrap().read.unwrap().documents).unwrap();
        assert!(Answer::outcome(&Answer { faults: vec![], read: read(&whole) }.encode_to_vec()).is_ok());
        let both = Answer { faults: vec![socket::Fault::default()], read: read(&whole) };
        assert!(said(both).contains("and documents"));
        for json in ["", "{}", "[]", &whole.replacen('{', "{\"unknown\":1,", 1), &"[".repeat(100_000)] {
            assert!(said(Answer { faults: vec![], read: read(json) }).contains("documents"), "{json:.40}");
        }
        let long = " ".repeat(MAX_DOCUMENTS + 1);
        assert!(said(Answer { faults: vec![], read: read(&long) }).contains("are the most"));
    }

    /// The kinds that no file of the corpus has without faults.
    #[cfg(feature = "parse")]
    const FURTHER: &str = "apiVersion: pintle.dev/v1alpha1
kind: Dhcp
link: {name: eth0}
---
apiVersion: pintle.dev/v1alpha1
kind: StaticPod
name: a
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec: {containers: [{name: c, image: i, args: [\"1\", \"\\u2028\"]}], priority: 9007199254740993}
---
apiVersion: pintle.dev/v1alpha1
kind: Manifest
name: a
content: |
  apiVersion: v1
  kind: ConfigMap
  metadata: {name: a}
";

    #[cfg(feature = "parse")]
    #[test]
    fn documents_of_every_kind_arrive_as_they_were_read() {
        crate::config::parse("further", FURTHER).unwrap();
        let mut kinds = std::collections::BTreeSet::<&str>::new();
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/machine_config");
        let files =
            std::fs::read_dir(corpus).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()));
        for text in files.chain([Ok(FURTHER.into())]).flatten() {
            let Ok(config) = crate::config::parse("t", &text) else { continue };
            let has = |kind: &&str| text.contains(&format!("kind: {kind}\n"));
            kinds.extend(crate::config::KINDS.into_iter().filter(has));
            let read = Read { config, redacted: text };
            assert_eq!(told(Ok(read.clone())), Ok(read));
        }
        let missing: Vec<_> = crate::config::KINDS.into_iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(missing.is_empty(), "no file of the corpus has {missing:?} without faults");
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>, documents: Vec<u8>) {
            let _ = Answer::outcome(&bytes);
            let read = Some(Wire { documents, redacted: String::new() });
            let _ = Answer::outcome(&Answer { faults: vec![], read }.encode_to_vec());
        }
    }
}
