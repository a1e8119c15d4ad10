//! Programs of the host that run for a while: ended at a deadline, read line by line.
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program that runs; it ends with this.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Lines of standard output that were not read before.
    pub lines: Vec<String>,
    pub errors: String,
}

impl Running {
    /// Starts it with pipes.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {:?}", command.get_program()))?;
        let (sender, lines) = channel();
        let output = child.stdout.take().context("standard output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        let mut errors = child.stderr.take().context("standard error")?;
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        Ok(Self { child, lines, errors: Some(errors) })
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("standard input is closed")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for a line that contains `text`.
    pub fn expect(&self, text: &str, deadline: Duration) -> Result<String> {
        let start = Instant::now();
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_sub(start.elapsed())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(why) => {
                    let why = if why == RecvTimeoutError::Timeout { "in time" } else { "before its end" };
                    bail!("the program did not print {text:?} {why}; it printed {seen:?}")
                }
            }
        }
    }

    /// Ends it; returns what it wrote to standard error.
    pub fn kill(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// Waits for its end.
    pub fn end(mut self, deadline: Duration) -> Result<Ended> {
        self.close_input();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
                // The sender ends with the output, so this ends too.
                return Ok(Ended { status, lines: self.lines.iter().collect(), errors });
            }
            if start.elapsed() > deadline {
                let seen: Vec<String> = self.lines.try_iter().collect();
                bail!("a program did not end within {} s; it printed {seen:?}", deadline.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program with `input` and returns its output.
pub fn run(command: &mut Command, input: &str, deadline: Duration) -> Result<String> {
    let shown = format!("{:?}", command.get_args().skip(2).collect::<Vec<_>>());
    let mut running = Running::start(command)?;
    running.write(input).or_else(|fault| {
        // It may have ended without reading; then its exit code tells more.
        if input.is_empty() { Ok(()) } else { Err(fault) }
    })?;
    let ended = running.end(deadline).with_context(|| shown.clone())?;
    if !ended.status.success() {
        bail!("{shown} failed with {}: {} {}", ended.status, ended.errors, ended.lines.join("\n"));
    }
    Ok(ended.lines.join("\n"))
}
