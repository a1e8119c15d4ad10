//! The kernel facade: the only crate of the workspace that may contain `unsafe`, each block with the invariant that makes it sound.
//! It imports none of ours. One file per kernel concept.

pub mod framed;
