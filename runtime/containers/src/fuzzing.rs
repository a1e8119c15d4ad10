//! What the fuzz targets drive: everything here that takes bytes from outside apart.
pub use crate::logs::{LogFile, MAX_LINE, Stream, format, timestamp};
pub use crate::seccomp::{Error as SeccompError, Profile, profile::compile};
pub use crate::transfer::{Left, Note, finish};
