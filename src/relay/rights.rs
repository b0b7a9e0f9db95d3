//! What a peer may know and do here, kept true while it changes: a link is told of the sessions that
//! its peer may list and of no other, and a call whose right is gone ends with it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::calls::rights;
use super::links::{Link, State};
use super::pending::{Call, CallId, Destination};
use super::queue::Lane;
use super::rate::Rate;
use super::roster::Entry;
use super::{LinkId, Peer, Relay};
use crate::identity::Fingerprint;
use crate::trust::{Grant, Verdict, policy};
use crate::wire::error::{Code, Failure};
use crate::wire::ids::SessionId;
use crate::wire::link::{Allows, LinkMessage, SessionInfo};
use crate::wire::session::Verb;

/// Calls a minute of a peer that was not given everything, unless the user says otherwise.
const CALLS_PER_MINUTE: u32 = 120;

/// The failure of every call to a session that is not there, or that the caller may not know of.
pub(super) fn not_found(target: &str) -> Failure {
    Failure::new(Code::SessionNotFound, format!("Session {target} not found")).delivered(false)
}

/// The failure of a call to a session that the caller may know of and not ask this.
pub(super) fn forbidden(command_type: Option<&str>, target: &str) -> Failure {
    let what = command_type.unwrap_or("a command without a type");
    let message = format!("{what} is not open to this device on session {target}");
    Failure::new(Code::Forbidden, message).delivered(false)
}

/// When the first of these grants ends that has not ended yet.
pub(super) fn first_end(grants: &[Grant], date: SystemTime) -> Option<SystemTime> {
    grants.iter().filter(|grant| !grant.is_over(date)).filter_map(|grant| grant.expires).min()
}

impl Peer {
    /// How many calls it may make in a minute, where that is bounded.
    fn calls_a_minute(&self) -> Option<u32> {
        let usual = || (!policy::is_full(&self.grants)).then_some(CALLS_PER_MINUTE);
        self.calls_per_minute.or_else(usual)
    }
}

impl Relay {
    /// Takes nothing from any peer any more, or serves peers again.
    pub fn set_locked(&mut self, locked: bool, now: Duration) {
        if std::mem::replace(&mut self.locked, locked) != locked {
            self.rights_changed(None, now);
            self.review(|_| true, now);
        }
    }

    /// Whether nothing is taken from any peer.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// The date, for what ends at one: it never goes back. To be told anew whenever it may have jumped.
    pub fn set_date(&mut self, date: SystemTime, now: Duration) {
        self.dated = (now, date.max(self.date(now)));
        self.note_ends(now);
        self.end_grants(now);
    }

    pub(super) fn date(&self, now: Duration) -> SystemTime {
        self.dated.1 + now.saturating_sub(self.dated.0)
    }

    /// Whether the peer of a link may know of a session of this machine.
    pub(super) fn may_list(&self, link: &Link, session: &SessionInfo, now: Duration) -> bool {
        self.verdict(link, Some(Verb::List), session, now) == Verdict::Allow
    }

    /// A session of this machine, if the peer of a link may know of it. The policy is asked about one that
    /// is not there too, so that the time it takes does not tell which of the two it is.
    pub(super) fn listed(&self, link: &Link, target: &str, now: Duration) -> Option<&Entry> {
        let Some(entry) = self.local.get(target) else {
            let nothing = SessionInfo { session_id: target.parse().ok()?, name: String::new(), aliases: Vec::new() };
            std::hint::black_box(self.may_list(link, &nothing, now));
            return None;
        };
        Some(entry).filter(|entry| self.may_list(link, &entry.info, now))
    }

    /// Has a call of a peer count against what it may make in a minute; refused ones do too.
    pub(super) fn charge(&mut self, link: LinkId, now: Duration) -> Result<(), Failure> {
        let Some(fingerprint) = self.links.get(&link).map(|link| link.peer) else { return Ok(()) };
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return Ok(()) };
        let Some(number) = peer.calls_a_minute() else { return Ok(()) };
        let Err(wait) = peer.calls.take(Rate::per_minute(number), now) else {
            self.record_too_many(fingerprint);
            return Ok(());
        };
        // Full seconds, so that who waits that long has waited long enough.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let message = format!("this device may make {number} calls a minute there: try again in {seconds} s");
        Err(Failure::new(Code::RateLimited, message).delivered(false))
    }

    /// Whether a peer may make one more call now; nothing is counted.
    pub(super) fn has_call_left(&self, peer: Fingerprint, now: Duration) -> bool {
        let Some(peer) = self.peers.get(&peer) else { return false };
        let mut calls = peer.calls;
        peer.calls_a_minute().is_none_or(|number| calls.take(Rate::per_minute(number), now).is_ok())
    }

    /// What the peer of a link may do here, as it is told.
    pub(super) fn allowed(&self, link: &Link, now: Duration) -> Allows {
        match self.peers.get(&link.peer).filter(|_| !self.locked) {
            Some(peer) => {
                let (verbs, ask) = policy::verbs(&peer.grants, &link.origin, self.date(now));
                Allows { verbs, ask }
            }
            None => Allows::default(),
        }
    }

    /// Tells links of a session that has come or changed, as far as their peers may know of it.
    pub(super) fn tell_of(&mut self, info: &SessionInfo, now: Duration) {
        let id = &info.session_id;
        let told = self.links.iter().filter(|(_, link)| link.is_told());
        let changes: Vec<_> = told.map(|(at, l)| (*at, l.shown.contains(id), self.may_list(l, info, now))).collect();
        let [mut added, mut renamed, mut removed] = [None, None, None];
        for (link, was_shown, is_shown) in changes {
            let message = match (was_shown, is_shown) {
                (false, true) => added.get_or_insert_with(|| LinkMessage::SessionAdded(info.clone()).encode()),
                (true, true) => renamed.get_or_insert_with(|| LinkMessage::SessionRenamed(info.clone()).encode()),
                (true, false) => removed.get_or_insert_with(|| LinkMessage::SessionRemoved(id.clone()).encode()),
                (false, false) => continue,
            };
            let message = message.clone();
            self.show(link, id, is_shown);
            self.push_or_drop(link, Lane::State, message);
            if was_shown {
                // Another name may be in another selector.
                self.end_calls_without_right(link, Some(id), now);
            }
        }
    }

    /// Tells links that a session is gone, as far as they were told of it.
    pub(super) fn tell_of_end(&mut self, id: &SessionId) {
        let told: Vec<_> = self.links.iter_mut().filter_map(|(at, l)| l.shown.remove(id).then_some(*at)).collect();
        if !told.is_empty() {
            let message = LinkMessage::SessionRemoved(id.clone()).encode();
            told.into_iter().for_each(|link| self.push_or_drop(link, Lane::State, message.clone()));
        }
    }

    fn show(&mut self, link: LinkId, session: &SessionId, is_shown: bool) {
        let Some(link) = self.links.get_mut(&link) else { return };
        if is_shown {
            link.shown.insert(session.clone());
        } else {
            link.shown.remove(session);
        }
    }

    /// Tells the links for which `concerned` holds how what their peers may know and do has changed, and
    /// ends the calls for which the right is gone.
    pub(super) fn review(&mut self, concerned: impl Fn(&Link) -> bool, now: Duration) {
        let concerned = self.links.iter().filter(|(_, link)| concerned(link));
        let links: Vec<_> = concerned.map(|(id, _)| *id).collect();
        links.into_iter().for_each(|link| self.review_link(link, now));
    }

    /// As [`Relay::review`], of one link.
    pub(super) fn review_link(&mut self, id: LinkId, now: Duration) {
        let Some(link) = self.links.get(&id).filter(|link| link.is_told()) else { return };
        let mut changes = Vec::new();
        for entry in self.local.values() {
            let session = &entry.info.session_id;
            match (link.shown.contains(session), self.may_list(link, &entry.info, now)) {
                (false, true) => changes.push((session.clone(), Some(entry.info.clone()))),
                (true, false) => changes.push((session.clone(), None)),
                (true, true) | (false, false) => {}
            }
        }
        let allowed = self.allowed(link, now);
        if let Some(link) = self.links.get_mut(&id).filter(|link| link.allowed != allowed) {
            link.allowed = allowed.clone();
            self.push_or_drop(id, Lane::State, LinkMessage::Allows(allowed).encode());
        }
        for (session, shown) in changes {
            self.show(id, &session, shown.is_some());
            let message = shown.map_or_else(|| LinkMessage::SessionRemoved(session), LinkMessage::SessionAdded);
            self.push_or_drop(id, Lane::State, message.encode());
        }
        self.end_calls_without_right(id, None, now);
    }

    /// Ends the calls of a link's peer, to one session or to all, that it could not make any more. What
    /// somebody would be asked about now goes on.
    fn end_calls_without_right(&mut self, id: LinkId, session: Option<&SessionId>, now: Duration) {
        // What was only held ends in words of its own.
        self.review_held(now);
        let Some(link) = self.links.get(&id).filter(|link| !link.calls.is_empty()) else { return };
        let lost = |call: &CallId| {
            let call = self.pending.get(*call)?;
            match &call.destination {
                Destination::Session(of) if session.is_none_or(|session| session == of) => {
                    self.lost_right(link, call, of, now)
                }
                Destination::Session(_) | Destination::Link { .. } => None,
            }
        };
        let mut over: Vec<_> = link.calls.values().filter_map(|call| Some((*call, lost(call)?))).collect();
        over.sort_unstable_by_key(|(call, _)| *call);
        for (call, failure) in over {
            self.abandon(call);
            self.complete(call, Err(failure.delivered(true)));
        }
    }

    /// The failure that a call under way would have if it came now, for want of a right.
    fn lost_right(&self, link: &Link, call: &Call, session: &SessionId, now: Duration) -> Option<Failure> {
        let entry = self.local.get(session)?;
        let command_type = call.command_type.as_deref();
        if !self.may_list(link, &entry.info, now) {
            return Some(not_found(session.as_str()));
        }
        let rights = rights(command_type, call.waits_for_turn_end);
        let verdict = self.verdict_of_call(link, &rights, &entry.info, now);
        (verdict == Verdict::Deny).then(|| forbidden(command_type, session.as_str()))
    }

    /// Does what follows from grants that have ended, before anything else is done at this time.
    pub(super) fn end_grants(&mut self, now: Duration) {
        if self.next_end.is_none_or(|at| now < at) {
            return;
        }
        let date = self.date(now);
        let ended = |peer: &Peer| peer.ends.is_some_and(|end| end <= date);
        let over: BTreeSet<Fingerprint> =
            self.peers.iter().filter(|(_, peer)| ended(peer)).map(|(fingerprint, _)| *fingerprint).collect();
        for peer in &over {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.ends = first_end(&peer.grants, date);
            }
        }
        self.note_ends(now);
        self.review(|link| over.contains(&link.peer), now);
    }

    /// Notes when the next grant ends of a peer that has a link, and has the timer know of it.
    pub(super) fn note_ends(&mut self, now: Duration) {
        let date = self.date(now);
        let linked = self.links.values().filter(|link| !matches!(link.state, State::Ending { .. }));
        let first = linked.filter_map(|link| self.peers.get(&link.peer)?.ends).min();
        self.next_end = first.map(|end| now.saturating_add(end.duration_since(date).unwrap_or_default()));
        if let Some(at) = self.next_end {
            self.due(at);
        }
    }
}
