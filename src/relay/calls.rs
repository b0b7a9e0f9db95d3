//! Calls: from a client or a peer, to a session here or on a peer, and the outcome back.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::approvals::Matter;
use super::links::Link;
use super::pending::{Call, CallId, Destination, Origin};
use super::queue::{Lane, wake};
use super::refusals::{checked_head, disconnected, from_afar, has_line_break, not_audited, readable_head};
use super::rights::{forbidden, not_found};
use super::sessions::{Sender, SessionWork};
use super::{ClientId, LinkId, Relay};
use crate::identity::Fingerprint;
use crate::trust::{Verdict, policy};
use crate::wire::control::{self, ReplyTo};
use crate::wire::error::{Code, Failure};
use crate::wire::ids::{PeerName, SessionId};
use crate::wire::link::{LinkMessage, Outcome, Rpc, SessionInfo, WaitUntil, join, to_json};
use crate::wire::preview::Shown;
use crate::wire::session::{CommandHead, Verb, default_timeout};

/// Longest time that a caller may ask to wait.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// By how much a peer may let a call take longer, in all.
const MAX_EXTENSION: Duration = Duration::from_secs(120);

/// A session's answer and the event that was waited for, or why there is none.
type Answer = Result<(Bytes, Option<Bytes>), Failure>;

/// Whether a command is none of those that only read; what is not known here may do anything.
pub(super) fn changes_something(command_type: Option<&str>) -> bool {
    !matches!(command_type.and_then(Verb::of_command), Some(Verb::Read | Verb::Summary | Verb::Events))
}

/// The rights that a call needs; `None` is nobody's.
pub(super) type Rights = Vec<Option<Verb>>;

/// Every right that a command of this type needs, whose turn's end may be waited for.
pub(super) fn rights(command_type: Option<&str>, waits_for_turn_end: bool) -> Rights {
    let waits = waits_for_turn_end.then_some(Some(Verb::Events));
    std::iter::once(command_type.and_then(Verb::of_command)).chain(waits).collect()
}

/// What is to be asked of a session.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) command: Bytes,
    pub(super) command_type: Option<String>,
    has_message_id: bool,
    wait_until: Option<WaitUntil>,
    pub(super) timeout: Duration,
    /// Whether who asked has said how long it waits; then nothing makes that longer.
    is_timed: bool,
}

impl Question {
    fn new(command: Bytes, head: &CommandHead, wait_until: Option<WaitUntil>, timeout_ms: Option<u64>) -> Self {
        let command_type = head.command_type.clone();
        let timeout = timeout_ms.map_or_else(
            || default_timeout(command_type.as_deref().unwrap_or_default()),
            |ms| Duration::from_millis(ms).clamp(Duration::from_millis(1), MAX_TIMEOUT),
        );
        let is_timed = timeout_ms.is_some();
        Self { command, command_type, has_message_id: head.has_message_id, wait_until, timeout, is_timed }
    }

    fn is_send(&self) -> bool {
        self.command_type.as_deref() == Some("send")
    }

    /// Whether what is waited for is known, and comes: a turn ends for a `send` alone.
    fn check(&self) -> Result<(), Failure> {
        if self.wait_until == Some(WaitUntil::Unknown) {
            let message = "waitUntil is not message_processed or turn_end, and no other moment is known here";
            return Err(Failure::new(Code::InvalidRequest, message).delivered(false));
        }
        if self.waits_for_turn_end() && !self.is_send() {
            let message = "waitUntil turn_end goes with a send alone";
            return Err(Failure::new(Code::InvalidRequest, message).delivered(false));
        }
        Ok(())
    }

    fn changes_something(&self) -> bool {
        changes_something(self.command_type.as_deref())
    }

    fn waits_for_turn_end(&self) -> bool {
        self.wait_until == Some(WaitUntil::TurnEnd)
    }

    /// The right that it needs; `None` is nobody's.
    fn verb(&self) -> Option<Verb> {
        self.command_type.as_deref().and_then(Verb::of_command)
    }

    /// Every right that it needs.
    pub(super) fn rights(&self) -> Rights {
        rights(self.command_type.as_deref(), self.waits_for_turn_end())
    }
}

impl Relay {
    /// A client's `relay`. Its answer is queued at once or when the outcome is there.
    pub fn relay(&mut self, client: ClientId, reply: ReplyTo, request: control::Relay, now: Duration) {
        let origin = if request.fire_and_forget {
            Origin::Nobody { request_id: request.request_id.clone() }
        } else {
            Origin::Client { client, reply: reply.clone(), request_id: request.request_id.clone() }
        };
        let begun = self.route(&request.target, request.peer.as_deref()).and_then(|destination| {
            let head = readable_head(&request.command)?;
            let (command, wait_until) = (request.command.clone(), request.wait_until);
            let question = Question::new(command, &head, wait_until, request.timeout_ms);
            question.check()?;
            self.begin(origin, destination, question, now)
        });
        match begun {
            Err(failure) => {
                self.record_refusal_here(&request, &failure);
                self.answer(client, &reply, Err(&failure));
            }
            Ok(_) if request.fire_and_forget => {
                let data = relay_data(request.request_id.as_ref(), &[br#""queued":true"#]);
                self.answer(client, &reply, Ok(&data));
            }
            Ok(_) => {}
        }
    }

    /// Whether the peer of a link may do `verb` to a session of this machine: the one place where the
    /// policy is asked. A command type that is in no verb (`None`) is denied to everyone.
    pub(super) fn verdict(&self, link: &Link, verb: Option<Verb>, session: &SessionInfo, now: Duration) -> Verdict {
        let Some((verb, peer)) = verb.zip(self.peers.get(&link.peer)).filter(|_| !self.locked) else {
            return Verdict::Deny;
        };
        policy::verdict(&peer.grants, verb, session, &link.origin, self.date(now))
    }

    /// A peer's call to a session of this machine, and what a person would be shown of it, where that
    /// was worked out already.
    pub(super) fn rpc(&mut self, link: LinkId, rpc: Rpc, shown: Option<Shown>, now: Duration) {
        let id = rpc.id;
        if let Err(failure) = self.begin_for_peer(link, &rpc, shown, now) {
            self.record_refusal(link, &rpc, &failure);
            if !self.may_say_more(link, now) {
                return self.break_off(link, "far more calls than it may make", now);
            }
            let refusal = LinkMessage::RpcResponse { id, outcome: Outcome::Failed(failure) };
            self.push_or_drop(link, Lane::Answer(id), refusal.encode());
        }
    }

    fn begin_for_peer(&mut self, link: LinkId, rpc: &Rpc, shown: Option<Shown>, now: Duration) -> Result<(), Failure> {
        self.charge(link, now)?;
        let Some(asking) = self.links.get(&link) else { return Ok(()) };
        let entry = self.listed(asking, &rpc.target, now).ok_or_else(|| not_found(&rpc.target))?;
        if asking.calls.len() >= self.limits.link_calls || asking.call_bytes + rpc.command.len() > self.limits.outbox {
            let message =
                format!("More than {} calls or too many bytes of this peer are in flight", self.limits.link_calls);
            return Err(Failure::new(Code::Overloaded, message).delivered(false));
        }
        if rpc.command.len() > self.limits.message {
            let message = format!("The command exceeds {} bytes", self.limits.message);
            return Err(Failure::new(Code::TooLarge, message).delivered(false));
        }
        let head = checked_head(&rpc.command)?;
        let question = Question::new(rpc.command.clone(), &head, rpc.wait_until, rpc.timeout_ms);
        question.check()?;
        let refused = || forbidden(head.command_type.as_deref(), &rpc.target);
        let verb = question.verb().ok_or_else(refused)?;
        let matter = Matter { peer: asking.peer, verb, session: entry.info.session_id.clone() };
        let bytes = question.command.len();
        let verdict = self.verdict_of_call(asking, &question.rights(), &entry.info, now);
        if verdict == Verdict::Deny {
            return Err(refused());
        }
        let is_asked = self.verdict(asking, Some(verb), &entry.info, now) == Verdict::Ask;
        let ahead = if is_asked { self.approvals.standing_for(&matter, now) } else { None };
        if question.changes_something() && !self.has_room_for_change(link) {
            let message = "Too many calls of this peer are in flight or wait to be put on record";
            return Err(Failure::new(Code::Overloaded, message).delivered(false));
        }
        // What came is a slice of all that was read with it, which would stay for as long as the call waits.
        let question = Question { command: Bytes::copy_from_slice(&question.command), ..question };
        let call = if verdict == Verdict::Ask {
            self.hold(link, rpc.id, matter, question, shown, now)?
        } else {
            let destination = Destination::Session(matter.session);
            let call = self.begin(Origin::Link { link, id: rpc.id }, destination, question, now)?;
            if let Some(approval) = ahead {
                self.pending.approved_ahead(call, approval);
            }
            call
        };
        if let Some(asking) = self.links.get_mut(&link) {
            asking.calls.insert(rpc.id, call);
            asking.call_bytes += bytes;
        }
        Ok(())
    }

    /// A peer's word about a call; one that was not sent over this link, or has ended, is dropped.
    pub(super) fn rpc_answered(&mut self, link: LinkId, id: u64, outcome: Outcome, now: Duration) {
        let call = CallId(id);
        if !self.was_sent_over(link, call) {
            return self.stray_answer(link, now);
        }
        let answer = match outcome {
            Outcome::Answer { response, event } => Ok((response, event)),
            Outcome::Failed(failure) => Err(self.far_failure(link, &failure)),
        };
        self.complete(call, answer);
    }

    fn stray_answer(&mut self, id: LinkId, now: Duration) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.strays += 1;
        let (peer, count) = (link.peer, link.strays);
        if count == 1 {
            self.note(peer, "answers calls that it was not asked, or too late", now);
        }
        self.record_stray(peer, count);
        if !self.may_say_more(id, now) {
            self.break_off(id, "far more answers than calls", now);
        }
    }

    /// A peer says that a call takes longer, and why.
    pub(super) fn rpc_progress(&mut self, link: LinkId, id: u64, code: Code, extend_ms: u64, now: Duration) {
        if self.was_sent_over(link, CallId(id)) {
            let longer = Duration::from_millis(extend_ms).min(MAX_EXTENSION);
            self.pending.extend(CallId(id), longer);
            if code == Code::NeedsApproval && self.pending.waits_for_approval(CallId(id)) {
                self.tell_of_approval(CallId(id), longer, now);
            }
        }
    }

    /// A peer does not want the answer of its call any more.
    pub(super) fn rpc_cancelled(&mut self, link: LinkId, id: u64) {
        let call = self.links.get(&link).and_then(|link| link.calls.get(&id)).copied();
        if let Some(call) = call {
            self.abandon(call);
            if let Some(call) = self.forget(call) {
                self.record_unwanted(&call, Code::Interrupted, "who asked wants no answer any more");
            }
        }
    }

    /// Gives a call its one outcome.
    pub(super) fn complete(&mut self, id: CallId, answer: Answer) {
        let Some(call) = self.forget(id) else { return };
        self.record_end(&call, answer.as_ref().err());
        match call.origin {
            Origin::Client { client, reply, request_id } => match answer {
                Ok((response, event)) => {
                    let event = event.map(|event| join(&[br#","event":"#, &event])).unwrap_or_default();
                    let data = relay_data(request_id.as_ref(), &[br#""response":"#, &response, &event]);
                    drop(response);
                    self.answer(client, &reply, Ok(&data));
                }
                Err(failure) => self.answer(client, &reply, Err(&failure)),
            },
            Origin::Nobody { request_id } => {
                if let Err(failure) = answer {
                    let Failure { code, message, delivered, hint: _ } = failure;
                    let status = json!({ "status": "failed", "code": code, "error": message, "delivered": delivered });
                    let data = message_status(&call.destination, request_id.as_ref(), &status);
                    self.emit_line(control::event_line("message_status", &data));
                }
            }
            Origin::Link { link, id } => {
                let outcome = match answer {
                    Ok((response, event)) => self.answer_for(link, response, event),
                    Err(failure) => Outcome::Failed(failure),
                };
                self.push_answer(link, id, outcome);
            }
        }
    }

    /// Tells who asked, and all subscribers, that somebody on the other machine has to approve a call, and
    /// how long that is waited for.
    fn tell_of_approval(&mut self, id: CallId, hold: Duration, now: Duration) {
        let Some(call) = self.pending.get(id) else { return };
        let host = match &call.destination {
            Destination::Link { link, .. } => self.links.get(link).and_then(|link| self.peers.get(&link.peer)),
            Destination::Session(_) => None,
        };
        let host = host.map(|peer| peer.name.to_string()).unwrap_or_default();
        let (asked, request_id) = match &call.origin {
            Origin::Client { client, reply, request_id } => (reply.id.clone().map(|id| (*client, id)), request_id),
            Origin::Nobody { request_id } => (None, request_id),
            Origin::Link { .. } => return,
        };
        let seconds = hold.min(call.deadline.saturating_sub(now)).as_millis().div_ceil(1000);
        let status = json!({ "host": host, "status": "needs_approval", "expiresInSeconds": seconds as u64 });
        let data = message_status(&call.destination, request_id.as_ref(), &status);
        let told = asked.as_ref().map(|(client, _)| *client);
        self.emit_line_but(told, control::event_line("message_status", &data));
        if let Some((client, id)) = asked {
            // Without room for it the answer is still to come.
            self.push_line(client, control::request_event_line("message_status", Some(&id), &data));
        }
    }

    /// Tells whoever works on a call that its answer is not wanted.
    pub(super) fn abandon(&mut self, id: CallId) {
        let Some(call) = self.pending.get(id) else { return };
        match call.destination.clone() {
            Destination::Session(_) if self.is_held(id) => self.void(id),
            Destination::Session(_) => self.push_work(SessionWork::Drop(id)),
            Destination::Link { link, session } => {
                self.push_or_drop(link, Lane::Calls(session), LinkMessage::Cancel(id.0).encode());
            }
        }
    }

    /// In words, for messages.
    pub(super) fn target_words(&self, destination: &Destination) -> String {
        match destination {
            Destination::Session(id) => format!("session {id} on this machine"),
            Destination::Link { link, session } => match self.links.get(link).and_then(|l| self.peers.get(&l.peer)) {
                Some(peer) => format!("session {session} on {}", peer.name),
                None => format!("session {session}"),
            },
        }
    }

    /// A peer by petname or fingerprint.
    pub fn find_peer(&self, text: &str) -> Option<Fingerprint> {
        match text.parse::<Fingerprint>() {
            Ok(fingerprint) => self.peers.contains_key(&fingerprint).then_some(fingerprint),
            Err(_) => {
                self.peers.iter().find(|(_, peer)| peer.name.as_str() == text).map(|(fingerprint, _)| *fingerprint)
            }
        }
    }

    fn route(&self, target: &str, peer: Option<&str>) -> Result<Destination, Failure> {
        if let Some(text) = peer {
            let pinned = self.find_peer(text);
            if pinned.is_none() && (text == self.me.host || text == self.me.fingerprint.to_string()) {
                let entry = self.local.get(target).ok_or_else(|| not_found(target))?;
                return Ok(Destination::Session(entry.info.session_id.clone()));
            }
            let unknown = || {
                Failure::new(Code::PeerNotFound, format!("Peer {text} not found"))
                    .delivered(false)
                    .hint("`pi-remote peers` lists them")
            };
            return self.route_to(pinned.ok_or_else(unknown)?, target);
        }
        if let Some(entry) = self.local.get(target) {
            return Ok(Destination::Session(entry.info.session_id.clone()));
        }
        match self.remote.peers(target) {
            [peer] => self.route_to(*peer, target),
            [] => match self.peers.values().find(|peer| peer.last_sessions.contains(target)) {
                Some(peer) => Err(disconnected(peer, target)),
                None => Err(not_found(target)),
            },
            several => {
                let names: Vec<_> = several.iter().filter_map(|p| Some(self.peers.get(p)?.name.as_str())).collect();
                let message = format!("Session {target} is on several peers: {}", names.join(", "));
                Err(Failure::new(Code::SessionAmbiguous, message).delivered(false).hint("name the peer: PEER/SESSION"))
            }
        }
    }

    fn route_to(&self, peer: Fingerprint, target: &str) -> Result<Destination, Failure> {
        let Some(peer) = self.peers.get(&peer) else {
            return Err(Failure::new(Code::PeerNotFound, "No such peer").delivered(false));
        };
        let Some((id, link)) = peer.current.and_then(|id| Some((id, self.links.get(&id)?))) else {
            return Err(disconnected(peer, target));
        };
        match link.sessions.get(target) {
            Some(entry) => Ok(Destination::Link { link: id, session: entry.info.session_id.clone() }),
            None => {
                let message = format!("Session {target} not found on {}", peer.name);
                Err(Failure::new(Code::SessionNotFound, message).delivered(false))
            }
        }
    }

    fn begin(
        &mut self,
        origin: Origin,
        destination: Destination,
        question: Question,
        now: Duration,
    ) -> Result<CallId, Failure> {
        let bytes = question.command.len();
        let client = match &origin {
            Origin::Client { client, .. } => Some(*client),
            Origin::Nobody { .. } | Origin::Link { .. } => None,
        };
        let id = self.admit(origin, destination.clone(), &question, question.timeout, now)?;
        match destination {
            Destination::Session(session) => self.ask_session(id, session, question),
            Destination::Link { link, session } => {
                if let Err(failure) = self.may_be_sent(link, &question.command) {
                    self.pending.remove(id);
                    return Err(failure);
                }
                let rpc = LinkMessage::Rpc(Rpc {
                    id: id.0,
                    target: session.as_str().to_owned(),
                    command: question.command,
                    wait_until: question.wait_until,
                    timeout_ms: Some(question.timeout.as_millis().try_into().unwrap_or(u64::MAX)),
                });
                if !self.push_to_link(link, Lane::Calls(session), rpc.encode()) {
                    self.pending.remove(id);
                    return Err(Failure::new(Code::Overloaded, "Too much waits for this peer already").delivered(false));
                }
            }
        }
        if let Some(client) = client.and_then(|client| self.clients.get_mut(&client)) {
            client.calls.insert(id);
            client.call_bytes += bytes;
        }
        Ok(id)
    }

    /// Takes a call in, if there is room for it.
    pub(super) fn admit(
        &mut self,
        origin: Origin,
        destination: Destination,
        question: &Question,
        timeout: Duration,
        now: Duration,
    ) -> Result<CallId, Failure> {
        let bytes = question.command.len();
        if self.pending.len() >= self.limits.calls || self.pending.bytes() + bytes > self.limits.budget {
            return Err(Failure::new(Code::Overloaded, "Too many calls are in flight").delivered(false));
        }
        if question.changes_something() && !self.is_audited() {
            return Err(not_audited());
        }
        self.due(now + timeout);
        Ok(self.pending.insert(Call {
            origin,
            destination,
            command_type: question.command_type.clone(),
            waits_for_turn_end: question.waits_for_turn_end(),
            deadline: now + timeout,
            timeout,
            extensible: if question.is_timed { Duration::ZERO } else { MAX_EXTENSION },
            bytes,
            waits_for_approval: false,
            approved_ahead: None,
        }))
    }

    /// Has a session asked.
    pub(super) fn ask_session(&mut self, call: CallId, session: SessionId, question: Question) {
        let (is_send, wait_turn_end) = (question.is_send(), question.waits_for_turn_end());
        let is_control = question.verb() == Some(Verb::Control);
        let sender = self.sender(call).map(|(peer, fingerprint)| Sender {
            peer,
            fingerprint,
            lacks_message_id: is_send && !question.has_message_id,
        });
        let command = question.command;
        self.push_work(SessionWork::Call { call, session, command, is_send, is_control, wait_turn_end, sender });
    }

    /// The peer that makes a call.
    fn sender(&self, call: CallId) -> Option<(PeerName, Fingerprint)> {
        let Origin::Link { link, .. } = self.pending.get(call)?.origin else { return None };
        let fingerprint = self.links.get(&link)?.peer;
        Some((self.peers.get(&fingerprint)?.name.clone(), fingerprint))
    }

    /// Whether a peer takes such a command.
    fn may_be_sent(&self, link: LinkId, command: &[u8]) -> Result<(), Failure> {
        let limit = self.links.get(&link).map_or(0, |link| link.message_limit);
        if command.len() > limit {
            let message = format!("The command is longer than the {limit} bytes that the other machine takes");
            return Err(Failure::new(Code::TooLarge, message).delivered(false));
        }
        if has_line_break(command) {
            let message = "A command with a line break between its members cannot go to another machine";
            return Err(Failure::new(Code::InvalidRequest, message).delivered(false));
        }
        Ok(())
    }

    fn forget(&mut self, id: CallId) -> Option<Call> {
        let call = self.pending.remove(id)?;
        match &call.origin {
            Origin::Client { client, .. } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.calls.remove(&id);
                    client.call_bytes -= call.bytes;
                    wake(&mut client.reader);
                }
            }
            Origin::Link { link, id } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.calls.remove(id);
                    link.call_bytes -= call.bytes;
                }
            }
            Origin::Nobody { .. } => {}
        }
        Some(call)
    }

    /// An answer as a peer takes it.
    fn answer_for(&self, link: LinkId, response: Bytes, event: Option<Bytes>) -> Outcome {
        let limit = self.links.get(&link).map_or(0, |link| link.message_limit);
        let refuse = |code, message: String| Outcome::Failed(Failure::new(code, message).delivered(true));
        if response.len() + event.as_ref().map_or(0, Bytes::len) > limit {
            let message = format!("The answer is longer than the {limit} bytes that the asking machine takes");
            return refuse(Code::TooLarge, message);
        }
        if has_line_break(&response) || event.as_deref().is_some_and(has_line_break) {
            return refuse(Code::SessionRefused, "The session's answer has a line break between its members".into());
        }
        Outcome::Answer { response, event }
    }

    fn push_answer(&mut self, link: LinkId, id: u64, outcome: Outcome) {
        let message = LinkMessage::RpcResponse { id, outcome }.encode();
        if !self.push_to_link(link, Lane::Answer(id), message) {
            let full =
                Failure::new(Code::Overloaded, "The answer has no room: earlier ones wait to be read").delivered(true);
            let message = LinkMessage::RpcResponse { id, outcome: Outcome::Failed(full) }.encode();
            self.push_or_drop(link, Lane::Answer(id), message);
        }
    }

    fn was_sent_over(&self, over: LinkId, call: CallId) -> bool {
        match self.pending.get(call).map(|call| &call.destination) {
            Some(Destination::Link { link, .. }) => *link == over,
            Some(Destination::Session(_)) | None => false,
        }
    }

    fn far_failure(&self, link: LinkId, failure: &Failure) -> Failure {
        let peer = self.links.get(&link).and_then(|link| self.peers.get(&link.peer));
        let name = peer.map_or("the peer", |peer| peer.name.as_str());
        from_afar(name, failure)
    }
}

fn relay_data(request_id: Option<&Bytes>, members: &[&[u8]]) -> Bytes {
    let mut parts: Vec<&[u8]> = vec![b"{"];
    if let Some(id) = request_id {
        parts.extend([br#""requestId":"#.as_slice(), id, b","]);
    }
    parts.extend(members);
    parts.push(b"}");
    join(&parts)
}

/// Data of the event `message_status`; the request's id stands in it as it came.
fn message_status(destination: &Destination, request_id: Option<&Bytes>, status: &Value) -> Bytes {
    let (session, rest) = (to_json(destination.session()), to_json(status));
    let request_id = request_id.map_or(b"null".as_slice(), |id| id);
    let rest = rest.get(1..).unwrap_or_default();
    join(&[br#"{"requestId":"#, request_id, br#","sessionId":"#, &session, b",", rest])
}
