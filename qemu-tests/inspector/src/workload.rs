//! What a plain pod does.
use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;

/// Follows the number in each line of [`count`]; a torn line does not end with it.
pub const PADDING: &str = "abcdefghijklmnopqrstuvwxyz";

/// How long a terminal may be without a size.
const SIZE_TIMEOUT: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(20);

/// Copies lines from standard input to standard output.
pub fn echo() -> Result<()> {
    for line in stdin().lock().lines() {
        writeln!(stdout(), "{}", line?)?;
    }
    Ok(())
}

/// Tells what the terminal is like, then echoes one line.
pub fn terminal() -> Result<()> {
    let input = stdin();
    let (mut rows, mut columns) = (0, 0);
    let start = Instant::now();
    // The client tells the size once it is connected, which may be after the start.
    while rows == 0 && start.elapsed() < SIZE_TIMEOUT {
        if let Ok(size) = rustix::termios::tcgetwinsize(&input) {
            (rows, columns) = (size.ws_row, size.ws_col);
        }
        std::thread::sleep(TICK);
    }
    let terminal = rustix::termios::isatty(&input);
    println!("{}", json!({"terminal": terminal, "rows": rows, "columns": columns}));
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    println!("read {}", line.trim_end());
    Ok(())
}

/// Prints numbered lines at about this rate, from 1.
pub fn count(rate: &str, lines: u64) -> Result<()> {
    let rate: f64 = rate.parse().context("lines per second")?;
    let start = Instant::now();
    let mut printed = 0;
    while printed < lines {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        let mut out = stdout().lock();
        while printed < due.min(lines) {
            printed += 1;
            writeln!(out, "{printed} {PADDING}").context("print a line")?;
        }
        out.flush()?;
        drop(out);
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// After `seconds`, takes memory, touches it and keeps it.
pub fn eat(mebibytes: usize, seconds: f64) -> Result<u8> {
    wait(seconds)?;
    let mut held = Vec::new();
    for number in 0..mebibytes {
        held.push(vec![u8::try_from(number % 255)? + 1; 1 << 20]);
    }
    println!("ate {} MiB", std::hint::black_box(&held).len());
    loop {
        std::thread::park();
    }
}

/// Ends with `code` after `seconds`.
pub fn exit(code: u8, seconds: f64) -> Result<u8> {
    wait(seconds)?;
    Ok(code)
}

/// Ends by SIGTERM after `seconds`; not as the first process of a pid namespace, which takes no such signal.
pub fn terminate(seconds: f64) -> Result<u8> {
    wait(seconds)?;
    kill_process(getpid(), Signal::TERM)?;
    loop {
        std::thread::park();
    }
}

/// Waits, and prints the time after it: Unix time in milliseconds.
fn wait(seconds: f64) -> Result<()> {
    std::thread::sleep(Duration::try_from_secs_f64(seconds)?);
    println!("{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
    Ok(())
}

/// Appends a line to a file and brings it to the disk.
pub fn append(file: &str, text: &str) -> Result<()> {
    let mut out = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file)
        .with_context(|| format!("open {file}"))?;
    writeln!(out, "{text}")?;
    out.sync_all().with_context(|| format!("sync {file}"))
}
