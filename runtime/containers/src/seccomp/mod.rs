//! System call filters: profiles compiled to BPF once, kept as files, and loaded by the container's init.
//!
//! Compiling takes 15 ms, loading the program none; so a profile is compiled when it is first met and its program named after its content.
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use sha2::{Digest, Sha256};

mod default;
pub(crate) mod profile;

pub use profile::Profile;

/// Why a container cannot have its filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the seccomp profile {}: {source}; put it on the node or correct localhostProfile", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the seccomp profile {} cannot be understood: {source}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the seccomp profile has an action that is not supported: {0}")]
    Action(String),
    #[error("compile the seccomp profile: {0}")]
    Compile(#[from] SeccompError),
    #[error("keep a compiled seccomp profile in {}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
}

/// Compiled profiles below one folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Keeps programs in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The program of `RuntimeDefault` for these capabilities (of the bounding set).
    ///
    /// # Errors
    /// When it cannot be compiled or kept.
    pub fn runtime_default(&self, capabilities: &BTreeSet<String>) -> Result<PathBuf, Error> {
        let relevant: Vec<&str> = default::BY_CAPABILITY
            .iter()
            .map(|(capability, _)| *capability)
            .filter(|capability| capabilities.contains(*capability))
            .collect();
        self.get(format!("runtime-default {}", relevant.join(" ")).as_bytes(), || {
            compile_default(capabilities)
        })
    }

    /// The program of a profile file of the node.
    ///
    /// # Errors
    /// When it cannot be read, understood or compiled.
    pub fn localhost(&self, path: &Path, capabilities: &BTreeSet<String>) -> Result<PathBuf, Error> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let profile: Profile =
            serde_json::from_slice(&bytes).map_err(|source| Error::Parse { path: path.into(), source })?;
        let key = [&bytes[..], format!("{capabilities:?}").as_bytes()].concat();
        self.get(&key, || profile::compile(&profile, capabilities))
    }

    fn get(&self, key: &[u8], compile: impl FnOnce() -> Result<Vec<u8>, Error>) -> Result<PathBuf, Error> {
        let path = self.folder.join(format!("{}.bpf", hex::encode(Sha256::digest(key))));
        if !path.exists() {
            let keep = |source| Error::Keep { path: path.clone(), source };
            fs::create_dir_all(&self.folder).map_err(keep)?;
            crate::state::write_atomically(&path, &compile()?).map_err(keep)?;
        }
        Ok(path)
    }
}

/// A filter for this machine's architecture and the 32-bit ones that run on it.
fn context(default_action: ScmpAction) -> Result<ScmpFilterContext, SeccompError> {
    let mut filter = ScmpFilterContext::new(default_action)?;
    if cfg!(target_arch = "x86_64") {
        filter.add_arch(ScmpArch::X86)?;
        filter.add_arch(ScmpArch::X32)?;
    } else if cfg!(target_arch = "aarch64") {
        filter.add_arch(ScmpArch::Arm)?;
    }
    // The kernel's NNP is set from the container's own setting, not by the loader.
    filter.set_ctl_nnp(false)?;
    Ok(filter)
}

fn compile_default(capabilities: &BTreeSet<String>) -> Result<Vec<u8>, Error> {
    let mut filter = context(ScmpAction::Errno(nix::libc::EPERM))?;
    let mut names: BTreeSet<&str> = default::ALLOWED.split_ascii_whitespace().collect();
    for (capability, more) in default::BY_CAPABILITY {
        if capabilities.contains(*capability) {
            names.extend(more.split_ascii_whitespace());
        }
    }
    for name in &names {
        allow(&mut filter, name, &[])?;
    }
    for value in default::PERSONALITIES {
        allow(&mut filter, "personality", &[ScmpArgCompare::new(0, ScmpCompareOp::Equal, *value)])?;
    }
    allow(&mut filter, "socket", &[ScmpArgCompare::new(0, ScmpCompareOp::NotEqual, default::AF_VSOCK)])?;
    if !names.contains("clone") {
        let none = ScmpCompareOp::MaskedEqual(default::CLONE_NAMESPACES);
        allow(&mut filter, "clone", &[ScmpArgCompare::new(0, none, 0)])?;
        // Its flags lie in memory, out of a filter's sight: ENOSYS makes C libraries fall back to clone.
        if let Ok(call) = ScmpSyscall::from_name("clone3") {
            filter.add_rule(ScmpAction::Errno(nix::libc::ENOSYS), call)?;
        }
    }
    export(&filter)
}

/// What a pause process does once it is one: read signals and a word, reap, and end; and what memory that
/// takes.
const PAUSE: &str = "brk clock_nanosleep close dup2 dup3 exit exit_group futex madvise mmap mprotect mremap munmap read restart_syscall rt_sigprocmask rt_sigreturn sigaltstack \
    wait4 waitid";

/// The program of a pause process.
///
/// # Errors
/// When it cannot be compiled.
pub(crate) fn pause() -> Result<Vec<u8>, Error> {
    let mut filter = context(ScmpAction::Errno(nix::libc::EPERM))?;
    for name in PAUSE.split_ascii_whitespace() {
        allow(&mut filter, name, &[])?;
    }
    export(&filter)
}

/// libseccomp writes programs to descriptors only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let in_memory = || -> io::Result<fs::File> {
        Ok(nix::sys::memfd::memfd_create(c"seccomp", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?.into())
    };
    let memory = || Path::new("memory").to_owned();
    let mut file = in_memory().map_err(|source| Error::Keep { path: memory(), source })?;
    filter.export_bpf(&file)?;
    let mut program = Vec::new();
    let mut read = || {
        file.seek(io::SeekFrom::Start(0))?;
        file.read_to_end(&mut program)
    };
    read().map_err(|source| Error::Keep { path: memory(), source })?;
    Ok(program)
}

/// Names that this libseccomp does not know are left out: they stay forbidden.
fn allow(
    filter: &mut ScmpFilterContext,
    name: &str,
    conditions: &[ScmpArgCompare],
) -> Result<(), SeccompError> {
    let Ok(call) = ScmpSyscall::from_name(name) else { return Ok(()) };
    filter.add_rule_conditional(ScmpAction::Allow, call, conditions).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0000;

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: u32 = 0xc000_00b7;

    /// What the kernel answers a call with this first argument: the program, run as it runs it (see
    /// `struct seccomp_data` and the operations of classic BPF in linux/filter.h).
    fn verdict(program: &[u8], call: i64, argument: u64) -> u32 {
        let mut data = i32::try_from(call).unwrap().to_ne_bytes().to_vec();
        data.extend(ARCHITECTURE.to_ne_bytes());
        data.extend([0, argument, 0, 0, 0, 0, 0].map(u64::to_ne_bytes).concat());
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let instruction: [u8; 8] = program[at * 8..][..8].try_into().unwrap();
            let [low, high, met, unmet, operand @ ..] = instruction;
            let operand = u32::from_ne_bytes(operand);
            at += 1;
            let is_met = match u16::from_ne_bytes([low, high]) {
                0x20 => {
                    accumulator = u32::from_ne_bytes(data[operand as usize..][..4].try_into().unwrap());
                    continue;
                }
                0x54 => {
                    accumulator &= operand;
                    continue;
                }
                0x05 => {
                    at += operand as usize;
                    continue;
                }
                0x06 => return operand,
                0x15 => accumulator == operand,
                0x25 => accumulator > operand,
                0x35 => accumulator >= operand,
                0x45 => accumulator & operand != 0,
                other => panic!("an operation that libseccomp does not use: {other:#x}"),
            };
            at += usize::from(if is_met { met } else { unmet });
        }
    }

    #[test]
    fn the_default_profile_allows_what_programs_need_and_capabilities_widen_it() {
        use nix::libc::{
            ENOSYS, EPERM, SYS_clone, SYS_clone3, SYS_mount, SYS_openat, SYS_reboot, SYS_unshare,
        };
        let refuse = |errno: i32| REFUSE | errno as u32;
        let new_user_namespace = nix::libc::CLONE_NEWUSER as u64;
        let plain = compile_default(&BTreeSet::new()).unwrap();
        let admin = compile_default(&BTreeSet::from(["CAP_SYS_ADMIN".to_owned()])).unwrap();
        for (call, argument, without, with) in [
            (SYS_openat, 0, ALLOW, ALLOW),
            (SYS_clone, 0, ALLOW, ALLOW),
            (SYS_clone, new_user_namespace, refuse(EPERM), ALLOW),
            (SYS_clone3, 0, refuse(ENOSYS), ALLOW),
            (SYS_mount, 0, refuse(EPERM), ALLOW),
            (SYS_unshare, new_user_namespace, refuse(EPERM), ALLOW),
            (SYS_reboot, 0, refuse(EPERM), refuse(EPERM)),
        ] {
            assert_eq!(verdict(&plain, call, argument), without, "call {call} ({argument:#x})");
            assert_eq!(
                verdict(&admin, call, argument),
                with,
                "call {call} ({argument:#x}) with CAP_SYS_ADMIN"
            );
        }
        let boot = compile_default(&BTreeSet::from(["CAP_SYS_BOOT".to_owned()])).unwrap();
        assert_eq!((verdict(&boot, SYS_reboot, 0), verdict(&boot, SYS_mount, 0)), (ALLOW, refuse(EPERM)));
    }

    #[test]
    fn a_localhost_profile_is_compiled_once_per_content() {
        let folder = std::env::temp_dir().join(format!("pintle-seccomp-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("profile.json");
        fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#).unwrap();
        let cache = Cache::new(folder.join("cache"));
        let first = cache.localhost(&path, &BTreeSet::new()).unwrap();
        assert_eq!(first, cache.localhost(&path, &BTreeSet::new()).unwrap());
        let missing = cache.localhost(&folder.join("none.json"), &BTreeSet::new()).unwrap_err();
        assert!(missing.to_string().contains("none.json"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
