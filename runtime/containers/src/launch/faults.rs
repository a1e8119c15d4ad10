//! What libcontainer says of its failures. Its errors name the kind of step and no more (`failed to unix
//! syscall`); operation, path and errno go to its log, mostly in a process that it has forked. So the log's
//! errors are kept in a file in memory that all of them share.
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Characters of one entry that are kept.
const MAX_ENTRY: usize = 500;
/// Bytes of all of them.
const MAX_ALL: usize = 3 << 10;

/// The errors of this process's log, and of what it forks from now on.
#[derive(Debug)]
pub struct Faults(File);

impl Faults {
    /// Begins to keep them. Call it once.
    ///
    /// # Errors
    /// As memfd_create(2).
    pub fn keep() -> io::Result<Self> {
        let file = File::from(memfd_create("faults", MFdFlags::MFD_CLOEXEC)?);
        let kept = Self(file.try_clone()?);
        let _ = tracing::subscriber::set_global_default(Keeper(file));
        Ok(kept)
    }

    /// All of them, from the innermost on: what failed, of what, and why. Which of them has the errno is
    /// different from step to step.
    pub fn told(&self) -> Option<String> {
        let mut bytes = vec![0; MAX_ALL];
        let length = self.0.read_at(&mut bytes, 0).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]).trim_end().replace('\n', "; ");
        (!text.is_empty()).then_some(text)
    }
}

/// Writes errors to the file; all who share it share its position, too.
struct Keeper(File);

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let text: String = entry.text().replace('\n', " ").chars().take(MAX_ENTRY).collect();
        if self.0.metadata().is_ok_and(|metadata| metadata.len() < MAX_ALL as u64) {
            let _ = (&self.0).write_all(format!("{text}\n").as_bytes());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An entry of the log: the message, then its fields.
#[derive(Default)]
struct Entry {
    message: String,
    fields: String,
}

impl Entry {
    fn text(&self) -> String {
        if self.fields.is_empty() {
            self.message.clone()
        } else {
            format!("{} ({})", self.message, self.fields)
        }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push_str(", ");
        }
        let _ = write!(self.fields, "{}: {value:?}", field.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_with_their_fields() {
        let file = File::from(memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap());
        let faults = Faults(file.try_clone().unwrap());
        assert_eq!(faults.told(), None);
        tracing::subscriber::with_default(Keeper(file), || {
            tracing::info!("all is well");
            tracing::error!(path = ?"/a", error = %nix::Error::ENOENT, "failed to\nopen");
            tracing::error!("failed altogether");
        });
        let said =
            "failed to open (path: \"/a\", error: ENOENT: No such file or directory); failed altogether";
        assert_eq!(faults.told().as_deref(), Some(said));
    }
}
