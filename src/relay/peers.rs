//! Pinned peers: who there is, and what the dialler waits for.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::json;

use super::notes::Lines;
use super::rate::Bucket;
use super::rights::first_end;
use super::roster::Entry;
use super::{LinkId, Peer, Relay};
use crate::identity::Fingerprint;
use crate::trust::Grant;
use crate::trust::grant::Condition;
use crate::wire::control::event_line;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::PeerName;
use crate::wire::link::{Allows, ByeReason};

/// What the relay knows of a peer beside its link.
#[derive(Debug, Clone)]
pub struct PeerFacts {
    /// Its petname.
    pub name: PeerName,
    /// Why no link is up, where that is known.
    pub why: Option<Failure>,
    /// Its version, once it was seen.
    pub version: Option<String>,
    /// What this device may do there, as the peer said.
    pub may_there: Allows,
}

/// A pinned peer as its pin says.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its petname.
    pub name: PeerName,
    /// What it may do here.
    pub grants: Vec<Grant>,
    /// The user has cut the link.
    pub removed: bool,
    /// How many calls a minute it may make, where the user has said so.
    pub calls_per_minute: Option<u32>,
}

/// Whether the dialler is to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialling {
    /// Yes, at the usual pace.
    Wanted,
    /// The peer refuses this device: seldom.
    Refused,
    /// The user cut the link: not until it is taken up again.
    Removed,
    /// The peer is not pinned any more.
    Gone,
}

/// Tasks that wait for a link to one peer, before those that have given up are weeded out.
const MAX_WAITING: usize = 64;

impl Relay {
    /// A peer is pinned, or what is kept of it has changed.
    pub fn set_peer(&mut self, fingerprint: Fingerprint, standing: Standing, now: Duration) {
        let Standing { name, grants, removed, calls_per_minute } = standing;
        let host = name.to_string();
        let fresh = || Peer {
            name: name.clone(),
            grants: Vec::new(),
            ends: None,
            asks_tailnet: false,
            calls_per_minute,
            calls: Bucket::default(),
            too_many: 0,
            messages: Bucket::default(),
            lines: Lines::default(),
            removed,
            current: None,
            why: None,
            last_sessions: Default::default(),
            version: None,
            may_there: Allows::default(),
            check: None,
            checking: false,
            unlinked: None,
            linked: Vec::new(),
        };
        let peer = self.peers.entry(fingerprint).or_insert_with(fresh);
        (peer.removed, peer.calls_per_minute) = (removed, calls_per_minute);
        // Every peer is set whenever one changes.
        let other_grants = (peer.grants != grants).then_some(grants);
        if peer.name != name {
            peer.name = name;
            let current = peer.current;
            self.rename_sessions(fingerprint, current, &host);
        }
        if let Some(grants) = other_grants {
            self.set_grants(fingerprint, grants, now);
        }
    }

    fn set_grants(&mut self, fingerprint: Fingerprint, grants: Vec<Grant>, now: Duration) {
        let date = self.date(now);
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return };
        peer.ends = first_end(&grants, date);
        peer.asks_tailnet = grants.iter().any(|grant| grant.from.iter().any(Condition::is_of_tailnet));
        peer.grants = grants;
        self.note_ends(now);
        self.tick_tailnet(now);
        self.rights_changed(Some(fingerprint), now);
        self.review(|link| link.peer == fingerprint, now);
    }

    fn rename_sessions(&mut self, peer: Fingerprint, current: Option<LinkId>, host: &str) {
        let mut lines = Vec::new();
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.peer == peer) {
            link.roster = 0;
            for entry in link.sessions.values_mut() {
                *entry = Entry::new(entry.info.clone(), host, true);
                link.roster += entry.size();
                if Some(*id) == current {
                    lines.push(event_line("session_renamed", &entry.view));
                }
            }
        }
        lines.into_iter().for_each(|line| self.emit_line(line));
    }

    /// A peer is not trusted any more: its links are told and cut. Whether one was live.
    pub fn unpin(&mut self, fingerprint: Fingerprint, now: Duration) -> bool {
        let was_live = self.end_links_of(fingerprint, ByeReason::Unpaired, now);
        self.rights_changed(Some(fingerprint), now);
        if let Some(mut peer) = self.peers.remove(&fingerprint) {
            super::queue::wake(&mut peer.unlinked);
            peer.linked.into_iter().for_each(Waker::wake);
        }
        was_live
    }

    /// Cuts the links to a peer whose pin stays.
    pub fn end_links_of(&mut self, fingerprint: Fingerprint, reason: ByeReason, now: Duration) -> bool {
        let was_live = self.is_linked(fingerprint);
        let ids: Vec<_> = self.links.iter().filter(|(_, link)| link.peer == fingerprint).map(|(id, _)| *id).collect();
        for id in ids {
            self.end_link(id, reason, now);
        }
        was_live
    }

    /// Whether a link to this peer is live.
    pub fn is_linked(&self, fingerprint: Fingerprint) -> bool {
        self.peers.get(&fingerprint).is_some_and(|peer| peer.current.is_some())
    }

    /// Whether the dialler is to try.
    pub fn dialling(&self, fingerprint: Fingerprint) -> Dialling {
        match self.peers.get(&fingerprint) {
            None => Dialling::Gone,
            Some(peer) if peer.removed => Dialling::Removed,
            Some(peer) if peer.why.as_ref().is_some_and(|why| why.code == Code::NotPaired) => Dialling::Refused,
            Some(_) => Dialling::Wanted,
        }
    }

    /// An attempt to reach a peer failed, or (`None`) what was known of that is past. A reason that
    /// somebody must look at is told to all, once.
    pub fn set_why(&mut self, fingerprint: Fingerprint, why: Option<Failure>, now: Duration) {
        let Some(peer) = self.peers.get_mut(&fingerprint).filter(|peer| peer.current.is_none()) else { return };
        let before = std::mem::replace(&mut peer.why, why).map(|why| why.code);
        let Some(why) = peer.why.clone() else { return };
        if matches!(why.code, Code::NotPaired | Code::FingerprintMismatch) && before != Some(why.code) {
            let data = json!({"host": peer.name, "message": why.message, "hint": why.hint});
            self.note(fingerprint, &format!("cannot be linked to: {}", why.message), now);
            self.emit("error", &data);
        }
    }

    /// Ready while no link to this peer is live. For the one task that dials it.
    pub fn poll_unlinked(&mut self, fingerprint: Fingerprint, cx: &mut Context<'_>) -> Poll<()> {
        match self.peers.get_mut(&fingerprint).filter(|peer| peer.current.is_some()) {
            Some(peer) => {
                peer.unlinked = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Ready once a link to this peer is live, or the peer is gone.
    pub fn poll_linked(&mut self, fingerprint: Fingerprint, cx: &mut Context<'_>) -> Poll<()> {
        match self.peers.get_mut(&fingerprint).filter(|peer| peer.current.is_none()) {
            Some(peer) => {
                peer.linked.retain(|waker| !waker.will_wake(cx.waker()));
                if peer.linked.len() >= MAX_WAITING {
                    // Those who still wait come back; those who have given up are gone with this.
                    peer.linked.drain(..).for_each(Waker::wake);
                }
                peer.linked.push(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// What is known of a peer beside its link.
    pub fn peer_facts(&self, fingerprint: Fingerprint) -> Option<PeerFacts> {
        let peer = self.peers.get(&fingerprint)?;
        Some(PeerFacts {
            name: peer.name.clone(),
            why: peer.why.clone(),
            version: peer.version.clone(),
            may_there: peer.may_there.clone(),
        })
    }
}
