//! What the fuzz targets drive: everything here that takes bytes from outside apart.
pub use crate::Limits;
pub use crate::apply::{Applied, ApplyError, apply};
pub use crate::layer::{LayerError, decompress, unpack};
pub use crate::registry::answers::{Challenge, Target, error_message, parse_token, refused_name};
pub use crate::registry::{Manifest, check_config, choose, digest_of};
pub use crate::tarball::{Entry, Kind, TarReader};
