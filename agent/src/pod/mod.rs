//! One pod: what to do next is decided without IO ([`decide`]), done by its task ([`worker`]) and told as a status ([`status`]).
pub mod convert;
pub mod decide;
pub mod observed;
pub mod resize;
pub mod security;
pub mod start;
pub mod status;
pub mod worker;
