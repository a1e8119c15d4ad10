//! The host ring of `pintle-config`: the process as PID 1 starts it, as a user of its own. Needs root; it skips loudly without.
#![allow(missing_docs)]
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use machine::config_helper::{Answer, Request};
use machine::paths::CONFIG_UID;
use prost::Message;
use sys::spawn::{CAP_SYS_ADMIN, Program};

/// Set in the process that reads.
const HELPER: &str = "PINTLE_CONFIG_HOST_RING";
/// One story, told to the program.
type Story = fn(&Path);
/// Long after all that is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if std::env::var_os(HELPER).is_some() {
        let socket = UnixStream::from(sys::inherited::take(3).unwrap());
        return match config::run(socket) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: the host ring of pintle-config needs root");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let stories: [(&str, Story); 3] = [
        ("it_has_nothing_when_it_reads", it_has_nothing_when_it_reads),
        ("a_config_is_read", a_config_is_read),
        ("bombs_end_as_faults_or_at_its_limits", bombs_end_as_faults_or_at_its_limits),
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where it was built may be closed to other users.
    let program = folder.path().join("pintle-config");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut passed = 0;
    for (name, story) in stories.into_iter().filter(|(name, _)| name.contains(&filter)) {
        story(&program);
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

fn start(program: &Path) -> (i32, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let output = std::io::stderr();
    let pid = sys::spawn::spawn(Program {
        path: PathBuf::from(program),
        arguments: vec![],
        environment: vec![(HELPER.into(), "1".into())],
        cgroup_procs: None,
        user: Some(CONFIG_UID),
        capabilities: vec![CAP_SYS_ADMIN],
        output: std::os::fd::AsFd::as_fd(&output).try_clone_to_owned().unwrap(),
        channel: Some(OwnedFd::from(theirs)),
        oom_score_adj: Some(500),
    })
    .unwrap();
    (pid, ours)
}

fn ask(program: &Path, yaml: &str) -> (Vec<u8>, String) {
    let (pid, mut socket) = start(program);
    let request = Request { source: "t".into(), yaml: yaml.into() }.encode_to_vec();
    socket.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
    socket.write_all(&request).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let ended = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    (answer.get(4..).unwrap_or_default().to_vec(), format!("{ended:?}"))
}

fn it_has_nothing_when_it_reads(program: &Path) {
    let (pid, socket) = start(program);
    let of = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    // Capabilities are the last that it gives up; then it reads.
    let start = Instant::now();
    while field(&of("status"), "CapPrm:") != "0000000000000000" {
        assert!(start.elapsed() < DEADLINE, "it keeps capabilities: {}", of("status"));
        std::thread::yield_now();
    }
    let status = of("status");
    for name in ["CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(&status, name), "0000000000000000", "{name}");
    }
    assert_eq!(field(&status, "NoNewPrivs:"), "1");
    assert_eq!(field(&status, "Threads:"), "1");
    assert_eq!(field(&status, "Groups:"), "");
    assert_eq!(field(&status, "Uid:"), vec![CONFIG_UID.to_string(); 4].join(" "));
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    let links = of("net/dev");
    let links: Vec<_> = links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(links, ["lo"]);
    let limits = of("limits");
    assert_eq!(field(&limits, "Max processes"), "0 0 processes");
    assert_eq!(field(&limits, "Max cpu time"), "5 5 seconds");
    assert_eq!(field(&limits, "Max file size"), "0 0 bytes");
    assert!(field(&limits, "Max address space").ends_with("bytes"), "{limits}");
    drop(socket);
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
}

fn a_config_is_read(program: &Path) {
    let yaml = "apiVersion: pintle.dev/v1alpha1\nkind: Machine\nhostname: n1\n";
    let (answer, ended) = ask(program, yaml);
    assert!(ended.contains("Exited") && ended.ends_with(", 0)"), "{ended}");
    let read = Answer::outcome(&answer).unwrap().unwrap();
    assert_eq!(read.config.machine.hostname.as_deref(), Some("n1"));
}

fn bombs_end_as_faults_or_at_its_limits(program: &Path) {
    let head = "apiVersion: pintle.dev/v1alpha1\nkind: ";
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        aliases.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    let documents = "---\n".repeat((1 << 18) - 1);
    let many = format!("{head}Link\n---\n").repeat(20_000);
    let lists = format!("{head}Resolver\nnameservers: [{}]\n", "[],".repeat(300_000));
    let keys: String = (0..80_000).map(|i| format!("k{i}: {{}}\n")).collect();
    let fields = format!("{head}Machine\n{keys}");
    for bomb in [&aliases, &documents, &many, &lists, &fields, &"[".repeat(1 << 19), &"? ".repeat(1 << 19)] {
        let (answer, ended) = ask(program, bomb);
        // What takes longer than its processor time is killed by the kernel, which PID 1 says of the text.
        if ended.contains("SIGKILL") {
            continue;
        }
        assert!(ended.ends_with(", 0)"), "{bomb:.60}: {ended}");
        let outcome = Answer::outcome(&answer).unwrap_or_else(|why| panic!("{bomb:.60}: {why}"));
        assert!(!outcome.unwrap_err().is_empty(), "{bomb:.60}");
    }
}
