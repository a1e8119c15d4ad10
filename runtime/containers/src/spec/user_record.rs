//! A user as it is kept on record.
use serde::{Deserialize, Serialize};

/// What ContainerStatus reports and exec needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}
