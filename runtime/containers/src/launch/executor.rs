//! The last step of a container's init, and of a further process: find the program, load the system call filter, execve.
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use super::enter::Entrance;
use super::wire::send;
use super::{Failure, Reply};

/// Where programs are searched when the container's environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the user's program. libcontainer's own executor takes no compiled filter, and falls back to a shell on an unknown format.
#[derive(Clone)]
pub struct Program {
    pub seccomp: Option<Rc<Vec<u8>>>,
    /// To the runtime. It closes at execve.
    pub socket: Rc<OwnedFd>,
}

impl Program {
    /// Becomes the program; goes in at the entrance, if there is one, before.
    ///
    /// # Errors
    /// With the exit code that a shell would give it.
    pub fn run(&self, process: &Process, entrance: Option<&Entrance>) -> Result<Infallible, Failure> {
        let (path, arguments) = find(process)?;
        let environment = process.env().iter().flatten().map(|entry| text(entry.as_bytes()));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        sys::pidfd::default_sigpipe();
        if let Some(entrance) = entrance {
            entrance.enter()?;
        }
        if let Some(program) = &self.seccomp {
            sys::seccomp::install(program)
                .map_err(|error| Failure::other(format!("load the seccomp filter: {error}")))?;
        }
        let Err(error) = nix::unistd::execve(&path, &arguments, &environment);
        let exit_code = match error {
            nix::Error::ENOENT => 127,
            nix::Error::EACCES | nix::Error::ENOEXEC => 126,
            _ => 128,
        };
        Err(Failure { message: format!("exec {}: {}", path.to_string_lossy(), words(error)), exit_code })
    }

    fn fail(&self, failure: Failure) -> String {
        let message = failure.message.clone();
        // Whoever cannot be told any more has gone; the exit status still says that it failed.
        let _ = send(&self.socket, &Reply::Failed(failure), &[]);
        message
    }
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        match process(spec).and_then(find) {
            Ok(_) => Ok(()),
            Err(failure) => Err(ExecutorValidationError::ArgValidationError(self.fail(failure))),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = process(spec).map_err(|failure| ExecutorError::Other(self.fail(failure)))?;
        let Err(failure) = self.run(process, None);
        Err(ExecutorError::Other(self.fail(failure)))
    }
}

/// The error as Go prints it, which is what users of kubectl search for.
fn words(error: nix::Error) -> String {
    match error {
        nix::Error::ENOEXEC => "exec format error".into(),
        other => other.desc().to_lowercase(),
    }
}

fn process(spec: &Spec) -> Result<&Process, Failure> {
    spec.process().as_ref().ok_or_else(|| Failure::other("the spec has no process"))
}

fn text(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| Failure::other("an argument or a variable holds a zero byte"))
}

fn find(process: &Process) -> Result<(CString, Vec<CString>), Failure> {
    let arguments = process.args().clone().unwrap_or_default();
    let name = arguments.first().ok_or_else(|| Failure::other("no command specified"))?;
    // The last one counts.
    let path = process.env().iter().flatten().filter_map(|entry| entry.strip_prefix("PATH=")).next_back();
    let found = resolve(name, path.unwrap_or(DEFAULT_PATH), |candidate| {
        let metadata = std::fs::metadata(candidate).map_err(|error| error.raw_os_error().unwrap_or(0))?;
        Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })?;
    let arguments = arguments.iter().map(|argument| text(argument.as_bytes())).collect::<Result<_, _>>()?;
    Ok((text(found.as_os_str().as_bytes())?, arguments))
}

/// `probe` tells whether a path is an executable file, or the errno of looking.
fn resolve(name: &str, path: &str, probe: impl Fn(&Path) -> Result<bool, i32>) -> Result<PathBuf, Failure> {
    let fail = |text: &str, exit_code| Failure { message: format!("exec: {name:?}: {text}"), exit_code };
    if name.contains('/') {
        return match probe(Path::new(name)) {
            Ok(true) => Ok(name.into()),
            Ok(false) => Err(fail("permission denied", 126)),
            Err(nix::libc::EACCES) => Err(fail("permission denied", 126)),
            Err(nix::libc::ENOENT | nix::libc::ENOTDIR) => Err(Failure {
                message: format!("exec: {name:?}: stat {name}: no such file or directory"),
                exit_code: 127,
            }),
            Err(errno) => Err(fail(nix::Error::from_raw(errno).desc(), 128)),
        };
    }
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match probe(&candidate) {
            Ok(true) => return Ok(candidate),
            Ok(false) => denied = true,
            Err(_) => {}
        }
    }
    Err(if denied { fail("permission denied", 126) } else { fail("executable file not found in $PATH", 127) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(path: &Path) -> Result<bool, i32> {
        match path.to_str().unwrap() {
            "/bin/sh" => Ok(true),
            "/bin/data" => Ok(false),
            _ => Err(nix::libc::ENOENT),
        }
    }

    #[test]
    fn a_program_is_searched_in_path_and_missing_ones_are_named_as_runc_names_them() {
        assert_eq!(resolve("sh", "/usr/bin:/bin", probe).unwrap(), Path::new("/bin/sh"));
        let missing = resolve("nope", "/usr/bin:/bin", probe).unwrap_err();
        assert_eq!(
            missing,
            Failure { message: "exec: \"nope\": executable file not found in $PATH".into(), exit_code: 127 }
        );
        assert_eq!(resolve("data", "/bin", probe).unwrap_err().exit_code, 126);
        let path = resolve("/no/such", "/bin", probe).unwrap_err();
        assert_eq!(path.message, "exec: \"/no/such\": stat /no/such: no such file or directory");
    }
}
