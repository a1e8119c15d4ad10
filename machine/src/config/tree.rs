//! YAML with the place of every node, bounded: no aliases, limited depth and size, each key once.
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

/// The largest machine config, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting.
const MAX_DEPTH: usize = 64;
/// The most documents.
const MAX_DOCUMENTS: usize = 1000;

/// Where something stands; both 1-based.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// A YAML node with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A null, a boolean, a number or a text.
    Scalar(Value),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// Why a text is no document tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub place: Place,
    pub message: String,
    pub remedy: &'static str,
}

impl Node {
    /// The node as plain data.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => items.iter().map(Self::to_value).collect(),
            Content::Mapping(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_value())).collect())
            }
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The place of a dotted path such as `podCIDRs[0]`, or of the deepest node on the way to it.
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|s| !s.is_empty()) {
            let next = match &node.content {
                Content::Mapping(_) => node.entry(step).map(|entry| &entry.value),
                Content::Sequence(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                Content::Scalar(_) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place
    }
}

/// Reads every document of a text.
///
/// # Errors
/// The first thing that makes it no tree.
pub fn documents(text: &str) -> Result<Vec<Node>, Broken> {
    if text.len() > MAX_BYTES {
        return Err(Broken {
            place: Place::default(),
            message: format!("the config has {} bytes, and at most {MAX_BYTES} are read", text.len()),
            remedy: "leave out what does not belong to the machine",
        });
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Broken {
            place: Place { line: number(error.marker().line()), column: number(error.marker().col() + 1) },
            message: format!("this is no YAML: {}", error.info()),
            remedy: "correct the indentation, quotes or brackets here or just above",
        })?;
        builder.event(event, span)?;
    }
    Ok(builder.documents)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    stack: Vec<Open>,
}

enum Open {
    Sequence(Place, Vec<Node>),
    Mapping(Place, Vec<Entry>, Option<(String, Place)>),
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Broken> {
        let place = Place { line: number(span.start.line()), column: number(span.start.col() + 1) };
        let broken = |message: &str, remedy| Broken { place, message: message.into(), remedy };
        match event {
            Event::Alias(_) => {
                return Err(broken("aliases are not read in a machine config", "write the value out"));
            }
            Event::Scalar(text, style, _, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                self.add(Node { place, content: Content::Scalar(value) }, Some(&text))?;
            }
            Event::SequenceStart(..) => self.open(Open::Sequence(place, Vec::new()), place)?,
            Event::MappingStart(..) => self.open(Open::Mapping(place, Vec::new(), None), place)?,
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.stack.pop() {
                    Some(Open::Sequence(place, items)) => Node { place, content: Content::Sequence(items) },
                    Some(Open::Mapping(place, entries, _)) => {
                        Node { place, content: Content::Mapping(entries) }
                    }
                    None => return Ok(()),
                };
                self.add(node, None)?;
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, open: Open, place: Place) -> Result<(), Broken> {
        if self.stack.len() >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} deep");
            return Err(Broken { place, message, remedy: "no document of a machine config needs that" });
        }
        self.stack.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node, text: Option<&str>) -> Result<(), Broken> {
        match self.stack.last_mut() {
            None if self.documents.len() >= MAX_DOCUMENTS => {
                return Err(Broken {
                    place: node.place,
                    message: format!("more than {MAX_DOCUMENTS} documents"),
                    remedy: "no machine needs that many",
                });
            }
            None => self.documents.push(node),
            Some(Open::Sequence(_, items)) => items.push(node),
            Some(Open::Mapping(_, entries, key)) => match key.take() {
                Some((key, place)) => entries.push(Entry { key, place, value: node }),
                None => {
                    let place = node.place;
                    let Some(name) = text else {
                        let message = "a key is a list or a mapping".into();
                        return Err(Broken {
                            place,
                            message,
                            remedy: "quote text that starts with a bracket or brace",
                        });
                    };
                    if entries.iter().any(|entry| entry.key == name) {
                        let message = format!("the key {name:?} stands here twice");
                        return Err(Broken { place, message, remedy: "keep one of the two" });
                    }
                    *key = Some((name.to_owned(), place));
                }
            },
        }
        Ok(())
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A scalar by YAML 1.2's core schema; what is quoted or tagged `!!str` is text.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str") {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => number_of(text).unwrap_or_else(|| text.into()),
    }
}

fn number_of(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Into::into);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Into::into);
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+'))
    {
        return None;
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    if let Ok(value) = plain.parse::<u64>() {
        return Some(value.into());
    }
    if let Ok(value) = plain.parse::<i64>() {
        return Some(value.into());
    }
    plain.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
}
