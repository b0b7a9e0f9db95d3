//! What happened, on its way to the audit log: the router writes nothing itself.
//!
//! Entries that a peer brings about have rooms of their own, so that no peer takes the room of changes
//! of trust, of what is asked here, or of another peer: one for its calls that change something, in
//! which a call has its place before it begins, and one for all else, beyond which its entries are only
//! counted.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::json;

use super::queue::wake;
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::audit::{Action, Direction, Entry};

/// Entries that may wait to be written of what no peer brings about.
const MAX_WAITING: usize = 4096;
/// Entries that may wait in each room of a peer.
const ROOM_OF_PEER: usize = 2048;
/// How long is counted, at least, before it is said how many entries of a peer found no room.
const COUNTED: Duration = Duration::from_secs(10);

/// Entries that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Trail {
    waiting: Vec<Entry>,
    /// How many of them no peer has brought about.
    own: usize,
    /// By fingerprint; those alone of whom something waits or is missed.
    peers: HashMap<String, Share>,
    waker: Option<Waker>,
    /// Entries that found no room, and that no peer has brought about.
    missed: u64,
    /// When it is to be said how many entries of peers found no room.
    tells: Option<Duration>,
    /// The log cannot be written.
    broken: bool,
}

/// What waits of one peer.
#[derive(Debug, Default)]
struct Share {
    name: Option<String>,
    changes: usize,
    others: usize,
    missed: u64,
}

/// The peer that has brought an entry about by what it did.
fn brought_about_by(entry: &Entry) -> Option<&String> {
    let is_trust = entry.action.is_of_trust() && !(entry.action == Action::Deny && entry.caller.is_none());
    let is_own = is_trust || entry.action == Action::Missed || entry.direction == Some(Direction::Out);
    entry.fingerprint.as_ref().filter(|_| !is_own)
}

impl Trail {
    fn share(&mut self, fingerprint: &str) -> &mut Share {
        self.peers.entry(fingerprint.to_owned()).or_default()
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.missed == 0
    }

    fn push(&mut self, entry: Entry) {
        self.waiting.push(entry);
        wake(&mut self.waker);
    }

    fn push_own(&mut self, entry: Entry) {
        if self.own < MAX_WAITING {
            self.own += 1;
            self.push(entry);
        } else {
            self.missed += 1;
            wake(&mut self.waker);
        }
    }

    /// What is to be said of entries of peers that found no room.
    fn take_missed(&mut self) -> Vec<Entry> {
        self.tells = None;
        let missed = self.peers.iter_mut().filter(|(_, share)| share.missed > 0);
        let missed = missed.map(|(fingerprint, share)| Entry {
            peer: share.name.clone(),
            fingerprint: Some(fingerprint.clone()),
            data: Some(json!({ "count": std::mem::take(&mut share.missed) })),
            ..Entry::new(Action::Missed)
        });
        missed.collect()
    }
}

impl Relay {
    /// Notes what happened.
    pub fn record(&mut self, entry: Entry) {
        if entry.action == Action::Stop {
            self.record_missed();
        }
        let Some(fingerprint) = brought_about_by(&entry) else { return self.audit.push_own(entry) };
        let share = self.audit.share(fingerprint);
        if share.others < ROOM_OF_PEER {
            share.others += 1;
            return self.audit.push(entry);
        }
        share.name.clone_from(&entry.peer);
        share.missed += 1;
        self.tell_missed();
    }

    /// Notes how a peer's call has ended that may have changed something: it had its place before it
    /// began.
    pub(super) fn record_change(&mut self, entry: Entry) {
        if let Some(fingerprint) = brought_about_by(&entry) {
            self.audit.share(fingerprint).changes += 1;
        }
        self.audit.push(entry);
    }

    /// Whether there is room for what a peer brings about, but for its calls that change something. Where
    /// there is none, it counts as missed.
    pub(super) fn has_room_for(&mut self, peer: Fingerprint) -> bool {
        let share = self.audit.peers.get_mut(&peer.to_string());
        let Some(share) = share.filter(|share| share.others >= ROOM_OF_PEER) else { return true };
        share.name = self.peers.get(&peer).map(|peer| peer.name.to_string());
        share.missed += 1;
        self.tell_missed();
        false
    }

    /// Whether there is room for the end of one more call of a link's peer that changes something.
    pub(super) fn has_room_for_change(&self, link: LinkId) -> bool {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return false };
        let waiting = self.audit.peers.get(&peer.to_string()).map_or(0, |share| share.changes);
        let links = self.links.values().filter(|link| link.peer == peer);
        waiting + links.map(|link| link.calls.len()).sum::<usize>() < ROOM_OF_PEER
    }

    /// What is to be written, and how much found no room since this was last asked.
    pub fn poll_audit(&mut self, cx: &mut Context<'_>) -> Poll<(Vec<Entry>, u64)> {
        if self.poll_audit_waits(cx).is_pending() {
            return Poll::Pending;
        }
        self.audit.own = 0;
        // With the room that it took: what came of a flood of calls is not held afterwards.
        self.audit.peers.retain(|_, share| {
            (share.changes, share.others) = (0, 0);
            share.missed > 0
        });
        Poll::Ready((std::mem::take(&mut self.audit.waiting), std::mem::take(&mut self.audit.missed)))
    }

    /// Ready once something is to be written, without taking it.
    pub fn poll_audit_waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.audit.is_empty() {
            self.audit.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Whether the log can be written: what changes something is refused while it cannot.
    pub fn set_audit_writable(&mut self, writable: bool) {
        self.audit.broken = !writable;
    }

    /// Whether what changes something can be put on record; no peer has an influence on it.
    pub(super) fn is_audited(&self) -> bool {
        !self.audit.broken && self.audit.own < MAX_WAITING
    }

    pub(super) fn tick_audit(&mut self, now: Duration) {
        match self.audit.tells {
            Some(Duration::ZERO) => self.audit.tells = Some(now + COUNTED),
            Some(at) if now >= at => self.record_missed(),
            Some(_) | None => {}
        }
    }

    pub(super) fn next_of_audit(&self) -> Option<Duration> {
        self.audit.tells
    }

    /// Sees to it that it is said in a while how many entries of peers found no room.
    fn tell_missed(&mut self) {
        if self.audit.tells.is_none() {
            // The next tick knows the time.
            self.audit.tells = Some(Duration::ZERO);
            self.due(Duration::ZERO);
        }
    }

    fn record_missed(&mut self) {
        self.audit.take_missed().into_iter().for_each(|entry| self.audit.push_own(entry));
    }
}
