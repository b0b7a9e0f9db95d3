//! Calls in flight and their deadlines: each has exactly one outcome.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::{ClientId, LinkId};
use crate::wire::control::ReplyTo;
use crate::wire::ids::SessionId;

/// Names a call while it is in flight; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A client of the control socket, who waits for the answer.
    Client {
        /// Which.
        client: ClientId,
        /// What is echoed in the answer.
        reply: ReplyTo,
        /// The client's own id of the call, as raw JSON.
        request_id: Option<Bytes>,
    },
    /// A client that has its `queued` already.
    Nobody {
        /// The client's own id of the call, as raw JSON.
        request_id: Option<Bytes>,
    },
    /// A peer.
    Link {
        /// The link that the call came over; its answer goes nowhere else.
        link: LinkId,
        /// The peer's id of the call.
        id: u64,
    },
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A session of this machine.
    Session(SessionId),
    /// A peer's session.
    Link {
        /// The link that it was sent over; an answer from elsewhere is none.
        link: LinkId,
        /// The session.
        session: SessionId,
    },
}

/// A call in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who asked.
    pub origin: Origin,
    /// Who is asked.
    pub destination: Destination,
    /// The command's `type`, where that is a string.
    pub command_type: Option<String>,
    /// Whether the end of the turn is waited for.
    pub waits_for_turn_end: bool,
    /// When it has failed if there is no answer.
    pub deadline: Duration,
    /// How long was waited then, for the message.
    pub timeout: Duration,
    /// By how much the deadline may still be moved.
    pub extensible: Duration,
    /// Size of the command, held until the outcome.
    pub bytes: usize,
    /// Who asked was told that somebody has to approve it.
    pub waits_for_approval: bool,
    /// The approval for a while by which it needed no other, for the record.
    pub approved_ahead: Option<String>,
}

impl Destination {
    /// The session that is asked.
    pub fn session(&self) -> &SessionId {
        match self {
            Destination::Session(session) | Destination::Link { session, .. } => session,
        }
    }
}

/// All calls in flight.
#[derive(Debug, Default)]
pub struct Pending {
    calls: HashMap<CallId, Call>,
    deadlines: BTreeSet<(Duration, CallId)>,
    last: u64,
    bytes: usize,
}

impl Pending {
    /// Takes a call in and names it.
    pub fn insert(&mut self, call: Call) -> CallId {
        self.last += 1;
        self.bytes += call.bytes;
        let id = CallId(self.last);
        self.deadlines.insert((call.deadline, id));
        self.calls.insert(id, call);
        id
    }

    /// Ends a call; `None` if it has ended before.
    pub fn remove(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.deadlines.remove(&(call.deadline, id));
        self.bytes -= call.bytes;
        Some(call)
    }

    /// A call that is still in flight.
    pub fn get(&self, id: CallId) -> Option<&Call> {
        self.calls.get(&id)
    }

    /// Moves a call's deadline, as far as it may be moved.
    pub fn extend(&mut self, id: CallId, by: Duration) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let by = by.min(call.extensible);
        call.extensible -= by;
        self.deadlines.remove(&(call.deadline, id));
        call.deadline += by;
        call.timeout += by;
        self.deadlines.insert((call.deadline, id));
    }

    /// Notes that who asked knows of the approval that a call waits for; whether that is new.
    pub fn waits_for_approval(&mut self, id: CallId) -> bool {
        self.calls.get_mut(&id).is_some_and(|call| !std::mem::replace(&mut call.waits_for_approval, true))
    }

    /// Notes by which approval for a while a call was let through.
    pub fn approved_ahead(&mut self, id: CallId, approval: String) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.approved_ahead = Some(approval);
        }
    }

    /// Lets a call's time begin anew.
    pub fn restart(&mut self, id: CallId, now: Duration, timeout: Duration) {
        if let Some(call) = self.calls.get_mut(&id) {
            self.deadlines.remove(&(call.deadline, id));
            (call.deadline, call.timeout) = (now + timeout, timeout);
            self.deadlines.insert((call.deadline, id));
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next call whose deadline has passed.
    pub fn expired(&self, now: Duration) -> Option<CallId> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// Calls in flight for which `wanted` holds.
    pub fn matching(&self, wanted: impl Fn(&Call) -> bool) -> Vec<CallId> {
        let mut ids: Vec<_> = self.calls.iter().filter(|(_, call)| wanted(call)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// How many calls are in flight.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Size of the commands of all calls in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}
