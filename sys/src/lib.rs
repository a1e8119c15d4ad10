//! The kernel facade: the only crate of the workspace that may contain `unsafe`, each block with the invariant that makes it sound.
//! It imports none of ours. One file per kernel concept.

pub mod beneath;
pub mod block;
pub mod child;
pub mod clock;
pub mod confine;
pub mod device_filter;
pub mod dm;
pub mod entropy;
pub mod fork;
pub mod framed;
pub mod inherited;
pub mod loop_device;
pub mod memory;
pub mod module;
pub mod mount;
pub mod mount_tree;
pub mod netns;
pub mod overlay;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod readiness;
pub mod seccomp;
pub mod service;
pub mod spawn;
pub mod terminal;
pub mod uevent;
pub mod wait;
pub mod watchdog;
