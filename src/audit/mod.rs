//! Who did what: the audit log, and the log of trust beside it.
//!
//! | file | what it does |
//! |---|---|
//! | [`mod@line`] | PURE: one line, written and read; its hash |
//! | [`collapse`] | PURE: repeats become one line with a count, so that no peer grows the log as it likes |
//! | [`walk`] | PURE: along a chain, to the first place that is not as it was written |
//! | [`lines`] | the lines of a file, each with a bound |
//! | [`head`] | what is kept beside a log: how far it goes |
//! | [`chain`] | one log with its head: it goes on from what stands there, is rotated, takes whole batches |
//! | [`journal`] | both logs, and what waits for them |
//! | [`verify`] | the check of all of it, as it stands on the disk |
//! | [`read`] | the lines for whoever reads them, over rotations |
//!
//! `audit.log` has everything; `trust.log` has what changes who is trusted once more, and is never
//! rotated. What is written becomes visible in one turn, lines and head together, so that whoever reads
//! [`crate::state_dir::StateDir::undisturbed`] never sees one without the other. A turn that fails
//! leaves nothing.

pub mod chain;
pub mod collapse;
pub mod head;
pub mod journal;
pub mod line;
pub mod lines;
pub mod read;
pub mod verify;
pub mod walk;

#[cfg(test)]
mod tests;

/// A log, its head and how it grows.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// The file that is written to.
    pub name: &'static str,
    /// The file of its head.
    pub head: &'static str,
    /// The file of the head of the other log, which knows how far this one went.
    pub other_head: &'static str,
    /// When it is rotated; never, where there is none.
    pub rotation: Option<Rotation>,
    /// Each batch is on the disk before it counts as written.
    pub durable: bool,
    /// The original wrote one of this name: its lines may stand before the first of this daemon's.
    pub was_originals: bool,
}

/// How a log is rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Longest file, in bytes.
    pub size: u64,
    /// Files that are kept beside the one that is written to.
    pub keep: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { size: 8 * 1024 * 1024, keep: 8 }
    }
}

impl Log {
    /// What happened.
    pub fn audit(rotation: Rotation) -> Self {
        Self {
            name: "audit.log",
            head: "audit.head",
            other_head: "trust.head",
            rotation: Some(rotation),
            durable: false,
            was_originals: true,
        }
    }

    /// What changed who is trusted.
    pub fn trust() -> Self {
        Self {
            name: "trust.log",
            head: "trust.head",
            other_head: "audit.head",
            rotation: None,
            durable: true,
            was_originals: false,
        }
    }

    /// The name of one of its files: 0 is the one that is written to, and the oldest has the highest number.
    pub fn file(&self, number: u32) -> String {
        if number == 0 { self.name.to_owned() } else { format!("{}.{number}", self.name) }
    }
}
