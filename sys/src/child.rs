//! Starting a program right in a cgroup (CLONE_INTO_CGROUP of clone3(2)). A move into a cgroup by cgroup.procs waits for a grace period of RCU under a lock of the
//! whole machine, which takes several milliseconds.
use std::ffi::{CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

/// `linux/sched.h`; wider than libc's type for flags.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A child of this process. It is the caller's to reap.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// What the child goes by. It shares our memory and must not allocate.
struct Plan {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    stdin: RawFd,
    null: RawFd,
    no_signals: libc::sigset_t,
    /// Why it could not be started; 0 when it was.
    error: i32,
}

/// Words of 16 bytes; what the child does needs a few hundred bytes.
type Stack = [MaybeUninit<u128>; 4096];

/// Starts `program` in `/`, without arguments and environment, with `stdin` and no output; in `cgroup`, a folder of cgroup2, or else in ours.
///
/// # Errors
/// As clone3(2) (`EBUSY` when the cgroup has given its controllers to its children, `EAGAIN` at its limit) and execve(2).
pub fn start(program: &Path, stdin: BorrowedFd<'_>, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Child> {
    let program = CString::new(program.as_os_str().as_bytes())?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let (arguments, environment) = ([program.as_ptr(), ptr::null()], [ptr::null()]);
    let mut plan = Plan {
        program: program.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        stdin: stdin.as_raw_fd(),
        null: null.as_raw_fd(),
        no_signals: *SigSet::empty().as_ref(),
        error: 0,
    };
    // The child makes them its standard streams, in this order, without a flag that would close them.
    if plan.stdin < 3 || plan.null < 3 {
        return Err(io::Error::other("the standard streams are closed"));
    }
    let mut stack = Box::<Stack>::new_uninit();
    let mut pidfd: RawFd = -1;
    // SAFETY: all fields are numbers, and zero is one of each.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    clone.flags = flags as u64 | CLONE_CLEAR_SIGHAND;
    clone.pidfd = (&raw mut pidfd) as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    clone.stack = stack.as_mut_ptr() as u64;
    clone.stack_size = size_of::<Stack>() as u64;
    if let Some(cgroup) = cgroup {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = cgroup.as_raw_fd() as u64;
    }
    // A handler of ours must not run in the child.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    // SAFETY: the plan with all that it points to, the stack and the arguments of the call live until it returns, which CLONE_VFORK delays until the child has
    // left our memory; no signal is handled in between, here or there.
    let result = unsafe { clone_and_run(&raw mut clone, &raw mut plan) };
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    let pid = result as i32;
    // SAFETY: the kernel has just put this descriptor there, so it is open and owned by nobody else.
    let child = Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    // SAFETY: the plan is live; the child, which may have written to it behind the compiler's back, has ended.
    match unsafe { ptr::read_volatile(&raw const plan.error) } {
        0 => Ok(child),
        error => {
            // It is a zombie.
            crate::pidfd::reap(pid)?;
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// The pid of a child that does [`run`] on the stack of `clone`, or a negative error number.
///
/// # Safety
/// `clone` must have CLONE_VM, CLONE_VFORK and a stack of its own; it and `plan` must be live, with everything that they point to.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_run(clone: *mut libc::clone_args, plan: *mut Plan) -> i64 {
    let result: i64;
    // SAFETY: in this thread it is a system call that changes the registers named. The child begins behind it with an empty stack whose end is a multiple of 16,
    // as the ABI wants it before a call, and never comes back from `run`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call {run}",
            "2:",
            run = sym run,
            in("r12") plan,
            in("rdi") clone,
            in("rsi") size_of::<libc::clone_args>(),
            inlateout("rax") libc::SYS_clone3 => result,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child.
///
/// # Safety
/// `plan` must be live with everything that it points to, and nobody else may use it.
unsafe extern "C" fn run(plan: *mut Plan) -> ! {
    // SAFETY: system calls alone, on descriptors and C strings of the plan. What errno lies in is our parent's, which is suspended.
    unsafe {
        let Plan { stdin, null, .. } = *plan;
        let streams = [(stdin, 0), (null, 1), (null, 2)];
        let good = streams.iter().all(|(from, to)| libc::dup2(*from, *to) >= 0)
            && libc::chdir(c"/".as_ptr()) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, &raw const (*plan).no_signals, ptr::null_mut()) == 0;
        if good {
            libc::execve((*plan).program, (*plan).arguments, (*plan).environment);
        }
        (*plan).error = *libc::__errno_location();
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn wait(child: &Child) -> i32 {
        loop {
            if let Some(status) = crate::pidfd::reap(child.pid).unwrap() {
                return status;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_child_has_its_stdin_and_nothing_of_ours() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = start(Path::new("/bin/cat"), theirs.as_fd(), None).unwrap();
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.pid)).unwrap();
        // The kernel lets go of our memory before it has laid out the program's.
        while read("cmdline").is_empty() {
            std::thread::yield_now();
        }
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", child.pid)).unwrap();
        assert_eq!(link("cwd"), Path::new("/"));
        assert_eq!((link("fd/1"), link("fd/2")), ("/dev/null".into(), "/dev/null".into()));
        assert_eq!((read("cmdline"), read("environ")), ("/bin/cat\0".into(), String::new()));
        assert!(read("status").contains("SigBlk:\t0000000000000000"));
        drop((ours, theirs));
        assert_eq!(wait(&child), 0);
    }

    #[test]
    fn a_program_that_is_not_there_leaves_no_child() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let error = start(Path::new("/no/such/program"), theirs.as_fd(), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "somebody holds the other end");
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let folder = fs::File::open("/tmp").unwrap();
        assert!(start(Path::new("/bin/true"), theirs.as_fd(), Some(folder.as_fd())).is_err());
    }

    #[test]
    fn children_may_be_started_by_many_threads_at_once() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (_ours, theirs) = UnixStream::pair().unwrap();
                        let child = start(Path::new("/bin/true"), theirs.as_fd(), None).unwrap();
                        assert_eq!(wait(&child), 0);
                    }
                });
            }
        });
    }
}
