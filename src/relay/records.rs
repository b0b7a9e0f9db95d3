//! What goes on record of calls and links: who, what, on which session, and how it ended; never what was
//! said.

use serde_json::json;

use super::calls::changes_something;
use super::ends::LinkEnd;
use super::pending::{Call, Destination, Origin};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::wire::audit::{Action, Direction, Entry};
use crate::wire::control;
use crate::wire::error::{Code, Failure};
use crate::wire::escape::escape;
use crate::wire::ids::SessionId;
use crate::wire::link::Rpc;
use crate::wire::session::{CommandHead, Verb};

/// Longest command type that is kept, in characters.
const MAX_TYPE: usize = 64;
/// Longest text of a failure that is kept, in characters.
pub(super) const MAX_WORDS: usize = 200;
/// Longest command of a refused call that is looked into for its type, in bytes.
const MAX_READ: usize = 64 * 1024;

/// The `type` of a refused command, where it has one that can be read.
fn command_type_of(command: &[u8]) -> Option<String> {
    let json = std::str::from_utf8(command).ok().filter(|json| json.len() <= MAX_READ)?;
    CommandHead::read(json).ok()?.command_type
}

pub(super) fn shown(text: &str, characters: usize) -> String {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(end, _)| end);
    escape(text.get(..end).unwrap_or_default()).into_owned()
}

/// A call by the right that it needs, or by its command where that is in none.
fn verb(command_type: Option<&str>) -> Option<String> {
    let command_type = command_type?;
    let verb = Verb::of_command(command_type);
    Some(verb.map_or_else(|| shown(command_type, MAX_TYPE), |verb| verb.as_str().to_owned()))
}

/// A failure as it is kept: with the words that this device found for it, not with those of another.
fn failed(failure: &Failure, direction: Option<Direction>) -> (Code, String) {
    match direction {
        Some(Direction::Local | Direction::In) => (failure.code, shown(&failure.message, MAX_WORDS)),
        Some(Direction::Out) | None => (failure.code, failure.code.as_str().to_owned()),
    }
}

impl Relay {
    /// A call has ended.
    pub(super) fn record_end(&mut self, call: &Call, failure: Option<&Failure>) {
        let (direction, peer) = self.way_of(call);
        let entry = Entry {
            direction: Some(direction),
            verb: verb(call.command_type.as_deref()),
            session: Some(call.destination.session().as_str().to_owned()),
            failed: failure.map(|failure| failed(failure, Some(direction))),
            data: call.approved_ahead.as_ref().map(|approval| json!({ "standing": approval })),
            ..self.entry(Action::Relay, peer)
        };
        if direction == Direction::In && changes_something(call.command_type.as_deref()) {
            self.record_change(entry);
        } else {
            self.record(entry);
        }
    }

    /// A call has ended because nobody wants its answer any more.
    pub(super) fn record_unwanted(&mut self, call: &Call, code: Code, why: &str) {
        self.record_end(call, Some(&Failure::new(code, why)));
    }

    /// A client's call was refused before it began.
    pub(super) fn record_refusal_here(&mut self, request: &control::Relay, failure: &Failure) {
        let is_here = self.local.contains_key(request.target.as_str());
        let named = request.peer.as_deref().map(|peer| self.find_peer(peer));
        let peer = named.unwrap_or_else(|| self.remote.peers(&request.target).first().copied().filter(|_| !is_here));
        let direction = match (&request.peer, peer, is_here) {
            (Some(_), _, _) | (None, Some(_), _) => Some(Direction::Out),
            (None, None, true) => Some(Direction::Local),
            (None, None, false) => None,
        };
        let entry = Entry {
            direction,
            verb: verb(command_type_of(&request.command).as_deref()),
            session: Some(shown(&request.target, SessionId::MAX)),
            failed: Some((failure.code, shown(&failure.message, MAX_WORDS))),
            ..self.entry(Action::Relay, peer)
        };
        self.record(entry);
    }

    /// A peer's call was refused before it began. Of a row of calls beyond what it may make in a minute the
    /// first is kept at once, and the number of the others when the row ends.
    pub(super) fn record_refusal(&mut self, link: LinkId, rpc: &Rpc, failure: &Failure) {
        let Some(fingerprint) = self.links.get(&link).map(|link| link.peer) else { return };
        if failure.code == Code::RateLimited
            && let Some(peer) = self.peers.get_mut(&fingerprint)
        {
            peer.too_many += 1;
            if peer.too_many > 1 {
                return;
            }
        }
        if !self.has_room_for(fingerprint) {
            return;
        }
        let entry = Entry {
            direction: Some(Direction::In),
            verb: verb(command_type_of(&rpc.command).as_deref()),
            session: Some(shown(&rpc.target, SessionId::MAX)),
            failed: Some(failed(failure, Some(Direction::In))),
            ..self.entry(Action::Relay, Some(fingerprint))
        };
        self.record(entry);
    }

    /// A peer has made a request of the control socket over its link. It is told nothing.
    pub(super) fn record_request(&mut self, link: LinkId, kind: &str) {
        let Some(fingerprint) = self.links.get(&link).map(|link| link.peer) else { return };
        let entry = Entry {
            direction: Some(Direction::In),
            verb: Some(kind.to_owned()),
            failed: Some((Code::Forbidden, "no peer makes a request of the control socket".to_owned())),
            ..self.entry(Action::Relay, Some(fingerprint))
        };
        self.record(entry);
    }

    /// A peer's row of calls beyond what it may make in a minute has ended.
    pub(super) fn record_too_many(&mut self, fingerprint: Fingerprint) {
        let Some(peer) = self.peers.get_mut(&fingerprint) else { return };
        let calls = std::mem::take(&mut peer.too_many).saturating_sub(1);
        if calls > 0 {
            let entry = Entry {
                direction: Some(Direction::In),
                failed: Some((Code::RateLimited, format!("{calls} more calls beyond those of a minute"))),
                data: Some(json!({ "calls": calls })),
                ..self.entry(Action::Relay, Some(fingerprint))
            };
            self.record(entry);
        }
    }

    /// A peer has answered what it was not asked, or too late: the 1st, 10th, 100th time are kept.
    pub(super) fn record_stray(&mut self, fingerprint: Fingerprint, count: u64) {
        if count.checked_ilog10().is_some_and(|power| 10u64.pow(power) == count) {
            let entry =
                Entry { data: Some(json!({ "count": count })), ..self.entry(Action::StrayAnswer, Some(fingerprint)) };
            self.record(entry);
        }
    }

    pub(super) fn record_link_up(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_up = true;
        let (peer, data) = (link.peer, json!({ "address": link.address().to_string(), "dialled": link.dialled }));
        let entry = Entry { data: Some(data), ..self.entry(Action::LinkUp, Some(peer)) };
        self.record(entry);
    }

    /// A link that was up is used no more.
    pub(super) fn record_link_down(&mut self, id: LinkId, end: &LinkEnd) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !std::mem::take(&mut link.is_up) {
            return;
        }
        let mut data = json!({ "address": link.address().to_string(), "why": shown(&end.words(), MAX_WORDS) });
        if let Some(data) = data.as_object_mut().filter(|_| link.strays > 0) {
            data.insert("strayAnswers".into(), link.strays.into());
        }
        let peer = link.peer;
        let entry = Entry { data: Some(data), ..self.entry(Action::LinkDown, Some(peer)) };
        self.record_too_many(peer);
        self.record(entry);
    }

    pub(super) fn entry(&self, action: Action, peer: Option<Fingerprint>) -> Entry {
        let name = peer.and_then(|peer| Some(self.peers.get(&peer)?.name.to_string()));
        Entry { peer: name, fingerprint: peer.map(|peer| peer.to_string()), ..Entry::new(action) }
    }

    fn way_of(&self, call: &Call) -> (Direction, Option<Fingerprint>) {
        let peer = |link| self.links.get(link).map(|link| link.peer);
        match (&call.origin, &call.destination) {
            (Origin::Link { link, .. }, _) => (Direction::In, peer(link)),
            (Origin::Client { .. } | Origin::Nobody { .. }, Destination::Link { link, .. }) => {
                (Direction::Out, peer(link))
            }
            (Origin::Client { .. } | Origin::Nobody { .. }, Destination::Session(_)) => (Direction::Local, None),
        }
    }
}
