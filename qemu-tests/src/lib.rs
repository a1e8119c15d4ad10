//! Virtual machines for `cargo xtask up` and for the QEMU cases: a builder for the command line, QMP, the serial console, disks and
//! networks that need no root.
pub mod accel;
pub mod boot;
pub mod console;
pub mod image;
pub mod network;
pub mod process;
pub mod qmp;
pub mod spec;
pub mod vm;

pub use accel::Accel;
pub use boot::Boot;
pub use image::Image;
pub use spec::Spec;
pub use vm::Vm;
