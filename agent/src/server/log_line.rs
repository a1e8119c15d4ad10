//! Lines of container logs: `<RFC 3339 time> <stdout|stderr> <P|F> <text>` (the CRI log format).
use jiff::Timestamp;

/// The stream that a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogLine<'a> {
    /// As it is written.
    pub(super) stamp: &'a [u8],
    pub(super) time: Timestamp,
    pub(super) stream: Stream,
    /// The text goes on in the next line.
    pub(super) partial: bool,
    pub(super) text: &'a [u8],
}

/// Parses one line without its newline; `None` for anything else, such as half a line after a crash.
pub(super) fn parse(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let stamp = parts.next()?;
    let time = std::str::from_utf8(stamp).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; only the first is defined.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(LogLine { stamp, time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    /// Lines from the end; `None`: all.
    pub(super) tail: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) limit_bytes: Option<u64>,
    /// Only this stream.
    pub(super) stream: Option<StreamChoice>,
}

/// A stream chosen by `stream=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamChoice {
    Stdout,
    Stderr,
}

/// Turns log lines into what the client sees.
#[derive(Debug)]
pub(super) struct Formatter {
    options: LogOptions,
    left: Option<u64>,
    at_line_start: bool,
}

impl Formatter {
    pub(super) fn new(options: LogOptions) -> Self {
        Self { left: options.limit_bytes, options, at_line_start: true }
    }

    /// Appends what a line shows. False: the limit is reached and nothing more will come.
    pub(super) fn push(&mut self, line: &[u8], output: &mut Vec<u8>) -> bool {
        let Some(parsed) = parse(line) else { return true };
        let chosen = match self.options.stream {
            None => true,
            Some(StreamChoice::Stdout) => parsed.stream == Stream::Stdout,
            Some(StreamChoice::Stderr) => parsed.stream == Stream::Stderr,
        };
        if !chosen || self.options.since.is_some_and(|since| parsed.time < since) {
            return true;
        }
        let begin = output.len();
        if self.options.timestamps && self.at_line_start {
            output.extend_from_slice(parsed.stamp);
            output.push(b' ');
        }
        output.extend_from_slice(parsed.text);
        if !parsed.partial {
            output.push(b'\n');
        }
        self.at_line_start = !parsed.partial;
        let Some(left) = &mut self.left else { return true };
        let added = (output.len() - begin) as u64;
        if added >= *left {
            output.truncate(begin + usize::try_from(*left).unwrap_or(0));
            *left = 0;
            return false;
        }
        *left -= added;
        true
    }
}
