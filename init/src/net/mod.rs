//! `pintle-net`: everything that reads packets from strangers for PID 1, in a process of its own that may raw-send and bind low ports and
//! nothing else: DHCPv4, SNTP, and fetching the machine config over HTTP(S).

pub mod dhcp;
pub mod fetch;
pub mod join;
pub mod messages;
pub mod service;
pub mod sntp;
