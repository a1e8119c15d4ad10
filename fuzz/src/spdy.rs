//! SPDY frames written again.
use bytes::{Bytes, BytesMut};
use streams::fuzzing::{Encoder, Frame};

/// Which frames a client can send that writes with our encoder.
#[must_use]
pub fn writable(frame: &Frame) -> bool {
    !matches!(frame, Frame::GoAway | Frame::Finish { .. } | Frame::Ignored)
}

/// The frames as bytes.
#[must_use]
pub fn write(frames: &[Frame]) -> BytesMut {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    for frame in frames {
        let start = out.len();
        match frame {
            Frame::SynStream { id, headers, fin } => {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
                encoder.syn_stream(&mut out, *id, &headers);
                out[start + 4] = u8::from(*fin);
            }
            Frame::Data { id, piece, fin } => {
                Encoder::data(&mut out, *id, piece.len(), *fin);
                out.extend_from_slice(piece);
            }
            Frame::Reset { id } => Encoder::reset(&mut out, *id, 0),
            Frame::Ping { id } => Encoder::ping(&mut out, *id),
            Frame::GoAway | Frame::Finish { .. } | Frame::Ignored => {}
        }
    }
    out
}

/// Adds a frame; a piece of data to the piece before it, if that did not end its stream.
pub fn join(frames: &mut Vec<Frame>, frame: Frame) {
    if let Frame::Data { id, piece, fin } = &frame
        && let Some(Frame::Data { id: last, piece: before, fin: ended }) = frames.last_mut()
        && last == id
        && !*ended
    {
        *before = Bytes::from([&before[..], piece].concat());
        *ended = *fin;
    } else {
        frames.push(frame);
    }
}
