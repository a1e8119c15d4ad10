//! Virtual machines for `cargo xtask up` and for the QEMU cases: a builder for the command line, QMP, the serial console, disks and
//! networks that need no root; and whole clusters of such machines.
pub mod accel;
pub mod archive;
pub mod boot;
pub mod cluster;
pub mod command;
pub mod console;
pub mod e2e;
pub mod ginkgo;
pub mod image;
pub mod kubectl;
pub mod network;
pub mod process;
pub mod progress;
pub mod qmp;
pub mod random;
pub mod secret_file;
pub mod spec;
pub mod stock_kubelet;
pub mod transports;
pub mod vm;
pub mod write_log;

pub use accel::Accel;
pub use boot::Boot;
pub use cluster::Cluster;
pub use image::Image;
pub use kubectl::Kubectl;
pub use progress::{Look, Progress};
pub use spec::Spec;
pub use vm::Vm;
