//! Links to peers: their greeting, heartbeats and end, and which of two links between the same
//! devices stays.
//!
//! Of two links dialled by the same side the one dialled later stays (the dialler counts them), and
//! of two starts of the far daemon the later.
//! Of two dialled from both sides, the device with the lower fingerprint decides alone: it pings the
//! old one, keeps it if an answer comes within a second, and says `bye duplicate` on the other. The
//! device with the higher fingerprint follows: a hello marked `contested` waits for that verdict,
//! one that is not says that the far side holds no other link, so the old one is stale. While it
//! waits it makes sure that the old one lives, since a stale one would never be decided about.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use serde_json::json;

use super::pending::{CallId, Destination};
use super::queue::{Lane, LinkOutbox, wake};
use super::roster::{Entry, Sessions};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::control::event_line;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::SessionId;
use crate::wire::link::{ByeReason, Hello, LinkMessage, MAX_SESSIONS, SessionInfo};

/// How long the first message may take.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a link that ends may take to say so.
const BYE_DEADLINE: Duration = Duration::from_secs(1);
/// How long an old link may take to show that it lives.
const CONTEST_DEADLINE: Duration = Duration::from_secs(1);
/// The same where the verdict is the far side's.
const WAITING_DEADLINE: Duration = Duration::from_millis(500);
/// The same where the far side says that it holds no other link, so that the old one is most likely
/// stale; that its hello crossed ours on the way is the exception.
const STALE_DEADLINE: Duration = Duration::from_millis(250);
/// A link that was silent for this many heartbeat intervals is dead.
const SILENT_INTERVALS: u32 = 3;

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

/// Why a link is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEnd {
    /// The peer said so.
    Bye(ByeReason),
    /// The peer's TLS refused this device's key.
    Refused,
    /// Nothing came for three heartbeats.
    Silent,
    /// The connection broke, with the reason.
    Lost(String),
    /// The peer broke the protocol, with how.
    Protocol(String),
    /// This device ended it.
    Here(ByeReason),
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
    pub(super) calls: HashMap<u64, CallId>,
    pub(super) call_bytes: usize,
    /// Whether this side has sent its hello, and so tells of sessions that come and go.
    pub(super) greeted: bool,
    outbox: LinkOutbox,
    dialled: bool,
    /// Which of its dialler's links this is, counted up.
    dial: u64,
    facts: LinkFacts,
    state: State,
    opened: Duration,
    heard: Duration,
    next_ping: Duration,
    ping: Option<(u64, Duration)>,
    round_trip: Option<Duration>,
    interval: Duration,
    dropped: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The peer's hello has not come.
    Greeting,
    /// Usable; `instance` is the peer's start.
    Live { instance: u64 },
    /// Bye is said; it leaves at this time at the latest.
    Ending { at: Duration },
}

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
    /// A link is authenticated. Its first message must be the peer's hello; the dialler's goes first.
    /// `None` when the peer is not pinned (any more).
    pub fn open_link(&mut self, peer: Fingerprint, dialled: bool, facts: LinkFacts, now: Duration) -> Option<LinkId> {
        let removed = self.peers.get(&peer)?.removed;
        let id = LinkId(self.mint());
        let interval = Duration::from_secs(self.me.hello.heartbeat_interval);
        let link = Link {
            peer,
            sessions: Sessions::new(),
            calls: HashMap::new(),
            call_bytes: 0,
            greeted: false,
            outbox: LinkOutbox::new(self.limits.outbox, self.budget.clone()),
            dialled,
            dial: id.0,
            facts,
            state: State::Greeting,
            opened: now,
            heard: now,
            next_ping: now,
            ping: None,
            round_trip: None,
            interval,
            dropped: None,
        };
        self.links.insert(id, link);
        self.due(now + HELLO_DEADLINE);
        if removed {
            self.end_link(id, ByeReason::Removed, now);
        } else if dialled {
            self.greet(id);
        }
        Some(id)
    }

    /// A message came over a link. Gives the hello back when that is what it was, so that what it
    /// tells of the peer can be kept.
    pub fn link_message(&mut self, id: LinkId, message: LinkMessage, now: Duration) -> Option<Hello> {
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
            (State::Greeting, LinkMessage::Unknown) => None,
            (State::Greeting, _) => {
                self.break_off(id, "a message before hello", now);
                None
            }
            (State::Live { .. }, LinkMessage::Hello(_)) => {
                self.break_off(id, "a second hello", now);
                None
            }
            (State::Live { .. }, message) => {
                self.live_message(id, message, now);
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
        let Some(link) = self.links.get_mut(&id) else { return };
        if matches!(link.state, State::Ending { .. }) {
            return;
        }
        // Without room for the bye the connection simply ends.
        let _ = link.outbox.push(Lane::State, LinkMessage::Bye(reason).encode());
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

    /// How many peers have a live link.
    pub fn linked_peer_count(&self) -> usize {
        self.peers.values().filter(|peer| peer.current.is_some()).count()
    }

    pub(super) fn push_to_link(&mut self, id: LinkId, lane: Lane, message: Bytes) -> bool {
        self.links.get_mut(&id).is_some_and(|link| link.outbox.push(lane, message).is_ok())
    }

    /// Queues what a link cannot do without; a peer that leaves no room for it has stopped reading.
    pub(super) fn push_or_drop(&mut self, id: LinkId, lane: Lane, message: Bytes) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.outbox.push(lane, message).is_err() && !matches!(link.state, State::Ending { .. }) {
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
        while let Some(at) = self.contests.iter().position(|contest| now >= contest.deadline) {
            let contest = self.contests.swap_remove(at);
            self.make_current(contest.new, now);
            self.end_link(contest.old, ByeReason::Duplicate, now);
        }
    }

    pub(super) fn next_link_deadline(&self) -> Option<Duration> {
        let links = self.links.values().map(|link| match link.state {
            State::Greeting => link.opened + HELLO_DEADLINE,
            State::Ending { at } => at,
            State::Live { .. } => link.next_ping.min(link.heard + link.interval * SILENT_INTERVALS),
        });
        links.chain(self.contests.iter().map(|contest| contest.deadline)).min()
    }

    fn live_message(&mut self, id: LinkId, message: LinkMessage, now: Duration) {
        match message {
            LinkMessage::Ping(number) => self.push_or_drop(id, Lane::Heartbeat, LinkMessage::Pong(number).encode()),
            LinkMessage::Pong(number) => self.pong(id, number, now),
            LinkMessage::SessionAdded(info) | LinkMessage::SessionRenamed(info) => self.far_session(id, info),
            LinkMessage::SessionRemoved(session) => self.far_session_gone(id, &session),
            LinkMessage::Rpc(rpc) => {
                if self.links.get(&id).is_some_and(|link| link.calls.contains_key(&rpc.id)) {
                    return self.break_off(id, "a call id used twice", now);
                }
                self.rpc(id, rpc, now);
            }
            LinkMessage::RpcProgress { id: call, code: _, extend_ms } => self.rpc_progress(id, call, extend_ms),
            LinkMessage::RpcResponse { id: call, outcome } => self.rpc_answered(id, call, outcome, now),
            LinkMessage::Cancel(call) => self.rpc_cancelled(id, call, now),
            LinkMessage::Bye(reason) => self.remove_link(id, LinkEnd::Bye(reason), now),
            LinkMessage::Hello(_) | LinkMessage::Unknown => {}
        }
    }

    /// Ends a link whose peer broke the protocol.
    pub fn break_off(&mut self, id: LinkId, how: &str, now: Duration) {
        if let Some(link) = self.links.get_mut(&id) {
            // Without room for the bye the connection simply ends.
            let _ = link.outbox.push(Lane::State, LinkMessage::Bye(ByeReason::ProtocolError).encode());
        }
        self.retire_saying(id, LinkEnd::Protocol(how.to_owned()), now);
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

    fn greet(&mut self, id: LinkId) {
        let Some(peer) = self.links.get(&id).map(|link| link.peer) else { return };
        let hello = Hello {
            contested: self.peers.get(&peer).and_then(|p| p.current).is_some_and(|current| current != id),
            allows: self.peers.get(&peer).map(|p| p.grant.verbs().to_vec()).unwrap_or_default(),
            sessions: self.visible_sessions(id),
            dial: self.links.get(&id).filter(|link| link.dialled).map_or(0, |_| id.0),
            ..self.me.hello.clone()
        };
        self.push_or_drop(id, Lane::State, LinkMessage::Hello(hello).encode());
        if let Some(link) = self.links.get_mut(&id) {
            link.greeted = true;
        }
    }

    fn hello(&mut self, id: LinkId, hello: &Hello, now: Duration) {
        let Some(link) = self.links.get(&id) else { return };
        let (peer, dialled, greeted) = (link.peer, link.dialled, link.greeted);
        let Some(name) = self.peers.get(&peer).map(|peer| peer.name.to_string()) else { return };
        if !greeted {
            self.greet(id);
        }
        let interval = self.me.hello.heartbeat_interval.max(hello.heartbeat_interval.min(300)).max(1);
        if let Some(link) = self.links.get_mut(&id) {
            link.state = State::Live { instance: hello.instance };
            link.interval = Duration::from_secs(interval);
            link.next_ping = now;
            if !dialled {
                link.dial = hello.dial;
            }
            link.sessions =
                hello.sessions.iter().map(|s| (s.session_id.clone(), Entry::new(s.clone(), &name, true))).collect();
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.version = Some(hello.version.chars().take(32).collect());
            peer.may_there = hello.allows.clone();
        }
        self.due(now);
        let current = self.peers.get(&peer).and_then(|peer| peer.current);
        let Some((old, rival)) = current.and_then(|old| Some((old, self.links.get(&old)?))) else {
            return self.make_current(id, now);
        };
        let restarted = rival.state != State::Live { instance: hello.instance };
        let rival_is_newer = rival.dial > if dialled { id.0 } else { hello.dial };
        if rival.dialled == dialled && !restarted && rival_is_newer {
            self.end_link(id, ByeReason::Duplicate, now);
        } else if rival.dialled == dialled || restarted {
            self.make_current(id, now);
            self.end_link(old, ByeReason::Duplicate, now);
        } else if self.me.fingerprint < peer {
            self.contest(peer, id, if hello.contested { CONTEST_DEADLINE } else { STALE_DEADLINE }, now);
        } else if hello.contested {
            self.contest(peer, id, WAITING_DEADLINE, now);
        } else {
            self.make_current(id, now);
        }
    }

    fn ping(&mut self, id: LinkId, now: Duration) -> u64 {
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
        }
        if let Some(at) = self.contests.iter().position(|contest| contest.old == id && contest.ping == number) {
            let contest = self.contests.swap_remove(at);
            let decides = self.links.get(&contest.new).is_some_and(|link| self.me.fingerprint < link.peer);
            if decides {
                self.end_link(contest.new, ByeReason::Duplicate, now);
            }
        }
    }

    /// The peer's calls go over this link from now on, and its sessions are the ones shown.
    fn make_current(&mut self, id: LinkId, _now: Duration) {
        let Some(link) = self.links.get(&id) else { return };
        let fingerprint = link.peer;
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return };
        let old = peer.current.replace(id);
        peer.why = None;
        let host = peer.name.to_string();
        for waker in std::mem::take(&mut peer.linked) {
            waker.wake();
        }
        let before = old.and_then(|old| self.links.get(&old)).map(|old| old.sessions.clone()).unwrap_or_default();
        let after = link.sessions.clone();
        for session in before.keys().filter(|session| !after.contains_key(*session)) {
            self.remote.remove(session, fingerprint);
        }
        for session in after.keys() {
            self.remote.add(session, fingerprint);
        }
        if old.is_none() {
            return self.emit("peer_connected", &json!({"host": host, "sessionCount": after.len()}));
        }
        for session in before.keys().filter(|session| !after.contains_key(*session)) {
            self.emit("session_removed", &json!({"sessionId": session, "host": host, "isRemote": true}));
        }
        for (session, entry) in &after {
            match before.get(session) {
                None => self.emit_line(event_line("session_added", &entry.view)),
                Some(was) if was.view != entry.view => self.emit_line(event_line("session_renamed", &entry.view)),
                Some(_) => {}
            }
        }
    }

    fn remove_link(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        self.retire(id, end, now);
        if let Some(mut link) = self.links.remove(&id) {
            wake(&mut link.dropped);
        }
    }

    /// Takes a link out of use: its calls fail, and its peer goes over to another link or none.
    fn retire(&mut self, id: LinkId, end: LinkEnd, now: Duration) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (fingerprint, state) = (link.peer, link.state);
        let asked_here: Vec<_> = link.calls.drain().map(|(_, call)| call).collect();
        for call in asked_here {
            self.abandon(call, now);
            self.pending.remove(call);
        }
        let host = self.peers.get(&fingerprint).map(|peer| peer.name.to_string()).unwrap_or_default();
        let over =
            |call: &super::pending::Call| matches!(&call.destination, Destination::Link { link, .. } if *link == id);
        for call in self.pending.matching(over) {
            let words = format!("The link to {host} dropped before the answer came: {}", end.words());
            self.complete(call, Err(Failure::new(Code::PeerDisconnected, words).delivered(true)), now);
        }
        let touched: Vec<_> = self.contests.extract_if(.., |c| c.old == id || c.new == id).collect();
        let heirs: Vec<_> = touched.iter().filter(|contest| contest.old == id).map(|contest| contest.new).collect();
        let Some(peer) = self.peers.get(&fingerprint) else { return };
        let current = peer.current;
        if current.is_none() && state == State::Greeting {
            self.set_why(fingerprint, end.why(&host));
        }
        if current == Some(id) {
            match heirs.first().copied().or_else(|| self.standby(fingerprint, id)) {
                Some(heir) => self.make_current(heir, now),
                None => self.unlinked(fingerprint, id, &end),
            }
        }
        for heir in heirs {
            self.contest(fingerprint, heir, CONTEST_DEADLINE, now);
        }
    }

    /// Has a peer's current link show that it lives, or make way for `new`.
    fn contest(&mut self, peer: Fingerprint, new: LinkId, within: Duration, now: Duration) {
        let Some(old) = self.peers.get(&peer).and_then(|peer| peer.current).filter(|old| *old != new) else { return };
        let ping = self.ping(old, now);
        self.contests.push(Contest { old, new, ping, deadline: now + within });
        self.due(now + within);
    }

    fn standby(&self, peer: Fingerprint, except: LinkId) -> Option<LinkId> {
        let usable = |(id, link): &(&LinkId, &Link)| {
            link.peer == peer && **id != except && matches!(link.state, State::Live { .. })
        };
        self.links.iter().filter(usable).map(|(id, _)| *id).max()
    }

    fn unlinked(&mut self, fingerprint: Fingerprint, id: LinkId, end: &LinkEnd) {
        let sessions = self.links.get_mut(&id).map(|link| std::mem::take(&mut link.sessions)).unwrap_or_default();
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
        self.set_why(fingerprint, end.why(&host));
    }

    fn far_session(&mut self, id: LinkId, info: SessionInfo) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = self.peers.get(&link.peer) else { return };
        let known = link.sessions.contains_key(&info.session_id);
        if !known && link.sessions.len() >= MAX_SESSIONS {
            return;
        }
        let entry = Entry::new(info, peer.name.as_str(), true);
        let line = event_line(if known { "session_renamed" } else { "session_added" }, &entry.view);
        let is_current = peer.current == Some(id);
        if is_current {
            self.remote.add(&entry.info.session_id, link.peer);
        }
        link.sessions.insert(entry.info.session_id.clone(), entry);
        if is_current {
            self.emit_line(line);
        }
    }

    fn far_session_gone(&mut self, id: LinkId, session: &SessionId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = self.peers.get(&link.peer) else { return };
        if link.sessions.remove(session).is_none() || peer.current != Some(id) {
            return;
        }
        let host = peer.name.to_string();
        self.remote.remove(session, link.peer);
        self.emit("session_removed", &json!({"sessionId": session, "host": host, "isRemote": true}));
    }
}

impl LinkEnd {
    fn words(&self) -> String {
        match self {
            LinkEnd::Bye(ByeReason::Unpaired) | LinkEnd::Refused => {
                "the other side does not trust this device any more".into()
            }
            LinkEnd::Bye(ByeReason::Shutdown) => "the other daemon was stopped".into(),
            LinkEnd::Bye(ByeReason::Duplicate) | LinkEnd::Here(ByeReason::Duplicate) => {
                "another link took its place".into()
            }
            LinkEnd::Bye(ByeReason::Removed) => "the other side cut the link".into(),
            LinkEnd::Bye(ByeReason::ProtocolError | ByeReason::Other) => "the other side ended it".into(),
            LinkEnd::Silent => "nothing was heard for three heartbeats".into(),
            LinkEnd::Lost(how) => how.clone(),
            LinkEnd::Protocol(how) => format!("the other side broke the protocol: {how}"),
            LinkEnd::Here(ByeReason::Unpaired) => "it was unpaired here".into(),
            LinkEnd::Here(ByeReason::Removed) => "it was cut here".into(),
            LinkEnd::Here(ByeReason::Shutdown) => "this daemon is going down".into(),
            LinkEnd::Here(ByeReason::ProtocolError | ByeReason::Other) => "it was ended here".into(),
        }
    }

    /// Why no link is up, and what the user can do; `None` where it comes back by itself at once.
    fn why(&self, peer: &str) -> Option<Failure> {
        match self {
            LinkEnd::Bye(ByeReason::Unpaired) | LinkEnd::Refused => Some(not_trusted_by(peer)),
            LinkEnd::Bye(ByeReason::Removed) => Some(
                Failure::new(Code::PeerDisconnected, format!("{peer} cut the link and takes none for now"))
                    .hint(format!("on {peer}, add_peer takes it up again")),
            ),
            LinkEnd::Here(ByeReason::Removed) => Some(
                Failure::new(Code::PeerDisconnected, format!("the link to {peer} was cut here (remove_peer)"))
                    .hint("add_peer takes it up again"),
            ),
            LinkEnd::Bye(_) | LinkEnd::Silent | LinkEnd::Lost(_) | LinkEnd::Protocol(_) | LinkEnd::Here(_) => {
                Some(Failure::new(Code::PeerDisconnected, self.words()))
            }
        }
    }
}

/// What a user reads when a peer refuses this device's key.
pub(crate) fn not_trusted_by(peer: &str) -> Failure {
    Failure::new(Code::NotPaired, format!("{peer} does not trust this device any more"))
        .hint(format!("pair again: `pi-remote pair --ticket` on {peer}, `pi-remote pair --ticket -` here; or `pi-remote unpair {peer}`"))
}
