//! What a peer's current link shows of its machine.

use std::time::Duration;

use serde_json::json;

use super::ends::LinkEnd;
use super::links::Link;
use super::queue::wake;
use super::roster::{Entry, Sessions};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::control::event_line;
use crate::wire::ids::SessionId;
use crate::wire::link::{Allows, MAX_SESSIONS, SessionInfo};

/// Most bytes that are kept of one peer's sessions: thousands of them, and few enough that a hello with
/// all of them is taken in before anybody notices.
const MAX_ROSTER: usize = 2 * 1024 * 1024;

impl Relay {
    /// The peer's calls go over this link from now on, and its sessions are the ones shown.
    pub(super) fn make_current(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let fingerprint = link.peer;
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return };
        let old = peer.current.replace(id);
        peer.why = None;
        let host = peer.name.to_string();
        for waker in std::mem::take(&mut peer.linked) {
            waker.wake();
        }
        let after = &link.sessions;
        let Some(old) = old else {
            after.keys().for_each(|session| self.remote.add(session, fingerprint));
            let count = after.len();
            return self.emit("peer_connected", &json!({"host": host, "sessionCount": count}));
        };
        // Only what differs is copied, and views are shared: everybody's calls wait meanwhile.
        let none = Sessions::new();
        let before = self.links.get(&old).map_or(&none, |old| &old.sessions);
        let gone: Vec<SessionId> = before.keys().filter(|session| !after.contains_key(*session)).cloned().collect();
        let mut told = Vec::new();
        for (session, entry) in after {
            match before.get(session) {
                None => {
                    self.remote.add(session, fingerprint);
                    told.push(("session_added", entry.view.clone()));
                }
                Some(was) if was.view != entry.view => told.push(("session_renamed", entry.view.clone())),
                Some(_) => {}
            }
        }
        for session in gone {
            self.remote.remove(&session, fingerprint);
            self.emit("session_removed", &json!({"sessionId": session, "host": host, "isRemote": true}));
        }
        for (event, view) in told {
            self.emit_line(event_line(event, &view));
        }
    }

    /// A peer has no link any more.
    pub(super) fn unlinked(&mut self, fingerprint: Fingerprint, id: LinkId, end: &LinkEnd, now: Duration) {
        let forgotten = |link: &mut Link| {
            link.roster = 0;
            std::mem::take(&mut link.sessions)
        };
        let sessions = self.links.get_mut(&id).map(forgotten).unwrap_or_default();
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return };
        let host = peer.name.to_string();
        peer.current = None;
        peer.last_sessions = sessions.keys().cloned().collect();
        wake(&mut peer.unlinked);
        for session in sessions.keys() {
            self.remote.remove(session, fingerprint);
            self.emit("session_removed", &json!({"sessionId": session, "host": host, "isRemote": true}));
        }
        self.emit("peer_disconnected", &json!({"host": host}));
        self.set_why(fingerprint, end.why(&host), now);
    }

    /// Keeps a session of a link; false when the peer has more than is kept.
    pub(super) fn note_session(&mut self, id: LinkId, entry: Entry) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let before = link.sessions.get(&entry.info.session_id).map(Entry::size);
        let roster = link.roster - before.unwrap_or(0) + entry.size();
        if roster > MAX_ROSTER || (before.is_none() && link.sessions.len() >= MAX_SESSIONS) {
            return false;
        }
        link.roster = roster;
        link.sessions.insert(entry.info.session_id.clone(), entry);
        true
    }

    pub(super) fn far_session(&mut self, id: LinkId, info: SessionInfo) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(peer) = self.peers.get(&link.peer) else { return };
        let (fingerprint, is_current) = (link.peer, peer.current == Some(id));
        let known = link.sessions.contains_key(&info.session_id);
        let entry = Entry::new(info, peer.name.as_str(), true);
        let line = event_line(if known { "session_renamed" } else { "session_added" }, &entry.view);
        let session = entry.info.session_id.clone();
        if self.note_session(id, entry) && is_current {
            self.remote.add(&session, fingerprint);
            self.emit_line(line);
        }
    }

    /// What this device may do there has changed.
    pub(super) fn far_allows(&mut self, id: LinkId, allows: Allows) {
        if let Some(peer) = self.links.get(&id).and_then(|link| self.peers.get_mut(&link.peer)) {
            peer.may_there = allows;
        }
    }

    pub(super) fn far_session_gone(&mut self, id: LinkId, session: &SessionId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = self.peers.get(&link.peer) else { return };
        let Some(gone) = link.sessions.remove(session) else { return };
        link.roster -= gone.size();
        if peer.current != Some(id) {
            return;
        }
        let host = peer.name.to_string();
        self.remote.remove(session, link.peer);
        self.emit("session_removed", &json!({"sessionId": session, "host": host, "isRemote": true}));
    }
}
