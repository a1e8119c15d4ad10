//! Builds Pintle's OS image: Debian's kernel, an initramfs with init's first stage, and the root as EROFS under dm-verity, for
//! disks, ISO, PXE and as a unified kernel image. Needs no root; the same input gives the same bytes.
pub mod build;
pub mod bundle;
pub mod cpio;
pub mod debian;
pub mod digest;
pub mod disk;
pub mod fat;
pub mod formats;
pub mod initramfs;
pub mod iso;
pub mod layout;
pub mod libraries;
pub mod modules;
pub mod rootfs;
pub mod run;
pub mod tree;
pub mod uki;
pub mod verity;
pub mod wanted;
