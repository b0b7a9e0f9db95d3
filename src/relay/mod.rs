//! PURE: routing. Who is there, what is in flight, what waits for whom.
//!
//! One value behind one lock. Every method takes what came in and `now`, and puts what follows into
//! bounded outboxes while the lock is held, so that what was decided first leaves first. The tasks
//! that drain the outboxes are woken, never waited for.

mod approvals;
mod audit;
mod calls;
mod checks;
mod clients;
mod consent;
mod ends;
mod far;
mod links;
mod notes;
mod origin;
mod peers;
pub mod pending;
pub mod queue;
mod rate;
mod records;
mod refusals;
mod rights;
mod rivals;
pub mod roster;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

pub use checks::{Asked, CheckWork, Measuring};
pub use ends::LinkEnd;
pub use links::{LinkFacts, LinkView};
pub use peers::{Dialling, PeerFacts, Standing};
pub use sessions::{Sender, SessionWork};

use crate::identity::Fingerprint;
use crate::trust::Grant;
use crate::wire::control::event_line;
use crate::wire::ids::{PeerName, SessionId};
use crate::wire::link::{Allows, Hello};
use crate::wire::{DEFAULT_APPROVAL, Failure};
use approvals::Approvals;
use audit::Trail;
use clients::Client;
use links::Link;
use notes::Lines;
use pending::{CallId, Pending};
use queue::Budget;
use rate::Bucket;
use rivals::Contest;
use roster::{RemoteIndex, Sessions};

/// Names a client of the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// Names a link, from its authentication to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(u64);

/// How much of everything there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest message, in bytes.
    pub message: usize,
    /// Bytes that may wait for one destination.
    pub outbox: usize,
    /// Bytes that may wait in all.
    pub budget: usize,
    /// Calls that one client may have in flight before it is not read from.
    pub client_calls: usize,
    /// Calls that one peer may have in flight here.
    pub link_calls: usize,
    /// Calls in flight in all.
    pub calls: usize,
    /// Events that may wait for one subscriber before it is told `lagged`.
    pub events: usize,
    /// How long a peer's call is held for a person to decide.
    pub hold: Duration,
}

impl Limits {
    /// Limits around messages of at most `message` bytes.
    pub fn for_messages_of(message: usize) -> Self {
        Self {
            message,
            outbox: message.saturating_mul(4),
            budget: message.saturating_mul(32),
            client_calls: 256,
            link_calls: 1024,
            calls: 16_384,
            events: 1024,
            hold: DEFAULT_APPROVAL,
        }
    }
}

/// What this device is to others.
#[derive(Debug, Clone)]
pub struct Me {
    /// This device.
    pub fingerprint: Fingerprint,
    /// The host name that clients see on local sessions.
    pub host: String,
    /// What each link's hello says, but for its sessions.
    pub hello: Hello,
}

/// A pinned peer as the relay knows it.
#[derive(Debug)]
struct Peer {
    name: PeerName,
    grants: Vec<Grant>,
    /// When the first of them ends.
    ends: Option<SystemTime>,
    /// Whether one of them has a condition of the tailnet.
    asks_tailnet: bool,
    calls_per_minute: Option<u32>,
    /// The calls that it has made lately, over whichever link.
    calls: Bucket,
    /// Calls beyond that, in a row.
    too_many: u64,
    /// Its messages that cost it nothing, as they come over whichever link.
    messages: Bucket,
    /// Lines about it in the log.
    lines: Lines,
    removed: bool,
    current: Option<LinkId>,
    why: Option<Failure>,
    /// What it had when its last link ended, so that a call to one of them is told why it fails.
    last_sessions: BTreeSet<SessionId>,
    version: Option<String>,
    may_there: Allows,
    /// Its `check` that waits, the newest alone.
    check: Option<CheckWork>,
    /// One of its checks is being made, or was just now.
    checking: bool,
    unlinked: Option<Waker>,
    linked: Vec<Waker>,
}

/// The router.
#[derive(Debug)]
pub struct Relay {
    me: Me,
    limits: Limits,
    budget: Budget,
    local: Sessions,
    peers: BTreeMap<Fingerprint, Peer>,
    remote: RemoteIndex,
    links: HashMap<LinkId, Link>,
    contests: Vec<Contest>,
    clients: HashMap<ClientId, Client>,
    subscribers: HashSet<ClientId>,
    pending: Pending,
    work: VecDeque<SessionWork>,
    work_waker: Option<Waker>,
    check_waker: Option<Waker>,
    timer_waker: Option<Waker>,
    tailnet_waker: Option<Waker>,
    armed: Option<Duration>,
    due_earlier: bool,
    last_id: u64,
    notes: Vec<String>,
    /// The date at a moment of the clock, as it was last told.
    dated: (Duration, SystemTime),
    /// When the next grant ends of a peer that has a link.
    next_end: Option<Duration>,
    /// Nothing is taken from any peer.
    locked: bool,
    audit: Trail,
    approvals: Approvals,
}

/// The router as the wings share it.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Relay>>);

impl Shared {
    /// Shares a router.
    pub fn new(relay: Relay) -> Self {
        Self(Arc::new(Mutex::new(relay)))
    }

    /// The router, for one unit of work.
    pub fn lock(&self) -> MutexGuard<'_, Relay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// A router with no sessions, peers or clients.
    pub fn new(me: Me, limits: Limits) -> Self {
        Self {
            approvals: Approvals::new(me.hello.instance),
            me,
            limits,
            budget: Budget::new(limits.budget),
            local: Sessions::new(),
            peers: BTreeMap::new(),
            remote: RemoteIndex::default(),
            links: HashMap::new(),
            contests: Vec::new(),
            clients: HashMap::new(),
            subscribers: HashSet::new(),
            pending: Pending::default(),
            work: VecDeque::new(),
            work_waker: None,
            check_waker: None,
            timer_waker: None,
            tailnet_waker: None,
            armed: None,
            due_earlier: false,
            last_id: 0,
            notes: Vec::new(),
            dated: (Duration::ZERO, SystemTime::UNIX_EPOCH),
            next_end: None,
            locked: false,
            audit: Trail::default(),
        }
    }

    /// How much of everything there may be.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What this device suggests that others call it, and calls itself.
    pub fn own_name(&self) -> &str {
        &self.me.host
    }

    /// Gives this device another name.
    pub fn set_own_name(&mut self, name: &PeerName) {
        self.me.host = name.to_string();
        self.me.hello.name = name.to_string();
        let mut lines = Vec::new();
        for entry in self.local.values_mut() {
            *entry = roster::Entry::new(entry.info.clone(), name.as_str(), false);
            lines.push(event_line("session_renamed", &entry.view));
        }
        lines.into_iter().for_each(|line| self.emit_line(line));
    }

    /// Changes what new links are told of this device.
    pub fn set_hello(&mut self, change: impl FnOnce(&mut Hello)) {
        change(&mut self.me.hello);
    }

    /// Does what is due and says when it wants to be called again.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        self.end_grants(now);
        while let Some(call) = self.pending.expired(now) {
            self.call_timed_out(call);
        }
        self.tick_links(now);
        self.tick_tailnet(now);
        self.tick_consent(now);
        self.tick_audit(now);
        let links = [self.next_link_deadline(), self.next_end, self.next_tailnet_deadline(now)];
        let others = [self.pending.next_deadline(), self.approvals.next_end(), self.next_of_audit()];
        let next = links.into_iter().chain(others);
        let next = next.flatten().min();
        self.armed = next;
        self.due_earlier = false;
        next
    }

    /// Ready once something is due earlier than [`Relay::tick`] last said.
    pub fn poll_due_earlier(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.due_earlier) {
            return Poll::Ready(());
        }
        self.timer_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Sees to it that the timer knows of something due at `at`.
    fn due(&mut self, at: Duration) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            self.due_earlier = true;
            queue::wake(&mut self.timer_waker);
        }
    }

    fn mint(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn call_timed_out(&mut self, id: CallId) {
        if self.is_held(id) {
            return self.nobody_approved(id);
        }
        let Some(call) = self.pending.get(id) else { return };
        let failure = refusals::timed_out(call, &self.target_words(&call.destination));
        self.abandon(id);
        self.complete(id, Err(failure));
    }
}

#[cfg(test)]
mod tests;
