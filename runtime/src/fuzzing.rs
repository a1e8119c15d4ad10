//! What the fuzz targets drive: everything here that takes bytes from outside apart.
pub use crate::logs::{LogFile, MAX_LINE, Stream, format, timestamp};
pub use crate::network::cni::config::{NetworkConfig, parse_list, parse_single};
pub use crate::network::cni::record::{Attachment, Phase};
pub use crate::network::cni::request::attachment as attachment_request;
pub use crate::network::cni::result::{AddResult, reason};
pub use crate::network::cni::version::Version;
pub use crate::seccomp::{Error as SeccompError, Profile, profile::compile};
pub use crate::streaming::spdy::frame::{Decoder, Encoder, Frame, FrameError, MAX_CONTROL};
pub use crate::transfer::{Left, Note, finish};
