//! SPDY frames: how the bytes are cut does not matter, what is read can be written and read again, and little is held.
#![cfg_attr(feature = "libfuzzer", no_main)]
use bytes::BytesMut;
use fuzz::spdy::{join, writable, write};
use streams::fuzzing::{Decoder, Frame, FrameError, MAX_CONTROL};

fn read(stream: &[u8], step: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in stream.chunks(step) {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => join(&mut frames, frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(buffer.len() <= MAX_CONTROL + 8, "{} bytes are held", buffer.len());
    }
    (frames, Ok(()))
}

fn frames(bytes: &[u8]) {
    let Some((step, stream)) = bytes.split_first() else { return };
    let (frames, end) = read(stream, usize::from(*step) + 1);
    let whole = read(stream, stream.len().max(1));
    assert!(whole.0 == frames && whole.1 == end, "{whole:?} is not {frames:?} {end:?}");
    let frames = frames.into_iter().filter(writable).fold(Vec::new(), |mut frames, frame| {
        join(&mut frames, frame);
        frames
    });
    assert_eq!(read(&write(&frames), 7), (frames, Ok(())));
}

fuzz::target!(frames);
