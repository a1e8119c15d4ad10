//! DHCPv4 client (RFC 2131): a codec, a state machine without IO, and the socket that drives it.

pub mod client;
pub mod codec;
pub mod machine;
