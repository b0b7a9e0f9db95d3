//! What is kept beside a log: how far it goes. A log that does not go as far was cut.

use serde::{Deserialize, Serialize};

use super::line::{End, Hash};

/// The head of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the last line.
    pub count: u64,
    /// Its hash.
    pub hash: Hash,
    /// The number of the oldest line that is kept.
    pub first: u64,
    /// The number of the last line that is on the disk for certain.
    pub synced: u64,
    /// The run of the system in which that was written, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl Head {
    /// Reads what was written; `None` for anything else.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// As it is written.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// The end of the chain.
    pub fn end(&self) -> End {
        End { n: self.count, hash: self.hash.clone() }
    }

    /// Whether the machine has been down since, so that what was not on the disk may be lost.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot.is_none() || self.boot != boot()
    }
}

/// The run of the system, where it tells.
pub fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
