//! What a pod does that wants to harm its node. Each goes on until it is ended, whatever it is refused.
use std::fs::{File, OpenOptions};
use std::io::{Write, stdout};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long it rests after it was refused.
const REST: Duration = Duration::from_millis(20);
const BLOCK: usize = 64 << 10;
const USAGE: &str = "usage: node-inspector hostile burn | fill FILE | files FOLDER | sparse FILE GIB | flood | fork | orphans N | mute PORT | \
    end-first | fifos FOLDER | park";

/// Runs one of them.
pub fn run(words: &[&str]) -> Result<u8> {
    match words {
        ["burn"] => burn(),
        ["fill", file] => fill(Path::new(file)),
        ["files", folder] => files(Path::new(folder)),
        ["sparse", file, gibibytes] => sparse(Path::new(file), gibibytes.parse()?),
        ["flood"] => flood(),
        ["fork"] => fork(),
        ["orphans", number] => orphans(number.parse()?),
        ["orphan"] => orphan(),
        ["mute", port] => mute(port.parse()?),
        ["end-first"] => end_first(),
        ["fifos", folder] => fifos(Path::new(folder)),
        ["park"] => park(),
        _ => bail!(USAGE),
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Takes a processor and nothing else.
fn burn() -> ! {
    let mut number = 1_u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// Writes to one file until there is no room, and goes on trying.
fn fill(path: &Path) -> ! {
    let block = vec![b'x'; BLOCK];
    loop {
        let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) else {
            std::thread::sleep(REST);
            continue;
        };
        while file.write_all(&block).is_ok() {}
        std::thread::sleep(REST);
    }
}

/// Makes empty files until there is no room for their names.
fn files(folder: &Path) -> ! {
    let mut number = 0_u64;
    loop {
        if File::create(folder.join(format!("file-{number}"))).is_err() {
            std::thread::sleep(REST);
        }
        number += 1;
    }
}

/// Makes a file look large, and ends with a failure, so that it is looked at anew.
fn sparse(path: &Path, gibibytes: u64) -> Result<u8> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    file.and_then(|file| file.set_len(gibibytes << 30))
        .with_context(|| format!("enlarge {}", path.display()))?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(1)
}

/// Prints lines as fast as they are taken.
fn flood() -> ! {
    let line = format!("{}\n", "x".repeat(4000));
    let mut out = stdout().lock();
    loop {
        if out.write_all(line.as_bytes()).is_err() {
            std::thread::sleep(REST);
        }
    }
}

/// Starts processes that stay, until it may not.
fn fork() -> ! {
    let mut children = Vec::new();
    loop {
        match own(&["hostile", "park"]).spawn() {
            Ok(child) => children.push(child),
            Err(_) => std::thread::sleep(REST),
        }
    }
}

/// Has so many processes end without a parent.
fn orphans(number: u32) -> ! {
    for _ in 0..number {
        if let Ok(mut child) = own(&["hostile", "orphan"]).spawn() {
            let _ = child.wait();
        } else {
            std::thread::sleep(REST);
        }
    }
    park()
}

/// Leaves a child behind that ends a moment later.
fn orphan() -> Result<u8> {
    own(&["exit", "7", "0.05"]).spawn().context("start a child")?;
    Ok(0)
}

fn own(words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A port whose queue is full: connections to it are neither taken nor refused.
fn mute(port: u16) -> Result<u8> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let listener = TcpListener::bind(address).context("listen")?;
    rustix::net::listen(&listener, 0).context("shorten the queue")?;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.extend(TcpStream::connect_timeout(&address.into(), Duration::from_millis(200)));
    }
    park()
}

/// Ends the first process of the pid namespace, again and again.
fn end_first() -> ! {
    loop {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let _ = kill_process(Pid::INIT, signal);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Puts FIFOs and links where the next logs of every pod would go.
fn fifos(folder: &Path) -> ! {
    loop {
        for pod in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            for container in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                for number in 0..8_u32 {
                    let name = container.path().join(format!("{number}.log"));
                    if number % 2 == 0 {
                        let _ = rustix::fs::mkfifoat(rustix::fs::CWD, &name, rustix::fs::Mode::RWXU);
                    } else {
                        let _ = symlink("/var/lib/pintle/init/config.yaml", &name);
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
