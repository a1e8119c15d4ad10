//! Which devices the processes of a cgroup may use (BPF_PROG_TYPE_CGROUP_DEVICE), compiled and attached without a BPF library.
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Block = 1,
    Char = 2,
}

/// May make a node.
pub const MKNOD: u32 = 1;
/// May read.
pub const READ: u32 = 2;
/// May write.
pub const WRITE: u32 = 4;

/// One thing that is allowed; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Sum of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: u32,
}

/// One eBPF instruction in the kernel's layout.
type Instruction = [u8; 8];

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let mut bytes = [0; 8];
    bytes[0] = code;
    bytes[1] = destination | (source << 4);
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_ne_bytes());
    bytes
}

/// Compiles an allow-list; everything else is refused with EPERM. Registers: 2 kind, 3 access, 4 major, 5 minor.
fn compile(rules: &[Allow]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests: Vec<(u8, i32)> = Vec::new();
        tests.extend(rule.kind.map(|kind| (2, kind as i32)));
        tests.extend(rule.major.map(|major| (4, major as i32)));
        tests.extend(rule.minor.map(|minor| (5, minor as i32)));
        // What follows the tests: access (3 instructions), then allow (2).
        let mut left = tests.len() + 5;
        for (register, value) in tests {
            left -= 1;
            program.push(instruction(JUMP_NOT_EQUAL, register, 0, left as i16, value));
        }
        program.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
        program.push(instruction(AND, 1, 0, 0, !(rule.access as i32)));
        program.push(instruction(JUMP_NOT_EQUAL, 1, 0, 2, 0));
        program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 1));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Restricts the cgroup whose directory `cgroup` is to what `rules` allow, for good.
///
/// # Errors
/// As bpf(2): without CAP_BPF and CAP_NET_ADMIN, on a kernel without CGROUP_BPF, or when `cgroup` is no directory of cgroup2.
pub fn restrict(cgroup: impl AsFd, rules: &[Allow]) -> io::Result<()> {
    let program = loaded(compile(rules))?;
    let attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes are a live, fully initialised prefix of the kernel's union of the size given; it takes missing bytes as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attributes,
            std::mem::size_of::<AttachAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many programs stay loaded: most containers may use the same devices, and the kernel takes long to verify a program.
pub const KEPT: usize = 8;

/// The programs that were used last, the latest at the end.
static LOADED: Mutex<Vec<(Vec<Instruction>, Arc<OwnedFd>)>> = Mutex::new(Vec::new());

/// The program, loaded now or before.
fn loaded(program: Vec<Instruction>) -> io::Result<Arc<OwnedFd>> {
    let mut kept = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = kept.iter().position(|(known, _)| *known == program).map(|at| kept.remove(at));
    let entry = match known {
        Some(entry) => entry,
        None => {
            let descriptor = Arc::new(load(&program)?);
            (program, descriptor)
        }
    };
    let descriptor = Arc::clone(&entry.1);
    kept.push(entry);
    let surplus = kept.len().saturating_sub(KEPT);
    kept.drain(..surplus);
    Ok(descriptor)
}

/// How often a load that a signal interrupted is tried again.
const LOAD_RETRIES: usize = 10;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttributes::default()
    };
    let load = || {
        // SAFETY: the attributes are a live prefix of the kernel's union; instructions and license outlive the call, which copies them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attributes,
                std::mem::size_of::<LoadAttributes>(),
            )
        };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    let interrupted = |error: &io::Error| error.raw_os_error() == Some(libc::EAGAIN);
    let mut loaded = load();
    // The kernel gives up verifying a program when a signal arrives, and says so by EAGAIN.
    for _ in 0..LOAD_RETRIES {
        if loaded.as_ref().is_err_and(interrupted) {
            loaded = load();
        }
    }
    let fd = loaded?;
    // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the few instructions that `compile` emits.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [kind | (access << 16), major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let bytes = program[at];
            let (destination, source) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let immediate = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            at += 1;
            match bytes[0] {
                LOAD_WORD => registers[destination] = u64::from(context[offset as usize / 4]),
                MOVE_IMMEDIATE => registers[destination] = immediate as u64,
                MOVE_REGISTER => registers[destination] = registers[source],
                AND => registers[destination] = u64::from(registers[destination] as u32 & immediate as u32),
                SHIFT_RIGHT => {
                    registers[destination] = u64::from((registers[destination] as u32) >> immediate)
                }
                JUMP_NOT_EQUAL if registers[destination] != immediate as u64 => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let program = compile(&[
            Allow { kind: Some(Kind::Char), major: Some(1), minor: Some(3), access: READ | WRITE | MKNOD },
            Allow { kind: Some(Kind::Block), major: Some(8), minor: None, access: READ },
            Allow { kind: None, major: None, minor: None, access: MKNOD },
        ]);
        assert_eq!(run(&program, 2, READ | WRITE, 1, 3), 1);
        assert_eq!(run(&program, 2, READ, 1, 4), 0);
        assert_eq!(run(&program, 1, READ, 8, 17), 1);
        assert_eq!(run(&program, 1, READ | WRITE, 8, 17), 0);
        assert_eq!(run(&program, 1, MKNOD, 9, 9), 1);
        assert_eq!(run(&program, 1, MKNOD | READ, 9, 9), 0);
    }
}
