//! A guest's serial console, which QEMU writes to a file.
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(100);

/// Reads on from a place in the console's file.
#[derive(Debug, Clone)]
pub struct Console {
    path: PathBuf,
    offset: u64,
    /// The unfinished last line.
    rest: Vec<u8>,
}

impl Console {
    /// A reader that starts at the beginning.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), offset: 0, rest: Vec::new() }
    }

    /// A reader that sees only what is written from now on.
    #[must_use]
    pub fn from_end(path: &Path) -> Self {
        let offset = std::fs::metadata(path).map_or(0, |meta| meta.len());
        Self { offset, ..Self::new(path) }
    }

    /// Complete lines written since the last call.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut fresh = Vec::new();
        file.read_to_end(&mut fresh).with_context(|| format!("read {}", self.path.display()))?;
        self.offset += fresh.len() as u64;
        self.rest.extend(fresh);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&complete)
            .lines()
            .map(|line| line.trim_end_matches('\r').to_owned())
            .collect())
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Errors
    /// At the deadline, with the last lines of the console.
    pub fn wait_for(&mut self, text: &str, deadline: Duration) -> Result<String> {
        self.wait_for_any(&[text], deadline, || true)
    }

    /// Waits for a line that contains one of `texts`; `running` says whether it can still come.
    ///
    /// # Errors
    /// At the deadline or when the guest has ended, with the last lines of the console.
    pub fn wait_for_any(
        &mut self,
        texts: &[&str],
        deadline: Duration,
        running: impl Fn() -> bool,
    ) -> Result<String> {
        let start = Instant::now();
        loop {
            let ran = running();
            if let Some(line) =
                self.lines()?.into_iter().find(|line| texts.iter().any(|text| line.contains(text)))
            {
                return Ok(line);
            }
            let wanted = texts.join("\" or \"");
            if !ran {
                bail!("the machine ended before \"{wanted}\" on its console; last lines:\n{}", self.tail());
            }
            if start.elapsed() > deadline {
                bail!(
                    "no \"{wanted}\" on the console within {} s; last lines:\n{}",
                    deadline.as_secs(),
                    self.tail()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Copies the console to `out` until `done` says so.
    ///
    /// # Errors
    /// When the file cannot be read or `out` not written.
    pub fn follow(&mut self, out: &mut impl Write, done: impl Fn() -> bool) -> Result<()> {
        loop {
            let last = done();
            for line in self.lines()? {
                writeln!(out, "{line}")?;
            }
            out.flush()?;
            if last {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Everything that was written.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn text(&self) -> Result<String> {
        let content = std::fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }

    /// The console's last lines.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = self.text().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_once_and_only_when_complete() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let mut console = Console::new(file.path());
        std::fs::write(file.path(), "one\r\ntw")?;
        assert_eq!(console.lines()?, ["one"]);
        std::fs::write(file.path(), "one\r\ntwo\nthree")?;
        assert_eq!(console.lines()?, ["two"]);
        Ok(())
    }

    #[test]
    fn an_ended_machine_ends_the_wait() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), "panic\n")?;
        let fault = Console::new(file.path()).wait_for_any(&["ready"], Duration::from_secs(60), || false);
        assert!(fault.is_err_and(|fault| fault.to_string().contains("panic")));
        Ok(())
    }
}
