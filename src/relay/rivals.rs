//! Which of two links between the same devices stays.
//!
//! Of two links dialled by the same side the one dialled later stays (the dialler counts them), and
//! of two starts of the far daemon the later.
//! Of two dialled from both sides, the device with the lower fingerprint decides alone: it pings the
//! old one, keeps it if an answer comes within a second, and says `bye duplicate` on the other. The
//! device with the higher fingerprint follows: a hello marked `contested` waits for that verdict,
//! one that is not says that the far side holds no other link, so the old one is stale. While it
//! waits it makes sure that the old one lives, since a stale one would never be decided about.

use std::time::Duration;

use super::links::{Link, State};
use super::roster::Entry;
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::link::{Allows, ByeReason, FEATURE_CHECK, Hello};

/// How long an old link may take to show that it lives.
const CONTEST_DEADLINE: Duration = Duration::from_secs(1);
/// The same where the verdict is the far side's.
const WAITING_DEADLINE: Duration = Duration::from_millis(500);
/// The same where the far side says that it holds no other link, so that the old one is most likely
/// stale; that its hello crossed ours on the way is the exception.
const STALE_DEADLINE: Duration = Duration::from_millis(250);

/// Two links to one peer, while the old one has to show that it lives, or else make way. If it does
/// live, the device that decides ends the new one, and the other goes on waiting for the verdict.
#[derive(Debug)]
pub(super) struct Contest {
    old: LinkId,
    new: LinkId,
    ping: u64,
    deadline: Duration,
}

impl Relay {
    /// A peer has greeted, and its link finds its place.
    pub(super) fn hello(&mut self, id: LinkId, hello: &Hello, now: Duration) {
        let Some(link) = self.links.get(&id) else { return };
        let (peer, dialled, greeted) = (link.peer, link.dialled, link.greeted);
        let Some(name) = self.peers.get(&peer).map(|peer| peer.name.to_string()) else { return };
        if !greeted {
            self.greet(id, now);
        }
        let interval = self.me.hello.heartbeat_interval.max(hello.heartbeat_interval.min(300)).max(1);
        if let Some(link) = self.links.get_mut(&id) {
            if matches!(link.state, State::Ending { .. }) {
                // This side's own hello had no room.
                return;
            }
            link.state = State::Live { instance: hello.instance };
            link.interval = Duration::from_secs(interval);
            link.next_ping = now;
            link.answers_checks = hello.features.iter().any(|feature| feature == FEATURE_CHECK);
            link.message_limit = usize::try_from(hello.message_limit).unwrap_or(usize::MAX);
            if !dialled {
                link.dial = hello.dial;
            }
        }
        for session in &hello.sessions {
            if !self.note_session(id, Entry::new(session.clone(), &name, true)) {
                // The rest would cost time alone.
                break;
            }
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.version = Some(hello.version.clone());
            peer.may_there = Allows { verbs: hello.allows.clone(), ask: hello.ask.clone() };
        }
        self.record_link_up(id);
        self.due(now);
        let current = self.peers.get(&peer).and_then(|peer| peer.current);
        let Some((old, rival)) = current.and_then(|old| Some((old, self.links.get(&old)?))) else {
            return self.make_current(id);
        };
        let restarted = rival.state != State::Live { instance: hello.instance };
        let rival_is_newer = rival.dial > if dialled { id.0 } else { hello.dial };
        if rival.dialled == dialled && !restarted && rival_is_newer {
            self.end_link(id, ByeReason::Duplicate, now);
        } else if rival.dialled == dialled || restarted {
            self.make_current(id);
            self.end_link(old, ByeReason::Duplicate, now);
        } else if self.me.fingerprint < peer {
            self.contest_within(peer, id, if hello.contested { CONTEST_DEADLINE } else { STALE_DEADLINE }, now);
        } else if hello.contested {
            self.contest_within(peer, id, WAITING_DEADLINE, now);
        } else {
            self.make_current(id);
            // Should the hellos have crossed, the verdict may still be for the old link; a stale one
            // must not be fallen back on.
            self.contest_between(old, id, WAITING_DEADLINE, now);
        }
    }

    /// The old link of a contest lives: whoever decides ends the new one.
    pub(super) fn old_link_answered(&mut self, id: LinkId, ping: u64, now: Duration) {
        let Some(at) = self.contests.iter().position(|contest| contest.old == id && contest.ping == ping) else {
            return;
        };
        let contest = self.contests.swap_remove(at);
        if self.links.get(&contest.new).is_some_and(|link| self.me.fingerprint < link.peer) {
            self.end_link(contest.new, ByeReason::Duplicate, now);
        }
    }

    /// Old links that did not answer make way.
    pub(super) fn tick_contests(&mut self, now: Duration) {
        while let Some(at) = self.contests.iter().position(|contest| now >= contest.deadline) {
            let contest = self.contests.swap_remove(at);
            self.make_current(contest.new);
            self.end_link(contest.old, ByeReason::Duplicate, now);
        }
    }

    pub(super) fn next_contest_deadline(&self) -> Option<Duration> {
        self.contests.iter().map(|contest| contest.deadline).min()
    }

    /// Ends the contests of a link that is no more; gives the links that waited for it.
    pub(super) fn take_heirs(&mut self, id: LinkId) -> Vec<LinkId> {
        let over = self.contests.extract_if(.., |contest| contest.old == id || contest.new == id);
        over.filter(|contest| contest.old == id).map(|contest| contest.new).collect()
    }

    /// Has a peer's current link show that it lives, or make way for `new`.
    pub(super) fn contest(&mut self, peer: Fingerprint, new: LinkId, now: Duration) {
        self.contest_within(peer, new, CONTEST_DEADLINE, now);
    }

    fn contest_within(&mut self, peer: Fingerprint, new: LinkId, within: Duration, now: Duration) {
        let Some(old) = self.peers.get(&peer).and_then(|peer| peer.current).filter(|old| *old != new) else { return };
        self.contest_between(old, new, within, now);
    }

    fn contest_between(&mut self, old: LinkId, new: LinkId, within: Duration, now: Duration) {
        let ping = self.ping(old, now);
        self.contests.push(Contest { old, new, ping, deadline: now + within });
        self.due(now + within);
    }

    /// Another live link of a peer, the newest.
    pub(super) fn standby(&self, peer: Fingerprint, except: LinkId) -> Option<LinkId> {
        let usable = |(id, link): &(&LinkId, &Link)| {
            link.peer == peer && **id != except && matches!(link.state, State::Live { .. })
        };
        self.links.iter().filter(usable).map(|(id, _)| *id).max()
    }
}
