//! `pintle-net`: everything that reads packets from strangers for PID 1, in a process of its own that may raw-send and bind low ports and
//! nothing else: DHCPv4, SNTP, and fetching the machine config over HTTP(S).

mod dhcp;
mod fetch;
mod join;
mod service;
mod sntp;

pub use service::run;
