//! `org.freedesktop.DBus`: what a client needs of a bus to talk to login1.
use std::sync::Arc;

use zbus::fdo::{Error, Result};
use zbus::interface;

use super::{LOGIN1, UNIQUE_NAME};

const BUS: &str = "org.freedesktop.DBus";
const SYSTEMD1: &str = "org.freedesktop.systemd1";

/// The bus as one client sees it.
#[derive(Debug, Clone)]
pub struct Bus {
    /// The client's own name.
    name: Arc<str>,
}

impl Bus {
    pub fn new(name: String) -> Self {
        Self { name: name.into() }
    }
}

#[interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> String {
        self.name.to_string()
    }

    /// Every client hears every signal of login1; clients pick out what they want anyhow.
    fn add_match(&self, rule: &str) -> Result<()> {
        zbus::MatchRule::try_from(rule).map(drop).map_err(|error| Error::MatchRuleInvalid(error.to_string()))
    }

    fn remove_match(&self, rule: &str) -> Result<()> {
        self.add_match(rule)
    }

    fn request_name(&self, name: &str, _flags: u32) -> Result<u32> {
        Err(Error::AccessDenied(format!("{name} cannot be owned: this bus carries login1 only")))
    }

    fn release_name(&self, _name: &str) -> u32 {
        // DBUS_RELEASE_NAME_REPLY_NON_EXISTENT: nobody but us owns any.
        2
    }

    fn get_name_owner(&self, name: &str) -> Result<String> {
        match name {
            BUS => Ok(BUS.into()),
            LOGIN1 | SYSTEMD1 | UNIQUE_NAME => Ok(UNIQUE_NAME.into()),
            own if *own == *self.name => Ok(own.into()),
            _ => Err(Error::NameHasNoOwner(format!("nobody owns {name} on this bus"))),
        }
    }

    fn name_has_owner(&self, name: &str) -> bool {
        self.get_name_owner(name).is_ok()
    }

    fn list_names(&self) -> Vec<String> {
        [BUS, LOGIN1, SYSTEMD1, UNIQUE_NAME, &self.name].map(str::to_owned).into()
    }

    fn list_activatable_names(&self) -> Vec<String> {
        vec![BUS.into()]
    }

    fn start_service_by_name(&self, name: &str, _flags: u32) -> Result<u32> {
        // DBUS_START_REPLY_ALREADY_RUNNING
        self.get_name_owner(name).map(|_| 2)
    }

    fn get_connection_unix_user(&self, name: &str) -> Result<u32> {
        self.get_name_owner(name).map(|_| 0)
    }

    #[zbus(name = "GetConnectionUnixProcessID")]
    fn get_connection_unix_process_id(&self, name: &str) -> Result<u32> {
        match self.get_name_owner(name)?.as_str() {
            BUS | UNIQUE_NAME => Ok(std::process::id()),
            _ => Err(Error::NotSupported("only login1's process is told".into())),
        }
    }

    fn get_id(&self) -> String {
        // The machine id would do as well; what counts is that it stays the same while we run.
        "70696e746c6500000000000000000001".into()
    }
}
