//! Calls that a person decides about: held until then, with exactly the bytes that came.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::approvals::{Held, Matter, Stands};
use super::calls::Question;
use super::links::{Link, State};
use super::pending::{CallId, Destination, Origin};
use super::queue::Lane;
use super::refusals::not_audited;
use super::rights::{forbidden, not_found};
use super::{LinkId, Relay};
use crate::identity::Fingerprint;
use crate::trust::Verdict;
use crate::wire::audit::{Action, Caller, DENIED_HERE, Direction, Entry, NOBODY_APPROVED};
use crate::wire::dates::rfc3339;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::SessionId;
use crate::wire::link::{LinkMessage, Rpc, SessionInfo};
use crate::wire::preview::Shown;
use crate::wire::rights::{ApprovalList, ApprovalView, Approve, Decided, Decision, StandingApproval};
use crate::wire::session::Verb;

/// Longest time for which calls may be approved ahead.
const MAX_STANDING: Duration = Duration::from_secs(24 * 60 * 60);

impl Relay {
    /// The policy's answer to a call that needs all these rights, and what was approved for a while.
    pub(super) fn verdict_of_call(
        &self,
        link: &Link,
        rights: &[Option<Verb>],
        session: &SessionInfo,
        now: Duration,
    ) -> Verdict {
        let is_free = |verb| {
            let matter = Matter { peer: link.peer, verb, session: session.session_id.clone() };
            self.approvals.stands(&matter, now)
        };
        let verdict = |right: &Option<Verb>| {
            let verdict = self.verdict(link, *right, session, now);
            if verdict == Verdict::Ask && right.is_some_and(is_free) { Verdict::Allow } else { verdict }
        };
        rights.iter().map(verdict).max().unwrap_or(Verdict::Deny)
    }

    /// Whether a call that comes over a link may have to wait for a person, as far as that can be told
    /// without looking into it: what a person is shown of it is worked out for no call that is refused
    /// for its number or its session.
    pub fn may_ask_about(&self, id: LinkId, rpc: &Rpc, now: Duration) -> bool {
        let Some(link) = self.links.get(&id).filter(|link| matches!(link.state, State::Live { .. })) else {
            return false;
        };
        if !self.has_call_left(link.peer, now) || rpc.command.len() > self.limits.message {
            return false;
        }
        let asks = |info| Verb::ALL.into_iter().any(|verb| self.verdict(link, Some(verb), info, now) == Verdict::Ask);
        let is_asked = self.listed(link, &rpc.target, now).is_some_and(|entry| asks(&entry.info));
        is_asked && !self.approvals.is_full_for(link.peer)
    }

    /// Holds a peer's call until somebody decides; its caller and all subscribers are told.
    pub(super) fn hold(
        &mut self,
        link: LinkId,
        id: u64,
        matter: Matter,
        question: Question,
        shown: Option<Shown>,
        now: Duration,
    ) -> Result<CallId, Failure> {
        if self.approvals.is_full_for(matter.peer) {
            // In the same words whoever's they are, since a peer is to hear of no other.
            let message = "too many calls wait for approval already";
            return Err(Failure::new(Code::Overloaded, message).delivered(false));
        }
        let wait = self.limits.hold;
        let destination = Destination::Session(matter.session.clone());
        let call = self.admit(Origin::Link { link, id }, destination, &question, wait, now)?;
        let shown = shown.unwrap_or_else(|| Shown::of(&question.command));
        let number = self.approvals.hold(Held { call, matter, question, shown, since: now, until: now + wait });
        let extend_ms = wait.as_millis().try_into().unwrap_or(u64::MAX);
        let progress = LinkMessage::RpcProgress { id, code: Code::NeedsApproval, extend_ms };
        self.push_or_drop(link, Lane::Answer(id), progress.encode());
        if let Some((_, held)) = self.approvals.find(&self.approvals.held_id(number)) {
            let (view, entry) = (self.view(number, held, now), self.held_entry(Action::Hold, number, held));
            self.emit("approval_requested", &view);
            self.record(entry);
        }
        Ok(call)
    }

    /// Lets a held call go on, with the time that its caller gave it. The policy is asked once more.
    ///
    /// # Errors
    /// `not_found`; `verification_failed` when the hash is of another call; `invalid_request`,
    /// `overloaded`, `audit_failed`, and it is held on; `forbidden` when its peer may not make it any
    /// more, and it is refused.
    pub fn approve(&mut self, request: &Approve, by: Option<Caller>, now: Duration) -> Result<Decided, Failure> {
        let (number, held) = self.approvals.find(&request.id).ok_or_else(|| self.unknown(&request.id))?;
        if held.until <= now {
            // The timer may be late, after a suspend say, and who asked has given up.
            self.nobody_approved(held.call);
            return Err(self.unknown(&request.id));
        }
        if request.hash != held.shown.hash {
            let message = format!("{} is not the call whose sha256 was given", request.id);
            return Err(Failure::new(Code::VerificationFailed, message)
                .hint(format!("`pi-remote approvals {}` shows all of it, and its sha256", request.id)));
        }
        let length = request.for_seconds.map(length).transpose()?;
        if length.is_some() && !self.approvals.can_stand(&held.matter) {
            return Err(Failure::new(Code::Overloaded, "Too much is approved for a while already")
                .hint("`pi-remote approvals` lists it, `pi-remote deny ID` ends it"));
        }
        if !self.is_audited() {
            return Err(not_audited());
        }
        let mut entry = self.held_entry(Action::Approve, number, held);
        if let Some(failure) = self.refused_now(held, now) {
            let Matter { peer, verb, session } = &held.matter;
            let message =
                format!("{} may not {verb} on session {session} any more; it was refused", self.petname(*peer));
            self.refuse(number, Decision::Void, failure, by);
            return Err(Failure::new(Code::Forbidden, message));
        }
        let until = length.map(|length| rfc3339(self.date(now) + length));
        if let (Some(until), Some(data)) = (&until, entry.data.as_mut().and_then(|data| data.as_object_mut())) {
            data.insert("until".into(), until.as_str().into());
        }
        self.record(Entry { caller: by, ..entry });
        let (held, decided) =
            self.release(number, Decision::Approved, until).ok_or_else(|| self.unknown(&request.id))?;
        let session = held.matter.session.clone();
        if let Some(length) = length {
            self.approvals.stand(held.matter, now + length);
            self.due(now + length);
        }
        self.pending.restart(held.call, now, held.question.timeout);
        self.due(now + held.question.timeout);
        self.ask_session(held.call, session, held.question);
        Ok(decided)
    }

    /// Refuses a held call, or ends what was approved for a while.
    ///
    /// # Errors
    /// `not_found`.
    pub fn deny(&mut self, id: &str, by: Option<Caller>) -> Result<Decided, Failure> {
        if let Some(number) = self.approvals.find_standing(id) {
            let ended = self.end_standing(|standing, _| standing == number);
            let (decided, matter) = ended.into_iter().next().ok_or_else(|| self.unknown(id))?;
            self.record(Entry { caller: by, ..self.entry_of(Action::Deny, &matter, json!({ "approval": id })) });
            return Ok(decided);
        }
        let (number, _) = self.approvals.find(id).ok_or_else(|| self.unknown(id))?;
        let failure = Failure::new(Code::Forbidden, DENIED_HERE).delivered(false);
        self.refuse(number, Decision::Denied, failure, by).ok_or_else(|| self.unknown(id))
    }

    /// What waits and what was approved for a while: all, or one with its whole command.
    ///
    /// # Errors
    /// `not_found`.
    pub fn approvals(&self, id: Option<&str>, now: Duration) -> Result<ApprovalList, Failure> {
        let standing = |(number, stands): (u64, &Stands)| self.standing_view(number, stands, now);
        let Some(id) = id else {
            let approvals = self.approvals.held().map(|(number, held)| self.view(number, held, now)).collect();
            return Ok(ApprovalList { approvals, standing: self.approvals.standing().map(standing).collect() });
        };
        if let Some((number, held)) = self.approvals.find(id) {
            let approvals = vec![self.view(number, held, now)];
            return Ok(ApprovalList { approvals, standing: Vec::new() });
        }
        let wanted = self.approvals.find_standing(id).ok_or_else(|| self.unknown(id))?;
        let standing = self.approvals.standing().filter(|(number, _)| *number == wanted).map(standing).collect();
        Ok(ApprovalList { approvals: Vec::new(), standing })
    }

    /// The whole command of a held call, as it came.
    pub fn held_command(&self, id: &str) -> Option<Bytes> {
        self.approvals.find(id).map(|(_, held)| held.question.command.clone())
    }

    /// How many calls are held.
    pub fn held_count(&self) -> usize {
        self.approvals.held().len()
    }

    /// What a peer, or (`None`) any, may do has changed: what was approved for a while of that is over,
    /// and so is what waits and could not be approved any more.
    pub(super) fn rights_changed(&mut self, peer: Option<Fingerprint>, now: Duration) {
        self.drop_standing(|_, stands| peer.is_none_or(|peer| stands.matter.peer == peer));
        self.review_held(now);
    }

    /// Refuses what is held and could not be approved any more, as a new call would be. What would need no approval any more
    /// waits on: it was held, so a person decides.
    pub(super) fn review_held(&mut self, now: Duration) {
        let held = self.approvals.held().filter_map(|(number, held)| Some((number, self.refused_now(held, now)?)));
        for (number, failure) in held.collect::<Vec<_>>() {
            self.refuse(number, Decision::Void, failure, None);
        }
    }

    /// A session is gone: nothing about it waits or is approved any more.
    pub(super) fn consent_ends_with(&mut self, session: &SessionId) {
        self.drop_standing(|_, stands| stands.matter.session == *session);
        let held = self.approvals.held().filter(|(_, held)| held.matter.session == *session);
        for number in held.map(|(number, _)| number).collect::<Vec<_>>() {
            self.refuse(number, Decision::Void, not_found(session.as_str()), None);
        }
    }

    /// A link's last words are near: whoever waits there for a decision is told that none comes, and that
    /// nothing was begun.
    pub(super) fn refuse_held_of(&mut self, link: LinkId) {
        let came_over = |call| match self.pending.get(call).map(|call| &call.origin) {
            Some(Origin::Link { link: over, .. }) => *over == link,
            Some(Origin::Client { .. } | Origin::Nobody { .. }) | None => false,
        };
        let held = self.approvals.held().filter(|(_, held)| came_over(held.call));
        for number in held.map(|(number, _)| number).collect::<Vec<_>>() {
            let message = "the link ended before anybody approved it";
            let failure = Failure::new(Code::PeerDisconnected, message).delivered(false);
            self.refuse(number, Decision::Void, failure, None);
        }
    }

    pub(super) fn tick_consent(&mut self, now: Duration) {
        self.drop_standing(|_, stands| stands.until <= now);
        self.review_held(now);
    }

    pub(super) fn is_held(&self, call: CallId) -> bool {
        self.approvals.number_of(call).is_some()
    }

    /// Whoever asked has gone; the call itself is ended by who says so.
    pub(super) fn void(&mut self, call: CallId) {
        let Some(number) = self.approvals.number_of(call) else { return };
        if let Some((held, _)) = self.release(number, Decision::Void, None) {
            let failed = Some((Code::Interrupted, "whoever asked does not wait for it any more".to_owned()));
            self.record(Entry { failed, ..self.end_entry(Decision::Void, number, &held) });
        }
    }

    pub(super) fn nobody_approved(&mut self, call: CallId) {
        let Some(number) = self.approvals.number_of(call) else { return };
        let within = self.limits.hold.as_secs();
        let message = format!("{NOBODY_APPROVED} it within {within} s");
        let failure = Failure::new(Code::Forbidden, message).delivered(false);
        self.refuse(number, Decision::Expired, failure, None);
    }

    /// What a new call like a held one would be answered now, if it were refused.
    fn refused_now(&self, held: &Held, now: Duration) -> Option<Failure> {
        let target = held.matter.session.as_str();
        let Some(entry) = self.local.get(target) else { return Some(not_found(target)) };
        let link = match self.pending.get(held.call).map(|call| &call.origin) {
            Some(Origin::Link { link, .. }) => self.links.get(link),
            Some(Origin::Client { .. } | Origin::Nobody { .. }) | None => None,
        };
        let listed = link.filter(|link| self.may_list(link, &entry.info, now));
        let Some(link) = listed else { return Some(not_found(target)) };
        let verdict = self.verdict_of_call(link, &held.question.rights(), &entry.info, now);
        (verdict == Verdict::Deny).then(|| forbidden(held.question.command_type.as_deref(), target))
    }

    /// Ends a held call with a failure.
    fn refuse(&mut self, number: u64, decision: Decision, failure: Failure, by: Option<Caller>) -> Option<Decided> {
        let (held, decided) = self.release(number, decision, None)?;
        let entry = self.end_entry(decision, number, &held);
        self.record(Entry { caller: by, failed: Some((failure.code, failure.message.clone())), ..entry });
        self.complete(held.call, Err(failure));
        Some(decided)
    }

    /// Holds a call no more, and tells how that came.
    fn release(&mut self, number: u64, decision: Decision, until: Option<String>) -> Option<(Held, Decided)> {
        let held = self.approvals.take(number)?;
        let decided = Decided { until, ..self.decided(self.approvals.held_id(number), decision, &held.matter) };
        self.emit("approval_resolved", &decided);
        self.approvals.note_end(&decided.id, decision);
        Some((held, decided))
    }

    /// Ends what was approved for a while without anybody's word on it, and has that on record.
    fn drop_standing(&mut self, over: impl Fn(u64, &Stands) -> bool) {
        for (decided, matter) in self.end_standing(over) {
            self.record(self.entry_of(Action::Expire, &matter, json!({ "approval": decided.id })));
        }
    }

    fn end_standing(&mut self, over: impl Fn(u64, &Stands) -> bool) -> Vec<(Decided, Matter)> {
        let ended = self.approvals.end_standing(over).into_iter();
        let ended = ended.map(|(number, matter)| {
            (self.decided(self.approvals.standing_id(number), Decision::Ended, &matter), matter)
        });
        let ended: Vec<_> = ended.collect();
        for (decided, _) in &ended {
            self.emit("approval_resolved", decided);
            self.approvals.note_end(&decided.id, decided.decision);
        }
        ended
    }

    fn decided(&self, id: String, decision: Decision, matter: &Matter) -> Decided {
        let (peer, session_id) = (self.petname(matter.peer), matter.session.to_string());
        let session_name = self.session_name(&matter.session);
        Decided { id, decision, peer, verb: matter.verb, session_id, session_name, until: None }
    }

    fn view(&self, number: u64, held: &Held, now: Duration) -> ApprovalView {
        let Matter { peer, verb, session } = &held.matter;
        let Shown { preview, cut, hash } = held.shown.clone();
        let (expires, left_seconds) = self.end(held.until, now);
        ApprovalView {
            id: self.approvals.held_id(number),
            peer: self.petname(*peer),
            fingerprint: peer.to_string(),
            verb: *verb,
            session: session.to_string(),
            session_id: session.to_string(),
            session_name: self.session_name(session),
            preview,
            cut,
            command: None,
            hash,
            age_seconds: now.saturating_sub(held.since).as_secs(),
            expires,
            left_seconds,
        }
    }

    fn standing_view(&self, number: u64, stands: &Stands, now: Duration) -> StandingApproval {
        let Matter { peer, verb, session } = &stands.matter;
        let (expires, left_seconds) = self.end(stands.until, now);
        StandingApproval {
            id: self.approvals.standing_id(number),
            peer: self.petname(*peer),
            fingerprint: peer.to_string(),
            verb: *verb,
            session: session.to_string(),
            session_name: self.session_name(session),
            expires,
            left_seconds,
        }
    }

    /// What a person calls a session of this machine.
    fn session_name(&self, session: &SessionId) -> String {
        let info = self.local.get(session).map(|entry| &entry.info);
        info.map(|info| info.aliases.first().unwrap_or(&info.name).clone()).unwrap_or_default()
    }

    /// A moment as a date, and how many seconds away it is.
    fn end(&self, at: Duration, now: Duration) -> (String, u64) {
        let left = at.saturating_sub(now);
        let seconds = left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX);
        (rfc3339(self.date(now) + left), seconds)
    }

    fn unknown(&self, id: &str) -> Failure {
        let message = end_words(id, self.approvals.how_ended(id));
        Failure::new(Code::NotFound, message).hint("`pi-remote approvals` lists what waits")
    }

    fn petname(&self, peer: Fingerprint) -> String {
        self.peers.get(&peer).map_or_else(|| peer.to_string(), |peer| peer.name.to_string())
    }

    fn held_entry(&self, action: Action, number: u64, held: &Held) -> Entry {
        self.entry_of(
            action,
            &held.matter,
            json!({ "approval": self.approvals.held_id(number), "hash": held.shown.hash }),
        )
    }

    /// The record of a held call that came to nothing, and how that came.
    fn end_entry(&self, decision: Decision, number: u64, held: &Held) -> Entry {
        let approval = self.approvals.held_id(number);
        let data = json!({ "approval": approval, "hash": held.shown.hash, "decision": decision });
        self.entry_of(Action::Deny, &held.matter, data)
    }

    fn entry_of(&self, action: Action, matter: &Matter, data: serde_json::Value) -> Entry {
        Entry {
            direction: Some(Direction::In),
            verb: Some(matter.verb.to_string()),
            session: Some(matter.session.to_string()),
            data: Some(data),
            ..self.entry(action, Some(matter.peer))
        }
    }
}

/// What has become of a held call, or of what was approved for a while.
fn end_words(id: &str, decision: Option<Decision>) -> String {
    match decision {
        Some(Decision::Approved) => format!("{id} was approved already"),
        Some(Decision::Denied) => format!("{id} was denied already"),
        Some(Decision::Expired) => format!("{id} has expired: nobody answered it in time"),
        Some(Decision::Void) => {
            format!("{id} is void: whoever asked does not wait for it any more, or may not ask it any more")
        }
        Some(Decision::Ended) => format!("{id} has ended already: what it let through is asked about again"),
        None => format!("No call that waits for approval is named {id}: it was decided, or nobody waits any more"),
    }
}

fn length(seconds: u64) -> Result<Duration, Failure> {
    let length = Duration::from_secs(seconds);
    if length.is_zero() || length > MAX_STANDING {
        return Err(Failure::new(Code::InvalidRequest, "forSeconds is 1 to 86400, a day"));
    }
    Ok(length)
}
