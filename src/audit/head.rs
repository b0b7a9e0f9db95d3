//! What is kept beside a log: how far it goes. A log that does not go as far was cut.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::line::{End, Hash, MAX_NUMBER};

/// The head of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The name of its own file, so that it does not pass for the head of the other log.
    pub file: String,
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
    /// How far the other log went then, so that neither can go away with its head unnoticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Extent>,
}

/// How far a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The number of its last line.
    pub count: u64,
    /// The number of the last line that is on the disk for certain.
    pub synced: u64,
}

impl Head {
    /// Reads what was written to a file of this name; `None` for anything else, such as the head of another
    /// log or numbers that no log reaches.
    pub fn read(text: &[u8], file: &str) -> Option<Self> {
        let head: Self = serde_json::from_slice(text).ok().filter(|head: &Self| head.file == file)?;
        let other = head.other.unwrap_or(Extent { count: 0, synced: 0 });
        let numbers = [head.count, head.first, head.synced, other.count, other.synced];
        numbers.iter().all(|number| *number <= MAX_NUMBER).then_some(head)
    }

    /// The least number of lines that the other log must have.
    pub fn least_of_other(&self) -> u64 {
        self.other.map_or(0, |other| if self.is_of_another_boot() { other.synced } else { other.count })
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

/// The run of the system, where it tells. It is the same for as long as this process lives.
pub fn boot() -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    };
    BOOT.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(other: Option<Extent>, boot: Option<String>) -> Head {
        Head { file: "audit.head".into(), count: 3, hash: Hash::none(), first: 1, synced: 2, boot, other }
    }

    #[test]
    fn a_head_of_another_log_or_with_a_number_that_no_log_reaches_is_none() {
        let read = |line: &[u8]| Head::read(line, "audit.head");
        let whole = head(Some(Extent { count: 9, synced: 7 }), None);
        assert_eq!(read(&whole.line()), Some(whole.clone()));
        assert_eq!(Head::read(&whole.line(), "trust.head"), None);
        let other = |count, synced| Some(Extent { count, synced });
        for bad in [
            Head { count: u64::MAX, ..whole.clone() },
            Head { first: u64::MAX, ..whole.clone() },
            Head { synced: MAX_NUMBER + 1, ..whole.clone() },
            Head { other: other(MAX_NUMBER + 1, 1), ..whole.clone() },
            Head { other: other(1, MAX_NUMBER + 1), ..whole.clone() },
        ] {
            assert_eq!(read(&bad.line()), None, "{bad:?}");
        }
        assert!(read(&Head { count: MAX_NUMBER, ..whole }.line()).is_some());
    }

    #[test]
    fn of_the_other_log_what_was_on_the_disk_is_there_after_a_power_cut_and_else_all_of_it() {
        let other = Some(Extent { count: 9, synced: 7 });
        assert_eq!(head(None, boot()).least_of_other(), 0);
        assert_eq!(head(other, Some("another".into())).least_of_other(), 7);
        assert_eq!(head(other, boot()).least_of_other(), if boot().is_some() { 9 } else { 7 });
    }
}
