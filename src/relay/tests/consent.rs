//! Held calls: each has one outcome, none is begun that nobody approved, and nothing is left behind.

mod ends;
mod record;

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::*;
use crate::wire::audit::{Action, Caller, Direction, Entry};
use crate::wire::dates::rfc3339;
use crate::wire::preview::Shown;
use crate::wire::rights::{Approve, Decision};
use crate::wire::session::Verb;

pub(super) const SEND: &str = r#"{"type":"send","message":"hi"}"#;
/// How long a call is held.
const HOLD: Duration = DEFAULT_APPROVAL;

fn standing(byte: u8, preset: Preset) -> Standing {
    let grants = vec![Grant::of_preset(GrantId(1), preset)];
    let name = format!("peer-{byte}").parse().unwrap();
    Standing { name, grants, removed: false, calls_per_minute: None }
}

/// A machine with the session `s`, and a link to a peer that asks first.
pub(super) fn asked(byte: u8) -> (Relay, LinkId) {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let link = join(&mut relay, byte);
    (relay, link)
}

pub(super) fn join(relay: &mut Relay, byte: u8) -> LinkId {
    relay.set_peer(device(byte), standing(byte, Preset::Ask), Duration::ZERO);
    let id = link(relay, byte, &[]);
    messages(relay, id);
    id
}

pub(super) fn rpc(relay: &mut Relay, link: LinkId, id: u64, command: &str, now: Duration) {
    let rpc = Rpc {
        id,
        target: "s".into(),
        command: Bytes::from(command.to_owned()),
        wait_until: None,
        timeout_ms: Some(5000),
    };
    relay.link_message(link, LinkMessage::Rpc(rpc), now);
}

/// A yes to a held call as it is shown, or to one that is not there.
fn yes(relay: &Relay, id: &str) -> Approve {
    let shown = relay.approvals(Some(id), Duration::ZERO).ok().and_then(|list| list.approvals.into_iter().next());
    Approve { id: id.into(), hash: shown.map(|held| held.hash).unwrap_or_default(), for_seconds: None }
}

fn approve(relay: &mut Relay, id: &str, now: Duration) -> Result<Decision, Code> {
    let request = yes(relay, id);
    relay.approve(&request, None, now).map(|decided| decided.decision).map_err(|failure| failure.code)
}

/// The one failure that a link was told.
pub(super) fn refusal(relay: &mut Relay, link: LinkId) -> Failure {
    let mut said = messages(relay, link);
    said.retain(|message| matches!(message, LinkMessage::RpcResponse { .. }));
    match said.pop() {
        Some(LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }) if said.is_empty() => failure,
        other => panic!("{said:?} {other:?}"),
    }
}

pub(super) fn ids(relay: &Relay) -> Vec<String> {
    let list = relay.approvals(None, Duration::ZERO).unwrap();
    list.approvals.into_iter().map(|view| view.id).chain(list.standing.into_iter().map(|view| view.id)).collect()
}

fn trail(relay: &mut Relay) -> Vec<Entry> {
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { return Vec::new() };
    let of_consent = [Action::Hold, Action::Approve, Action::Deny];
    entries.into_iter().filter(|entry| of_consent.contains(&entry.action)).collect()
}

/// The `approval_resolved` events that a subscriber was sent, in order.
fn resolved(relay: &mut Relay, client: ClientId) -> Vec<(String, String)> {
    let seen = lines(relay, client).into_iter().filter(|line| line["event"] == "approval_resolved");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    seen.map(|line| (text(&line["data"]["id"]), text(&line["data"]["decision"]))).collect()
}

#[test]
fn a_call_that_needs_approval_waits_and_then_goes_on_with_its_own_bytes_and_time() {
    let (mut relay, link) = asked(2);
    let client = relay.open_client();
    relay.subscribe(client);
    let command = "{ \"type\":\"send\", \"message\" : \"a\\u001b[31m\" }";
    rpc(&mut relay, link, 7, command, Duration::ZERO);
    let told = LinkMessage::RpcProgress { id: 7, code: Code::NeedsApproval, extend_ms: 60_000 };
    assert_eq!(messages(&mut relay, link), [told]);
    assert!(work(&mut relay).is_empty(), "nothing is begun");
    let event = lines(&mut relay, client).remove(0);
    assert_eq!(event["event"], "approval_requested");
    let view = relay.approvals(Some("a1-322"), 10 * SECOND).unwrap().approvals.remove(0);
    assert_eq!((view.peer.as_str(), view.verb, view.session_name.as_str()), ("peer-2", Verb::Send, "name-s"));
    assert_eq!((view.preview.as_str(), view.left_seconds), (r"send: a\u{1b}[31m", 50));
    assert_eq!((view.age_seconds, view.hash.as_str()), (10, &*format!("{:x}", Sha256::digest(command))));
    assert_eq!(relay.held_command("a1-322").unwrap(), command);
    assert_eq!(relay.held_command("a2-322"), None);
    assert_eq!(event["data"]["hash"], view.hash.as_str());
    assert!(event["data"].get("command").is_none(), "an event is small");

    let at = 59 * SECOND;
    for wrong in ["0".repeat(64), String::new(), view.hash[..63].to_owned(), format!("{}0", view.hash)] {
        let wrong = Approve { id: "a1-322".into(), hash: wrong, for_seconds: None };
        assert_eq!(relay.approve(&wrong, None, at).unwrap_err().code, Code::VerificationFailed);
    }
    let right = Approve { id: "a1-322".into(), hash: view.hash.clone(), for_seconds: None };
    assert_eq!(relay.approve(&right, None, at).unwrap().decision, Decision::Approved);
    let SessionWork::Call { call, command: begun, is_send: true, sender: Some(sender), .. } =
        work(&mut relay).remove(0)
    else {
        panic!("no send of a peer")
    };
    assert_eq!(begun, command);
    assert_eq!((sender.peer.as_str(), sender.fingerprint, sender.lacks_message_id), ("peer-2", device(2), true));
    assert_eq!(relay.pending.get(call).unwrap().deadline, at + 5 * SECOND, "the caller's time counts from here");
    assert_eq!(resolved(&mut relay, client), [("a1-322".into(), "approved".into())]);
    assert_eq!(approve(&mut relay, "a1-322", at), Err(Code::NotFound), "but once");
    let entries = trail(&mut relay);
    assert_eq!(entries.iter().map(|entry| entry.action).collect::<Vec<_>>(), [Action::Hold, Action::Approve]);
    assert!(entries.iter().all(|entry| entry.data.as_ref().unwrap()["hash"] == view.hash.as_str()));
}

#[test]
fn what_was_worked_out_of_a_call_before_is_what_is_shown_of_it() {
    let (mut relay, link) = asked(2);
    let full = join(&mut relay, 3);
    relay.set_peer(device(3), standing(3, Preset::Full), Duration::ZERO);
    let rpc = Rpc { id: 1, target: "s".into(), command: SEND.into(), wait_until: None, timeout_ms: None };
    let may_ask = |relay: &Relay, link| relay.may_ask_about(link, &rpc, Duration::ZERO);
    assert!(may_ask(&relay, link) && !may_ask(&relay, full), "for the other it is not worked out");
    let some = Grant { sessions: vec!["id:s".parse().unwrap()], ..Grant::of_preset(GrantId(2), Preset::Ask) };
    let mut both = standing(3, Preset::Full);
    both.grants.push(some);
    relay.set_peer(device(3), both, Duration::ZERO);
    assert!(may_ask(&relay, full), "about one session it is asked");
    let shown = Shown { preview: "as it was".into(), cut: true, hash: "its own".into() };
    relay.link_message_shown(link, LinkMessage::Rpc(rpc), Some(shown), Duration::ZERO);
    let view = relay.approvals(None, SECOND).unwrap().approvals.remove(0);
    assert_eq!((view.preview.as_str(), view.cut, view.hash.as_str()), ("as it was", true, "its own"));
    let end = rfc3339(relay.date(Duration::ZERO) + HOLD);
    assert_eq!((view.expires, view.left_seconds), (end, (HOLD - SECOND).as_secs()));
}

#[test]
fn a_call_that_is_denied_or_that_nobody_answers_is_forbidden_and_was_not_delivered() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    assert_eq!(relay.deny("a1-322", None).unwrap().decision, Decision::Denied);
    let denied = refusal(&mut relay, link);
    assert_eq!((denied.code, denied.delivered), (Code::Forbidden, Some(false)));

    rpc(&mut relay, link, 2, SEND, SECOND);
    assert_eq!(relay.pending.next_deadline(), Some(HOLD + SECOND));
    relay.link_heard(link, HOLD);
    relay.tick(HOLD);
    assert_eq!(ids(&relay), ["a2-322"], "not named as one before");
    relay.tick(HOLD + SECOND);
    let expired = refusal(&mut relay, link);
    assert_eq!((expired.code, expired.delivered), (Code::Forbidden, Some(false)));
    assert_eq!(expired.message, "nobody approved it within 60 s");
    assert!(work(&mut relay).is_empty() && ids(&relay).is_empty() && relay.pending.is_empty());
    let failed: Vec<_> = trail(&mut relay).into_iter().filter_map(|entry| entry.failed).map(|(_, why)| why).collect();
    assert_eq!(failed, [denied.message, expired.message]);
}

#[test]
fn a_wider_grant_begins_nothing_by_itself_and_the_policy_is_asked_again_when_it_is_approved() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    relay.set_peer(device(2), standing(2, Preset::Full), SECOND);
    assert!(work(&mut relay).is_empty());
    assert_eq!(approve(&mut relay, "a1-322", SECOND), Ok(Decision::Approved));
    assert_eq!(work(&mut relay).len(), 1);

    let mut ends = standing(2, Preset::Ask);
    ends.grants[0].expires = Some(SystemTime::UNIX_EPOCH + 30 * SECOND);
    relay.set_peer(device(2), ends, 2 * SECOND);
    messages(&mut relay, link);
    rpc(&mut relay, link, 2, SEND, 2 * SECOND);
    assert_eq!(approve(&mut relay, "a2-322", 31 * SECOND), Err(Code::Forbidden), "its grant has ended meanwhile");
    assert_eq!(refusal(&mut relay, link).code, Code::SessionNotFound);
    assert!(work(&mut relay).is_empty());

    relay.set_peer(device(2), standing(2, Preset::Ask), 32 * SECOND);
    rpc(&mut relay, link, 3, SEND, 32 * SECOND);
    relay.locked = true;
    assert_eq!(approve(&mut relay, "a3-322", 32 * SECOND), Err(Code::Forbidden), "nothing is taken from any peer");
    assert!(work(&mut relay).is_empty());
}

#[test]
fn who_decided_is_on_record() {
    let (mut relay, link) = asked(2);
    let by = || Some(Caller { pid: 7, executable: None });
    (1..4).for_each(|id| rpc(&mut relay, link, id, SEND, Duration::ZERO));
    let ahead = Approve { for_seconds: Some(9), ..yes(&relay, "a1-322") };
    relay.approve(&ahead, by(), SECOND).unwrap();
    relay.deny("a2-322", by()).unwrap();
    relay.deny("s1-322", by()).unwrap();
    let entries = trail(&mut relay);
    for Entry { direction, verb, session, .. } in &entries {
        let about = (*direction, verb.as_deref(), session.as_deref());
        assert_eq!(about, (Some(Direction::In), Some("send"), Some("s")));
    }
    let callers = entries.into_iter().filter(|entry| entry.action != Action::Hold);
    assert_eq!(callers.map(|entry| entry.caller).collect::<Vec<_>>(), [by(), by(), by()]);
}

#[test]
fn nothing_is_approved_that_cannot_be_put_on_record_but_denied_it_is() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    relay.set_audit_writable(false);
    assert_eq!(approve(&mut relay, "a1-322", SECOND), Err(Code::AuditFailed));
    assert_eq!(ids(&relay), ["a1-322"], "held on");
    assert!(relay.deny("a1-322", None).is_ok() && work(&mut relay).is_empty());
}

#[test]
fn what_is_approved_for_a_while_needs_no_more_approval_until_that_ends() {
    type End = fn(&mut Relay);
    let ends: [(&str, End); 5] = [
        ("denied", |relay| assert_eq!(relay.deny("s1-322", None).unwrap().decision, Decision::Ended)),
        ("its time is over", |relay| {
            relay.tick(100 * SECOND);
        }),
        ("another grant", |relay| {
            let mut other = standing(2, Preset::Ask);
            other.grants[0].id = GrantId(2);
            relay.set_peer(device(2), other, SECOND);
        }),
        ("its session ended", |relay| {
            relay.session_removed(&"s".parse().unwrap(), SECOND);
            relay.session_added(session("s"), SECOND);
        }),
        ("paired anew", |relay| {
            relay.unpin(device(2), SECOND);
        }),
    ];
    for (how, end) in ends {
        let (mut relay, mut link) = asked(2);
        rpc(&mut relay, link, 1, SEND, Duration::ZERO);
        let request = Approve { for_seconds: Some(100), ..yes(&relay, "a1-322") };
        let decided = relay.approve(&request, None, Duration::ZERO).unwrap();
        assert_eq!(decided.until.as_deref(), Some("1970-01-01T00:01:40.000Z"), "{how}");
        rpc(&mut relay, link, 2, SEND, SECOND);
        assert_eq!(work(&mut relay).len(), 2, "{how}: the first, and the next without a question");
        rpc(&mut relay, link, 3, r#"{"type":"abort"}"#, SECOND);
        assert_eq!(ids(&relay), ["a2-322", "s1-322"], "{how}: another right is asked about");
        relay.deny("a2-322", None).unwrap();
        relay.link_heard(link, 100 * SECOND);
        end(&mut relay);
        assert!(ids(&relay).is_empty(), "{how}");
        if !relay.is_linked(device(2)) {
            link = join(&mut relay, 2);
        }
        work(&mut relay);
        rpc(&mut relay, link, 4, SEND, 100 * SECOND);
        assert!(work(&mut relay).is_empty() && ids(&relay) == ["a3-322"], "{how}: asked about again");
    }
}

#[test]
fn an_approval_for_a_while_is_bounded_to_a_day() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    for bad in [0, 86_401, u64::MAX] {
        let request = Approve { for_seconds: Some(bad), ..yes(&relay, "a1-322") };
        assert_eq!(relay.approve(&request, None, SECOND).unwrap_err().code, Code::InvalidRequest);
    }
    assert_eq!(ids(&relay), ["a1-322"], "held on");
}

#[test]
fn a_send_that_waits_for_its_turn_end_needs_the_right_to_hear_of_it_too() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let wait = |relay: &mut Relay, link| {
        let command = Bytes::from_static(SEND.as_bytes());
        let wait_until = Some(WaitUntil::TurnEnd);
        let rpc = Rpc { id: 9, target: "s".into(), command, wait_until, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
    };
    let link = join(&mut relay, 2);
    wait(&mut relay, link);
    approve(&mut relay, "a1-322", SECOND).unwrap();
    assert!(matches!(work(&mut relay)[..], [SessionWork::Call { wait_turn_end: true, .. }]));
    let mut deaf = standing(3, Preset::Ask);
    deaf.grants[0].allow.retain(|verb| *verb != Verb::Events);
    let link = join(&mut relay, 3);
    relay.set_peer(device(3), deaf, Duration::ZERO);
    messages(&mut relay, link);
    wait(&mut relay, link);
    assert_eq!(refusal(&mut relay, link).code, Code::Forbidden);
}

#[test]
fn a_client_is_told_once_that_its_call_waits_for_somebody_and_has_that_much_longer() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let (client, other) = (relay.open_client(), relay.open_client());
    relay.subscribe(other);
    let call = control::Relay { request_id: Some("\"r\"".into()), ..request("s", 1) };
    ask_with(&mut relay, client, call, 5, Duration::ZERO);
    let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    for _ in 0..2 {
        let progress = LinkMessage::RpcProgress { id, code: Code::NeedsApproval, extend_ms: 60_000 };
        relay.link_message(link, progress, Duration::ZERO);
    }
    let data = serde_json::json!({
        "requestId": "r", "sessionId": "s", "host": "peer-2", "status": "needs_approval", "expiresInSeconds": 60,
    });
    let own = serde_json::json!({"type": "event", "event": "message_status", "data": data, "id": "5"});
    assert_eq!(lines(&mut relay, client), [own]);
    let shared = serde_json::json!({"type": "event", "event": "message_status", "data": data});
    assert_eq!(lines(&mut relay, other), [shared]);
    relay.subscribe(client);
    let call = control::Relay { request_id: Some("\"r\"".into()), ..request("s", 1) };
    ask_with(&mut relay, client, call, 6, Duration::ZERO);
    let second = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    let progress = LinkMessage::RpcProgress { id: second, code: Code::NeedsApproval, extend_ms: 60_000 };
    relay.link_message(link, progress, Duration::ZERO);
    let told = lines(&mut relay, client);
    assert_eq!((told.len(), &told[0]["id"]), (1, &"6".into()), "the subscriber that asked, once: {told:?}");
    assert_eq!(lines(&mut relay, other).len(), 1);
    relay.close_client(client);
    let cancelled: BTreeSet<_> = messages(&mut relay, link).into_iter().map(|message| format!("{message:?}")).collect();
    let both = [id, second].map(|id| format!("{:?}", LinkMessage::Cancel(id)));
    assert_eq!(cancelled, BTreeSet::from(both), "gone, and so they are void there");
}

#[test]
fn no_client_says_who_a_command_is_from() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    for command in [
        r#"{"type":"send","message":"a","from":{"peer":"boss"}}"#,
        r#"{"type":"send","fr\u006fm":null}"#,
        r#"{"\ud800":1,"from":1}"#,
    ] {
        ask_with(&mut relay, client, control::Relay { command: command.into(), ..request("s", 1) }, 1, SECOND);
        assert_eq!(lines(&mut relay, client)[0]["code"], "invalid_request", "{command}");
    }
    assert!(work(&mut relay).is_empty());
    ask(&mut relay, client, "s", 2, SECOND);
    assert!(matches!(work(&mut relay)[..], [SessionWork::Call { sender: None, .. }]), "a local call has no sender");
}

#[derive(Debug, Clone)]
enum Step {
    Call(u8),
    Approve(usize, bool),
    Deny(usize),
    EndStanding(usize),
    Cancel(usize),
    Answer(usize),
    Grant(u8, Preset),
    EndLink(u8),
    EndSession,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let preset = prop::sample::select(vec![Preset::Full, Preset::Ask, Preset::Ask, Preset::Read, Preset::None]);
    prop_oneof![
        8 => (2u8..5).prop_map(Step::Call),
        3 => (0usize..8, any::<bool>()).prop_map(|(which, ahead)| Step::Approve(which, ahead)),
        2 => (0usize..8).prop_map(Step::Deny),
        1 => (0usize..8).prop_map(Step::EndStanding),
        2 => (0usize..16).prop_map(Step::Cancel),
        2 => (0usize..8).prop_map(Step::Answer),
        2 => (2u8..5, preset).prop_map(|(peer, preset)| Step::Grant(peer, preset)),
        1 => (2u8..5).prop_map(Step::EndLink),
        1 => Just(Step::EndSession),
        2 => (1u64..40).prop_map(Step::Pass),
    ]
}

/// A machine whose peers ask at random, and what is known of every call.
struct World {
    relay: Relay,
    links: HashMap<u8, LinkId>,
    presets: HashMap<u8, Preset>,
    now: Duration,
    last: u64,
    /// Calls that have no outcome yet, in the order they came.
    open: Vec<(u8, u64)>,
    /// Calls that may be begun: allowed when they came, or approved.
    positive: HashSet<u64>,
    begun: Vec<(u64, CallId)>,
}

impl World {
    fn new() -> Self {
        let mut relay = relay(1, 1);
        relay.session_added(session("s"), Duration::ZERO);
        let links = (2..5).map(|byte| (byte, join(&mut relay, byte))).collect();
        let presets = (2..5).map(|byte| (byte, Preset::Ask)).collect();
        let (open, positive, begun) = Default::default();
        Self { relay, links, presets, now: Duration::ZERO, last: 0, open, positive, begun }
    }

    fn held(&self) -> Vec<(String, u64)> {
        let views = self.relay.approvals(None, self.now).unwrap().approvals;
        views.into_iter().map(|view| (view.id, number(&view.preview))).collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Call(peer) => {
                self.last += 1;
                let stands = self.relay.approvals(None, self.now).unwrap().standing;
                let stands = stands.iter().any(|s| s.fingerprint == device(peer).to_string());
                if self.presets[&peer] == Preset::Full || (stands && self.presets[&peer] == Preset::Ask) {
                    self.positive.insert(self.last);
                }
                self.open.push((peer, self.last));
                let command = format!(r#"{{"type":"send","message":"{}"}}"#, self.last);
                rpc(&mut self.relay, self.links[&peer], self.last, &command, self.now);
            }
            Step::Approve(which, ahead) => {
                let Some((id, call)) = self.held().get(which).cloned() else { return };
                let request = Approve { for_seconds: ahead.then_some(50), ..yes(&self.relay, &id) };
                if self.relay.approve(&request, None, self.now).is_ok() {
                    assert!(self.positive.insert(call), "approved but once");
                }
            }
            Step::Deny(which) => {
                let Some((id, _)) = self.held().get(which).cloned() else { return };
                self.relay.deny(&id, None).unwrap();
            }
            Step::EndStanding(which) => {
                let stands = self.relay.approvals(None, self.now).unwrap().standing;
                let Some(one) = stands.get(which) else { return };
                assert_eq!(self.relay.deny(&one.id, None).unwrap().decision, Decision::Ended);
            }
            Step::Cancel(which) => {
                if which < self.open.len() {
                    let (peer, call) = self.open.remove(which);
                    self.relay.link_message(self.links[&peer], LinkMessage::Cancel(call), self.now);
                }
            }
            Step::Answer(which) => {
                if which < self.begun.len() {
                    let (_, call) = self.begun.remove(which);
                    self.relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), self.now);
                }
            }
            Step::Grant(peer, preset) => {
                self.presets.insert(peer, preset);
                self.relay.set_peer(device(peer), standing(peer, preset), self.now);
            }
            Step::EndLink(peer) => {
                self.drain();
                self.relay.link_closed(self.links[&peer], LinkEnd::Silent, self.now);
                self.open.retain(|(asked_by, _)| *asked_by != peer);
                let link = self.relay.open_link(device(peer), true, facts(peer.into()), self.now).unwrap();
                self.relay.link_message(link, hello_from(peer.into(), false, &[]), self.now);
                self.links.insert(peer, link);
            }
            Step::EndSession => {
                self.relay.session_removed(&"s".parse().unwrap(), self.now);
                self.drain();
                assert!(self.open.is_empty() && self.held().is_empty());
                self.relay.session_added(session("s"), self.now);
            }
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                let links: Vec<_> = self.links.values().copied().collect();
                links.into_iter().for_each(|link| self.relay.link_heard(link, self.now));
                self.relay.tick(self.now);
            }
        }
    }

    /// Takes what came out, and asserts what must hold at every moment.
    fn drain(&mut self) {
        for work in work(&mut self.relay) {
            if let SessionWork::Call { call, command, .. } = work {
                let number = number(std::str::from_utf8(&command).unwrap());
                assert!(self.positive.remove(&number), "call {number} was begun and nobody had said yes");
                self.begun.push((number, call));
            }
        }
        for (peer, link) in self.links.clone() {
            for message in messages(&mut self.relay, link) {
                if let LinkMessage::RpcResponse { id, .. } = message {
                    let at = self.open.iter().position(|open| *open == (peer, id));
                    self.open.remove(at.unwrap_or_else(|| panic!("a second outcome of {id}, or of one that has gone")));
                }
            }
        }
        let held = self.relay.approvals(None, self.now).unwrap().approvals;
        for peer in 2..5 {
            let fingerprint = device(peer).to_string();
            assert!(held.iter().filter(|view| view.fingerprint == fingerprint).count() <= 8);
        }
        assert_eq!(self.relay.pending.len(), self.open.len(), "in flight is what has no outcome");
    }

    fn finish(mut self) {
        self.drain();
        for link in self.links.clone().into_values() {
            self.relay.link_closed(link, LinkEnd::Silent, self.now);
        }
        assert!(self.held().is_empty() && self.relay.pending.is_empty() && self.relay.pending.bytes() == 0);
        self.relay.tick(self.now + 60 * SECOND);
        assert!(ids(&self.relay).is_empty(), "what was approved for a while has ended");
        assert_eq!(self.relay.approvals.next_end(), None);
    }
}

/// The number in a command, or in its preview.
fn number(text: &str) -> u64 {
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_held_call_has_one_outcome_and_none_is_begun_that_nobody_approved(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.drain();
        }
        world.finish();
    }
}
