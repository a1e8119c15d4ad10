//! Inhibitors: who holds one, of what, and until when (as long as the descriptor that the holder got is open).
use std::collections::BTreeMap;

/// The most inhibitors at once.
const MAX: usize = 256;

/// A client, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub pid: u32,
}

/// How an inhibitor works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Shutdown waits for it, within bounds.
    Delay,
    /// Listed, but nothing waits for it: a machine that is told to go down goes down.
    Block,
}

/// One inhibitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inhibitor {
    /// Colon-separated: `shutdown`, `sleep`, …
    pub what: String,
    pub who: String,
    pub why: String,
    pub mode: Mode,
    pub uid: u32,
    pub pid: u32,
}

/// All inhibitors.
#[derive(Debug, Default)]
pub struct Inhibitors {
    held: BTreeMap<u64, Inhibitor>,
    next: u64,
}

impl Inhibitors {
    /// Takes one; the reply is its key.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn take(&mut self, what: &str, who: &str, why: &str, mode: &str, peer: Peer) -> Result<u64, String> {
        const KINDS: [&str; 7] = [
            "shutdown",
            "sleep",
            "idle",
            "handle-power-key",
            "handle-suspend-key",
            "handle-hibernate-key",
            "handle-lid-switch",
        ];
        if let Some(unknown) = what.split(':').find(|kind| !KINDS.contains(kind)) {
            return Err(format!(
                "nothing called {unknown:?} can be inhibited; there is {}",
                KINDS.join(", ")
            ));
        }
        let mode = match mode {
            "delay" => Mode::Delay,
            "block" => Mode::Block,
            _ => return Err(format!("unknown mode {mode:?}; there are delay and block")),
        };
        if who.len() > 256 || why.len() > 1024 {
            return Err("who or why is too long".into());
        }
        if self.held.len() >= MAX {
            return Err(format!("{MAX} inhibitors are held already"));
        }
        self.next += 1;
        let Peer { uid, pid } = peer;
        let inhibitor = Inhibitor { what: what.into(), who: who.into(), why: why.into(), mode, uid, pid };
        self.held.insert(self.next, inhibitor);
        Ok(self.next)
    }

    /// Releases one.
    pub fn release(&mut self, key: u64) -> Option<Inhibitor> {
        self.held.remove(&key)
    }

    pub fn list(&self) -> Vec<Inhibitor> {
        self.held.values().cloned().collect()
    }

    /// Who delays `what`, as `who (why)`.
    pub fn delaying(&self, what: &str) -> Vec<String> {
        let delays =
            |held: &&Inhibitor| held.mode == Mode::Delay && held.what.split(':').any(|kind| kind == what);
        self.held.values().filter(delays).map(|held| format!("{} ({})", held.who, held.why)).collect()
    }

    /// All kinds that are inhibited in `mode`, colon-separated, as the properties of login1 give them.
    pub fn kinds(&self, mode: Mode) -> String {
        let mut kinds: Vec<&str> = self
            .held
            .values()
            .filter(|held| held.mode == mode)
            .flat_map(|held| held.what.split(':'))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.join(":")
    }
}
