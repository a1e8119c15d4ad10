//! What the fuzz targets drive: everything here that takes bytes from outside apart.
pub use crate::spdy::frame::{Decoder, Encoder, Frame, FrameError, MAX_CONTROL};
