//! Links to peers: their greeting, messages, heartbeats and end.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};

use super::checks::AskedCheck;
use super::ends::LinkEnd;
use super::origin::{self, Lookup};
use super::pending::{CallId, Destination};
use super::queue::{Lane, LinkOutbox, wake};
use super::rate::Rate;
use super::records::{MAX_WORDS, shown};
use super::roster::Sessions;
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::trust::Origin;
use crate::wire::DEFAULT_MESSAGE_LIMIT;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::SessionId;
use crate::wire::link::{Allows, ByeReason, Hello, LinkMessage};
use crate::wire::preview::Shown;

/// How long the first message may take.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Most links that a peer may have opened beside the one that is used.
const MAX_SPARE: usize = 4;
/// How long a link that ends may take to say so.
const BYE_DEADLINE: Duration = Duration::from_secs(1);
/// A link that was silent for this many heartbeat intervals is dead.
const SILENT_INTERVALS: u32 = 3;
/// Messages of a peer that are neither calls nor answers: heartbeats, sessions that come and go, checks.
/// Several times as many at once as a peer can have sessions, since a change of what this device may
/// list there tells of each; one that sends more has its link ended. What it has sent counts over
/// whichever link, and the hello with which it starts anew counts nothing.
const MESSAGES: Rate = Rate::per_second(2_000, 80_000);

/// What is known of a link from its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// The far end.
    pub address: SocketAddr,
    /// The near end.
    pub local_address: SocketAddr,
    /// TLS version.
    pub tls: String,
    /// Key-exchange group.
    pub group: String,
    /// When it was authenticated.
    pub since: SystemTime,
}

/// A peer's live link, as `status` and `peers` show it.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// From its handshake.
    pub facts: LinkFacts,
    /// Whether this device dialled.
    pub dialled: bool,
    /// The last measured round trip.
    pub round_trip: Option<Duration>,
    /// The far side's sessions.
    pub sessions: usize,
}

/// An authenticated link; so its peer is always known.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Fingerprint,
    pub(super) sessions: Sessions,
    /// Longest command or answer that the peer takes, in bytes.
    pub(super) message_limit: usize,
    /// Size of what is shown of the sessions, in bytes.
    pub(super) roster: usize,
    /// Answers to calls that this peer was not asked, or too late.
    pub(super) strays: u64,
    pub(super) calls: HashMap<u64, CallId>,
    pub(super) call_bytes: usize,
    /// Whether this side has sent its hello, and so tells of sessions that come and go.
    pub(super) greeted: bool,
    /// The sessions of this machine that the peer was told of.
    pub(super) shown: BTreeSet<SessionId>,
    /// What the peer was told that it may do here.
    pub(super) allowed: Allows,
    /// Whether it is on record that the link is up.
    pub(super) is_up: bool,
    pub(super) outbox: LinkOutbox,
    pub(super) dialled: bool,
    /// Which of its dialler's links this is, counted up.
    pub(super) dial: u64,
    facts: LinkFacts,
    /// Where its peer comes from.
    pub(super) origin: Origin,
    pub(super) lookup: Lookup,
    pub(super) state: State,
    opened: Duration,
    heard: Duration,
    pub(super) next_ping: Duration,
    pub(super) ping: Option<(u64, Duration)>,
    /// The last ping that was answered.
    pub(super) ponged: u64,
    pub(super) round_trip: Option<Duration>,
    /// Whether the peer answers `check`.
    pub(super) answers_checks: bool,
    /// The `check` that the peer was asked last.
    pub(super) asked: Option<AskedCheck>,
    /// Who waits for a pong or for what the peer has found.
    pub(super) waiting: Vec<Waker>,
    pub(super) interval: Duration,
    dropped: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The peer's hello has not come.
    Greeting,
    /// Usable; `instance` is the peer's start.
    Live { instance: u64 },
    /// Bye is said; it leaves at this time at the latest.
    Ending { at: Duration },
}

impl Link {
    /// Its far end.
    pub(super) fn address(&self) -> SocketAddr {
        self.facts.address
    }

    /// Whether its peer is told of sessions.
    pub(super) fn is_told(&self) -> bool {
        self.greeted && !matches!(self.state, State::Ending { .. })
    }
}

impl Relay {
    /// A link is authenticated. Its first message must be the peer's hello; the dialler's goes first.
    /// `None` when the peer is not pinned (any more).
    pub fn open_link(&mut self, peer: Fingerprint, dialled: bool, facts: LinkFacts, now: Duration) -> Option<LinkId> {
        let removed = self.peers.get(&peer)?.removed;
        let id = LinkId(self.mint());
        let interval = Duration::from_secs(self.me.hello.heartbeat_interval);
        let link = Link {
            peer,
            sessions: Sessions::new(),
            message_limit: DEFAULT_MESSAGE_LIMIT,
            roster: 0,
            strays: 0,
            calls: HashMap::new(),
            call_bytes: 0,
            greeted: false,
            shown: BTreeSet::new(),
            allowed: Allows::default(),
            is_up: false,
            outbox: LinkOutbox::new(self.limits.outbox, self.budget.clone()),
            dialled,
            dial: id.0,
            origin: Origin { address: facts.address.ip(), tailnet: origin::known_of(facts.address) },
            lookup: Lookup::default(),
            facts,
            state: State::Greeting,
            opened: now,
            heard: now,
            next_ping: now,
            ping: None,
            ponged: 0,
            round_trip: None,
            answers_checks: false,
            asked: None,
            waiting: Vec::new(),
            interval,
            dropped: None,
        };
        self.links.insert(id, link);
        self.due(now + HELLO_DEADLINE);
        self.note_ends(now);
        self.want_tailnet();
        if !dialled {
            self.bound_links(peer, now);
        }
        if removed {
            self.end_link(id, ByeReason::Removed, now);
        } else if dialled {
            self.greet(id, now);
        }
        Some(id)
    }

    /// Of too many links that a peer has opened, the oldest that is not used makes way.
    fn bound_links(&mut self, peer: Fingerprint, now: Duration) {
        let current = self.peers.get(&peer).and_then(|peer| peer.current);
        let is_spare = |(id, link): &(&LinkId, &Link)| {
            link.peer == peer && !link.dialled && Some(**id) != current && !matches!(link.state, State::Ending { .. })
        };
        let spare = self.links.iter().filter(is_spare).map(|(id, _)| *id);
        if spare.clone().count() > MAX_SPARE
            && let Some(oldest) = spare.min()
        {
            self.remove_link(oldest, LinkEnd::Lost("too many links of this peer are open".into()), now);
        }
    }

    /// A message came over a link. Gives the hello back when that is what it was, so that what it
    /// tells of the peer can be kept.
    pub fn link_message(&mut self, id: LinkId, message: LinkMessage, now: Duration) -> Option<Hello> {
        self.link_message_shown(id, message, None, now)
    }

    /// As [`Relay::link_message`], of a call with what a person would be shown of it.
    pub fn link_message_shown(
        &mut self,
        id: LinkId,
        message: LinkMessage,
        shown: Option<Shown>,
        now: Duration,
    ) -> Option<Hello> {
        self.end_grants(now);
        let link = self.links.get_mut(&id)?;
        link.heard = now;
        match (link.state, message) {
            (State::Ending { .. }, _) => None,
            (State::Greeting, LinkMessage::Hello(hello)) => {
                self.hello(id, &hello, now);
                Some(hello)
            }
            (State::Greeting, LinkMessage::Bye(reason)) => {
                self.remove_link(id, LinkEnd::Bye(reason), now);
                None
            }
            (State::Greeting, LinkMessage::Request(_) | LinkMessage::Unknown) => None,
            (State::Greeting, _) => {
                self.break_off(id, "a message before hello", now);
                None
            }
            (State::Live { .. }, LinkMessage::Hello(_)) => {
                self.break_off(id, "a second hello", now);
                None
            }
            (State::Live { .. }, message) => {
                self.live_message(id, message, shown, now);
                None
            }
        }
    }

    /// Bytes came over a link that are no whole message yet.
    pub fn link_heard(&mut self, id: LinkId, now: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            link.heard = now;
        }
    }

    /// Appends frames for a link's peer to `out`; `None` when the link is to be closed.
    pub fn poll_link(&mut self, id: LinkId, out: &mut BytesMut, most: usize, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let Some(link) = self.links.get_mut(&id) else { return Poll::Ready(None) };
        if link.outbox.is_empty() && matches!(link.state, State::Ending { .. }) {
            return Poll::Ready(None);
        }
        link.outbox.poll_fill(out, most, cx).map(Some)
    }

    /// Ready once a link is no more and its connection has to go, whatever it is doing.
    pub fn poll_dropped(&mut self, id: LinkId, cx: &mut Context<'_>) -> Poll<()> {
        match self.links.get_mut(&id) {
            Some(link) => {
                link.dropped = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// How long a link may take to write what was taken of it.
    pub fn write_deadline(&self, id: LinkId) -> Duration {
        self.links.get(&id).map_or(BYE_DEADLINE, |link| link.interval * SILENT_INTERVALS)
    }

    /// A link's connection has ended.
    pub fn link_closed(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        self.remove_link(id, end, now);
    }

    /// Says bye on a link and uses it no more.
    pub fn end_link(&mut self, id: LinkId, reason: ByeReason, now: Duration) {
        if self.links.get(&id).is_none_or(|link| matches!(link.state, State::Ending { .. })) {
            return;
        }
        self.say_bye(id, reason);
        self.retire_saying(id, LinkEnd::Here(reason), now);
    }

    /// Ends every link, as the daemon goes down.
    pub fn end_all_links(&mut self, now: Duration) {
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            self.end_link(id, ByeReason::Shutdown, now);
        }
    }

    /// The live link of a peer.
    pub fn link_of(&self, peer: Fingerprint) -> Option<LinkView> {
        let link = self.links.get(&self.peers.get(&peer)?.current?)?;
        Some(LinkView {
            facts: link.facts.clone(),
            dialled: link.dialled,
            round_trip: link.round_trip,
            sessions: link.sessions.len(),
        })
    }

    /// How many peers are pinned.
    pub fn pinned_count(&self) -> usize {
        self.peers.len()
    }

    /// How many peers have a live link.
    pub fn linked_peer_count(&self) -> usize {
        self.peers.values().filter(|peer| peer.current.is_some()).count()
    }

    pub(super) fn push_to_link(&mut self, id: LinkId, lane: Lane, message: Bytes) -> bool {
        self.links.get_mut(&id).is_some_and(|link| link.outbox.push(lane, message).is_ok())
    }

    /// Queues what a link cannot do without; a peer that leaves no room even for that has stopped
    /// reading.
    pub(super) fn push_or_drop(&mut self, id: LinkId, lane: Lane, message: Bytes) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.outbox.push_reserved(lane, message).is_err() && !matches!(link.state, State::Ending { .. }) {
            // Dropped at the next tick, since the caller may be in the middle of something.
            link.state = State::Ending { at: link.heard };
            let at = link.heard;
            self.due(at);
        }
    }

    pub(super) fn tick_links(&mut self, now: Duration) {
        let mut over = Vec::new();
        let mut pings = Vec::new();
        for (id, link) in &mut self.links {
            match link.state {
                State::Greeting if now >= link.opened + HELLO_DEADLINE => {
                    over.push((*id, LinkEnd::Lost("no hello came".into())));
                }
                State::Greeting => {}
                State::Ending { at } if now >= at => over.push((*id, LinkEnd::Lost("the peer stopped reading".into()))),
                State::Ending { .. } => {}
                State::Live { .. } if now >= link.heard + link.interval * SILENT_INTERVALS => {
                    over.push((*id, LinkEnd::Silent))
                }
                State::Live { .. } => {
                    if now >= link.next_ping {
                        link.next_ping = now + link.interval;
                        pings.push(*id);
                    }
                }
            }
        }
        for id in pings {
            self.ping(id, now);
        }
        for (id, end) in over {
            self.remove_link(id, end, now);
        }
        self.tick_contests(now);
    }

    pub(super) fn next_link_deadline(&self) -> Option<Duration> {
        let links = self.links.values().map(|link| match link.state {
            State::Greeting => link.opened + HELLO_DEADLINE,
            State::Ending { at } => at,
            State::Live { .. } => link.next_ping.min(link.heard + link.interval * SILENT_INTERVALS),
        });
        links.chain(self.next_contest_deadline()).min()
    }

    fn live_message(&mut self, id: LinkId, message: LinkMessage, shown: Option<Shown>, now: Duration) {
        // Calls have a measure of their own, and answers are as many as calls.
        let is_free = matches!(message, LinkMessage::Rpc(_) | LinkMessage::RpcResponse { .. });
        if !is_free && !self.may_say_more(id, now) {
            return self.break_off(id, "far more messages than there can be something to say", now);
        }
        match message {
            LinkMessage::Ping(number) => self.push_or_drop(id, Lane::Heartbeat, LinkMessage::Pong(number).encode()),
            LinkMessage::Pong(number) => self.pong(id, number, now),
            LinkMessage::SessionAdded(info) | LinkMessage::SessionRenamed(info) => self.far_session(id, info),
            LinkMessage::SessionRemoved(session) => self.far_session_gone(id, &session),
            LinkMessage::Rpc(rpc) => {
                if self.links.get(&id).is_some_and(|link| link.calls.contains_key(&rpc.id)) {
                    return self.break_off(id, "a call id used twice", now);
                }
                self.rpc(id, rpc, shown, now);
            }
            LinkMessage::RpcProgress { id: call, code, extend_ms } => self.rpc_progress(id, call, code, extend_ms, now),
            LinkMessage::RpcResponse { id: call, outcome } => self.rpc_answered(id, call, outcome, now),
            LinkMessage::Cancel(call) => self.rpc_cancelled(id, call),
            LinkMessage::Check(check) => self.check_wanted(id, check),
            LinkMessage::Checked(checked) => self.peer_checked(id, checked),
            LinkMessage::Allows(allows) => self.far_allows(id, allows),
            LinkMessage::Bye(reason) => self.remove_link(id, LinkEnd::Bye(reason), now),
            LinkMessage::Request(kind) => self.record_request(id, kind),
            LinkMessage::Hello(_) | LinkMessage::Unknown => {}
        }
    }

    /// Whether a peer keeps to the number of messages that any may send, with one more.
    pub(super) fn may_say_more(&mut self, id: LinkId, now: Duration) -> bool {
        let Some(link) = self.links.get(&id) else { return true };
        self.peers.get_mut(&link.peer).is_none_or(|peer| peer.messages.take(MESSAGES, now).is_ok())
    }

    /// Ends a link whose peer broke the protocol.
    pub fn break_off(&mut self, id: LinkId, how: &str, now: Duration) {
        if let Some(peer) = self.links.get(&id).map(|link| link.peer) {
            self.say_bye(id, ByeReason::ProtocolError);
            self.note(peer, &format!("broke the protocol: {}", shown(how, MAX_WORDS)), now);
        }
        self.retire_saying(id, LinkEnd::Protocol(how.to_owned()), now);
    }

    /// Says bye on a link, behind the last word about what was held for its peer.
    fn say_bye(&mut self, id: LinkId, reason: ByeReason) {
        self.refuse_held_of(id);
        if let Some(link) = self.links.get_mut(&id) {
            // Without room for the bye the connection simply ends.
            let _ = link.outbox.push_reserved(Lane::State, LinkMessage::Bye(reason).encode());
        }
    }

    /// Takes a link out of use and gives its last words a moment to leave.
    fn retire_saying(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        self.retire(id, end, now);
        if let Some(link) = self.links.get_mut(&id) {
            link.state = State::Ending { at: now + BYE_DEADLINE };
            link.outbox.wake();
        }
        self.due(now + BYE_DEADLINE);
    }

    pub(super) fn greet(&mut self, id: LinkId, now: Duration) {
        let Some(link) = self.links.get(&id) else { return };
        let peer = link.peer;
        let allowed = self.allowed(link, now);
        let hello = Hello {
            contested: self.peers.get(&peer).and_then(|p| p.current).is_some_and(|current| current != id),
            allows: allowed.verbs.clone(),
            ask: allowed.ask.clone(),
            sessions: self.visible_sessions(id, now),
            dial: self.links.get(&id).filter(|link| link.dialled).map_or(0, |_| id.0),
            ..self.me.hello.clone()
        };
        let shown = hello.sessions.iter().map(|session| session.session_id.clone()).collect();
        self.push_or_drop(id, Lane::State, LinkMessage::Hello(hello).encode());
        if let Some(link) = self.links.get_mut(&id) {
            (link.greeted, link.shown, link.allowed) = (true, shown, allowed);
        }
    }

    pub(super) fn ping(&mut self, id: LinkId, now: Duration) -> u64 {
        let number = self.mint();
        if let Some(link) = self.links.get_mut(&id) {
            link.ping = Some((number, now));
        }
        self.push_or_drop(id, Lane::Heartbeat, LinkMessage::Ping(number).encode());
        number
    }

    fn pong(&mut self, id: LinkId, number: u64, now: Duration) {
        if let Some(link) = self.links.get_mut(&id)
            && let Some((_, sent)) = link.ping.take_if(|(expected, _)| *expected == number)
        {
            link.round_trip = Some(now.saturating_sub(sent));
            link.ponged = number;
            link.waiting.drain(..).for_each(Waker::wake);
        }
        self.old_link_answered(id, number, now);
    }

    fn remove_link(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        self.retire(id, end, now);
        if let Some(mut link) = self.links.remove(&id) {
            wake(&mut link.dropped);
            link.waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Takes a link out of use: its calls fail, and its peer goes over to another link or none.
    pub(super) fn retire(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (fingerprint, state) = (link.peer, link.state);
        link.shown = BTreeSet::new();
        let asked_here: Vec<_> = link.calls.drain().map(|(_, call)| call).collect();
        self.record_link_down(id, &end);
        for call in asked_here {
            self.abandon(call);
            if let Some(call) = self.pending.remove(call) {
                self.record_unwanted(&call, Code::PeerDisconnected, "the link to who asked has ended");
            }
        }
        let host = self.peers.get(&fingerprint).map(|peer| peer.name.to_string()).unwrap_or_default();
        let over =
            |call: &super::pending::Call| matches!(&call.destination, Destination::Link { link, .. } if *link == id);
        for call in self.pending.matching(over) {
            let words = format!("The link to {host} dropped before the answer came: {}", end.words());
            self.complete(call, Err(Failure::new(Code::PeerDisconnected, words).delivered(true)));
        }
        let heirs = self.take_heirs(id);
        let Some(peer) = self.peers.get(&fingerprint) else { return };
        let current = peer.current;
        if current.is_none() && state == State::Greeting {
            self.set_why(fingerprint, end.why(&host), now);
        }
        if current == Some(id) {
            match heirs.first().copied().or_else(|| self.standby(fingerprint, id)) {
                Some(heir) => self.make_current(heir),
                None => self.unlinked(fingerprint, id, &end, now),
            }
        }
        for heir in heirs {
            self.contest(fingerprint, heir, now);
        }
    }
}
