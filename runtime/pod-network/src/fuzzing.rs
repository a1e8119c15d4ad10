//! What the fuzz targets drive: everything here that takes bytes from outside apart.
pub use crate::cni::config::{NetworkConfig, parse_list, parse_single};
pub use crate::cni::record::{Attachment, Phase};
pub use crate::cni::request::attachment as attachment_request;
pub use crate::cni::result::{AddResult, reason};
pub use crate::cni::version::Version;
