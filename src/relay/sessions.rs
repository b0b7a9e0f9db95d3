//! The machine's own sessions as the relay sees them, and what it wants of them.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::pending::{CallId, Destination};
use super::queue::wake;
use super::roster::{self, Entry};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::control::event_line;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::{PeerName, SessionId};
use crate::wire::link::SessionInfo;

/// The peer that a command comes from: as its link has proven, whatever the command says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Its petname.
    pub peer: PeerName,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Whether the command is one that needs a `messageId` and has none.
    pub lacks_message_id: bool,
}

/// What the session wing is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionWork {
    /// Ask a session.
    Call {
        /// Names the call in [`Relay::session_answered`].
        call: CallId,
        /// Which session.
        session: SessionId,
        /// The command, byte for byte.
        command: Bytes,
        /// Whether it is a `send`, whose order counts.
        is_send: bool,
        /// Whether it controls what the session does, and must get through.
        is_control: bool,
        /// Whether the end of the turn is waited for.
        wait_turn_end: bool,
        /// The peer that asks; `None` for a client of this machine.
        sender: Option<Sender>,
    },
    /// Nobody wants this call's answer any more: let go of its connection.
    Drop(CallId),
}

impl Relay {
    /// A session of this machine appeared.
    pub fn session_added(&mut self, info: SessionInfo, now: Duration) {
        self.note_session_here("session_added", info, now);
    }

    /// A session of this machine has another name or other aliases.
    pub fn session_renamed(&mut self, info: SessionInfo, now: Duration) {
        if !self.local.contains_key(&info.session_id) {
            return self.session_added(info, now);
        }
        self.note_session_here("session_renamed", info, now);
        self.review_held(now);
    }

    fn note_session_here(&mut self, event: &str, info: SessionInfo, now: Duration) {
        self.end_grants(now);
        let entry = Entry::new(info.clone(), &self.me.host, false);
        self.emit_line(event_line(event, &entry.view));
        self.local.insert(info.session_id.clone(), entry);
        self.tell_of(&info, now);
    }

    /// A session of this machine is gone; what it was asked fails, and its connections are let go.
    pub fn session_removed(&mut self, id: &SessionId, now: Duration) {
        self.end_grants(now);
        if self.local.remove(id).is_none() {
            return;
        }
        self.emit("session_removed", &json!({"sessionId": id, "host": self.me.host, "isRemote": false}));
        self.tell_of_end(id);
        self.consent_ends_with(id);
        let asked = Destination::Session(id.clone());
        for call in self.pending.matching(|call| call.destination == asked) {
            self.abandon(call);
            let gone =
                Failure::new(Code::SessionRefused, format!("Session {id} ended before it answered")).delivered(true);
            self.complete(call, Err(gone));
        }
    }

    /// How many sessions this machine has.
    pub fn local_session_count(&self) -> usize {
        self.local.len()
    }

    /// Data of `list_sessions`: local ones first, then those of connected peers by petname.
    pub fn list_sessions(&self) -> Vec<u8> {
        let mut linked: Vec<_> = self.peers.values().filter_map(|p| Some((&p.name, p.current?))).collect();
        linked.sort_unstable();
        let remote = linked.iter().filter_map(|(_, link)| self.links.get(link)).map(|link| &link.sessions);
        roster::list(&self.local, remote)
    }

    /// The next thing for the session wing to do.
    pub fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<SessionWork> {
        match self.work.pop_front() {
            Some(work) => Poll::Ready(work),
            None => {
                self.work_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// A session has answered a call, or could not be asked.
    pub fn session_answered(&mut self, call: CallId, answer: Result<(Bytes, Option<Bytes>), Failure>, now: Duration) {
        self.end_grants(now);
        let Some(Destination::Session(session)) = self.pending.get(call).map(|call| &call.destination) else { return };
        let size = |(response, event): &(Bytes, Option<Bytes>)| response.len() + event.as_ref().map_or(0, Bytes::len);
        let answer = match answer {
            // Each fits a line of its own; together they must fit one message.
            Ok(answer) if size(&answer) > self.limits.message => {
                let message = format!("The answer and event of session {session} exceed {} bytes", self.limits.message);
                Err(Failure::new(Code::TooLarge, message).delivered(true))
            }
            answer => answer,
        };
        self.complete(call, answer);
    }

    pub(super) fn push_work(&mut self, work: SessionWork) {
        self.work.push_back(work);
        wake(&mut self.work_waker);
    }

    /// The sessions that the peer of a link may list.
    pub(super) fn visible_sessions(&self, link: LinkId, now: Duration) -> Vec<SessionInfo> {
        let Some(link) = self.links.get(&link) else { return Vec::new() };
        let visible = |entry: &&Entry| self.may_list(link, &entry.info, now);
        self.local.values().filter(visible).map(|entry| entry.info.clone()).collect()
    }
}
