//! What belongs into the log, and how much of it a peer may bring about.

use std::time::Duration;

use super::Relay;
use super::rate::{Bucket, Rate};
use crate::identity::Fingerprint;

/// Notes for the log that are kept until they are taken.
const MAX_NOTES: usize = 64;
/// Lines in the log about what one peer does. The log has no end of its own.
const LINES: Rate = Rate::per_hour(20);

/// Lines in the log about one peer.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bucket: Bucket,
    unwritten: u64,
}

impl Relay {
    /// What belongs into the log since this was last asked: the router itself writes nothing, least
    /// of all while its lock is held.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Whether there may be one more line in the log about what a peer has done; how many there could
    /// not be since the last.
    pub fn line_about(&mut self, peer: Fingerprint, now: Duration) -> Option<u64> {
        let lines = &mut self.peers.get_mut(&peer)?.lines;
        if lines.bucket.take(LINES, now).is_err() {
            lines.unwritten += 1;
            return None;
        }
        Some(std::mem::take(&mut lines.unwritten))
    }

    /// Notes what a peer has done, which begins with its name.
    pub(super) fn note(&mut self, peer: Fingerprint, what: &str, now: Duration) {
        let Some(unwritten) = self.line_about(peer, now) else { return };
        let name = self.peers.get(&peer).map(|peer| peer.name.to_string()).unwrap_or_default();
        let more = match unwritten {
            0 => String::new(),
            more => format!(" (and {more} more lines about it that were not written)"),
        };
        if self.notes.len() < MAX_NOTES {
            self.notes.push(format!("{name} ({peer}) {what}{more}"));
        }
        self.due(Duration::ZERO);
    }
}
