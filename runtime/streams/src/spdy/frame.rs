//! SPDY/3.1 frames, as far as Kubernetes' streams use them, from and to bytes.
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The largest control frame, and the largest header block once decompressed.
pub const MAX_CONTROL: usize = 64 << 10;
/// The most headers of a block.
const MAX_HEADERS: usize = 100;
/// The largest piece that a data frame is handed on in.
const PIECE: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;

/// Status of RST_STREAM: the stream is not one we take.
pub const PROTOCOL_ERROR: u32 = 1;
/// Status of RST_STREAM: there are too many streams.
pub const REFUSED_STREAM: u32 = 3;

/// What the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        headers: Vec<(String, String)>,
        fin: bool,
    },
    /// A piece of a data frame; `fin` with its last one.
    Data {
        id: u32,
        piece: Bytes,
        fin: bool,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// HEADERS that end a stream.
    Finish {
        id: u32,
    },
    /// Understood and of no consequence.
    Ignored,
}

/// Why a connection cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPDY: {0}")]
pub struct FrameError(&'static str);

/// Reads frames.
#[derive(Debug)]
pub struct Decoder {
    inflate: Decompress,
    /// The data frame under way: stream, bytes left, whether it ends the stream.
    data: Option<(u32, usize, bool)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true), data: None }
    }
}

impl Decoder {
    /// The next frame in `buffer`, or `None` until more bytes are there. `buffer` need never hold more than a control frame.
    ///
    /// # Errors
    /// When the bytes are no SPDY, or beyond the bounds; the connection is of no use then.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((id, left, fin)) = self.data {
            if left > 0 && buffer.is_empty() {
                return Ok(None);
            }
            let piece = buffer.split_to(left.min(buffer.len()).min(PIECE)).freeze();
            let left = left - piece.len();
            self.data = (left > 0).then_some((id, left, fin));
            return Ok(Some(Frame::Data { id, piece, fin: fin && left == 0 }));
        }
        let Some(head) = buffer.first_chunk::<8>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if word >> 31 == 0 {
            buffer.advance(8);
            if word == 0 {
                return Err(FrameError("data for stream 0"));
            }
            self.data = Some((word, length, head[4] & FIN != 0));
            return self.next(buffer);
        }
        if word >> 16 & 0x7fff != 3 {
            return Err(FrameError("a version that is not 3"));
        }
        if length > MAX_CONTROL {
            return Err(FrameError("control frame too large"));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        buffer.advance(8);
        let payload = buffer.split_to(length).freeze();
        self.control(word as u16, head[4], payload).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
        let word =
            |payload: &mut Bytes| payload.try_get_u32().map_err(|_| FrameError("control frame too short"));
        match kind {
            SYN_STREAM => {
                let id = word(&mut payload)? & 0x7fff_ffff;
                word(&mut payload)?;
                payload.try_get_u16().map_err(|_| FrameError("control frame too short"))?;
                let headers = self.headers(&payload)?;
                let fin = flags & FIN != 0;
                if id == 0 {
                    return Err(FrameError("stream 0 opened"));
                }
                Ok(Frame::SynStream { id, headers, fin })
            }
            SYN_REPLY | HEADERS => {
                let id = word(&mut payload)? & 0x7fff_ffff;
                // Read even where nobody wants them: the compression goes on from block to block.
                self.headers(&payload)?;
                Ok(if flags & FIN != 0 { Frame::Finish { id } } else { Frame::Ignored })
            }
            RST_STREAM => Ok(Frame::Reset { id: word(&mut payload)? & 0x7fff_ffff }),
            PING => Ok(Frame::Ping { id: word(&mut payload)? }),
            GOAWAY => Ok(Frame::GoAway),
            SETTINGS | WINDOW_UPDATE => Ok(Frame::Ignored),
            _ => Err(FrameError("unknown control frame")),
        }
    }

    fn headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let bad = FrameError("malformed header block");
        let word = |rest: &mut &[u8]| rest.try_get_u32().map_err(|_| FrameError("malformed header block"));
        let count = word(&mut rest)? as usize;
        if count > MAX_HEADERS {
            return Err(FrameError("too many headers"));
        }
        let mut headers = Vec::with_capacity(count);
        let text = |rest: &mut &[u8]| -> Result<String, FrameError> {
            let length = word(rest)? as usize;
            let (text, after) = rest.split_at_checked(length).ok_or(FrameError("malformed header block"))?;
            *rest = after;
            String::from_utf8(text.to_vec()).map_err(|_| FrameError("a header is not UTF-8"))
        };
        for _ in 0..count {
            headers.push((text(&mut rest)?.to_ascii_lowercase(), text(&mut rest)?));
        }
        if rest.is_empty() { Ok(headers) } else { Err(bad) }
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            let result = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let used = (self.inflate.total_in() - before_in) as usize;
            block = &block[used.min(block.len())..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| FrameError("unknown dictionary"))?;
                    continue;
                }
                Err(_) => return Err(FrameError("header compression is broken")),
                Ok(Status::StreamEnd) => return Err(FrameError("header compression was ended")),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if plain.len() > MAX_CONTROL {
                return Err(FrameError("header block too large"));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            } else if block.is_empty() || (used == 0 && plain.len() == before_out) {
                return Ok(plain);
            }
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // A dictionary can be refused only once compression has begun.
        let _ = deflate.set_dictionary(&DICTIONARY);
        Self { deflate }
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

impl Encoder {
    /// The head of a data frame; `length` bytes follow it.
    pub fn data(out: &mut BytesMut, id: u32, length: usize, fin: bool) {
        out.put_u32(id);
        out.put_u32(u32::from(fin) << 24 | length as u32);
    }

    /// Accepts a stream.
    pub fn reply(&mut self, out: &mut BytesMut, id: u32) {
        let block = self.header_block(&[]);
        control(out, SYN_REPLY, 0, 4 + block.len());
        out.put_u32(id);
        out.put_slice(&block);
    }

    /// Opens a stream (what a client does).
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn syn_stream(&mut self, out: &mut BytesMut, id: u32, headers: &[(&str, &str)]) {
        let block = self.header_block(headers);
        control(out, SYN_STREAM, 0, 10 + block.len());
        out.put_u32(id);
        out.put_u32(0);
        out.put_u16(0);
        out.put_slice(&block);
    }

    pub fn reset(out: &mut BytesMut, id: u32, status: u32) {
        control(out, RST_STREAM, 0, 8);
        out.put_u32(id);
        out.put_u32(status);
    }

    pub fn ping(out: &mut BytesMut, id: u32) {
        control(out, PING, 0, 4);
        out.put_u32(id);
    }

    pub fn window_update(out: &mut BytesMut, id: u32, delta: u32) {
        control(out, WINDOW_UPDATE, 0, 8);
        out.put_u32(id);
        out.put_u32(delta);
    }

    fn header_block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync);
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            if status.is_err() || (rest.is_empty() && block.len() < block.capacity()) {
                return block;
            }
            block.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(step.max(1)) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.next(&mut buffer)? {
                frames.push(frame);
            }
            assert!(buffer.len() <= MAX_CONTROL + 8 + step);
        }
        Ok(frames)
    }

    #[test]
    fn streams_data_and_pings_are_read_however_they_are_cut() {
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        encoder.syn_stream(&mut bytes, 1, &[("StreamType", "error")]);
        encoder.syn_stream(&mut bytes, 3, &[("streamtype", "stdin"), ("port", "80")]);
        Encoder::data(&mut bytes, 3, 5, true);
        bytes.put_slice(b"hello");
        Encoder::ping(&mut bytes, 7);
        Encoder::reset(&mut bytes, 1, 5);
        for step in [1, 2, 3, 7, 1000] {
            let frames = all(&mut Decoder::default(), &bytes, step).unwrap();
            let text: Vec<u8> = frames
                .iter()
                .flat_map(|f| if let Frame::Data { piece, .. } = f { piece.to_vec() } else { vec![] })
                .collect();
            assert_eq!(text, b"hello");
            assert!(
                matches!(&frames[0], Frame::SynStream { id: 1, headers, .. } if headers[0] == ("streamtype".into(), "error".into()))
            );
            assert!(matches!(&frames[1], Frame::SynStream { id: 3, headers, .. } if headers.len() == 2));
            assert_eq!(frames.iter().filter(|f| matches!(f, Frame::Data { fin: true, .. })).count(), 1);
            assert_eq!(&frames[frames.len() - 2..], [Frame::Ping { id: 7 }, Frame::Reset { id: 1 }]);
        }
    }

    #[test]
    fn a_header_bomb_is_refused() {
        let mut encoder = Encoder::default();
        let mut bytes = BytesMut::new();
        encoder.syn_stream(&mut bytes, 1, &[("a", &"x".repeat(1 << 20))]);
        assert_eq!(all(&mut Decoder::default(), &bytes, 4096), Err(FrameError("header block too large")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000), step in 1..64_usize) {
            let _ = all(&mut Decoder::default(), &bytes, step);
        }

        #[test]
        fn damaged_frames_are_read_or_refused(at in 0..200_usize, to in any::<u8>(), step in 1..64_usize) {
            let mut encoder = Encoder::default();
            let mut bytes = BytesMut::new();
            for id in [1, 3, 5] {
                encoder.syn_stream(&mut bytes, id, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]);
            }
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = all(&mut Decoder::default(), &bytes, step);
        }
    }
}
