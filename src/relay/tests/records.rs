//! What goes on record of calls that were refused, and what their callers read.

use super::*;
use crate::wire::audit::{Direction, Entry};

/// A machine with the sessions `here` and `both`, and a peer with `far` and `both`.
fn linked() -> (Relay, LinkId) {
    let mut relay = relay(1, 1);
    ["here", "both"].into_iter().for_each(|id| relay.session_added(session(id), Duration::ZERO));
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["far", "both"]);
    messages(&mut relay, link);
    let _ = relay.poll_audit(&mut cx());
    (relay, link)
}

fn taken(relay: &mut Relay) -> Vec<Entry> {
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("nothing waits") };
    entries
}

/// What the peer's call to a session was refused with, if it was.
fn call(relay: &mut Relay, link: LinkId, target: &str, command: String) -> Option<Failure> {
    let rpc = Rpc { id: 1, target: target.into(), command: command.into(), wait_until: None, timeout_ms: None };
    relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
    match messages(relay, link).pop() {
        Some(LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }) => Some(failure),
        _ => None,
    }
}

#[test]
fn a_clients_refused_call_is_on_record_with_where_it_would_have_gone() {
    let (mut relay, _) = linked();
    let client = relay.open_client();
    relay.limits.calls = 0;
    for (target, peer, direction, fingerprint, code) in [
        ("here", None, Some(Direction::Local), None, Code::Overloaded),
        ("both", None, Some(Direction::Local), None, Code::Overloaded),
        ("far", None, Some(Direction::Out), Some(device(2)), Code::Overloaded),
        ("both", Some("peer-2"), Some(Direction::Out), Some(device(2)), Code::Overloaded),
        ("nowhere", None, None, None, Code::SessionNotFound),
    ] {
        let asked = control::Relay { peer: peer.map(Into::into), ..request(target, 1) };
        ask_with(&mut relay, client, asked, 1, SECOND);
        let [entry] = taken(&mut relay).try_into().unwrap();
        let fingerprint = fingerprint.map(|peer| peer.to_string());
        assert_eq!((entry.direction, entry.fingerprint), (direction, fingerprint), "{target}");
        assert_eq!((entry.verb.as_deref(), entry.session.as_deref()), (Some("send"), Some(target)));
        assert_eq!(entry.failed.map(|(code, _)| code), Some(code), "{target}");
    }
}

#[test]
fn a_request_that_no_peer_may_make_is_on_record_and_nothing_comes_of_it() {
    let (mut relay, link) = linked();
    relay.link_message(link, LinkMessage::Request("grant"), SECOND);
    let [entry] = taken(&mut relay).try_into().unwrap();
    assert_eq!((entry.direction, entry.fingerprint), (Some(Direction::In), Some(device(2).to_string())));
    assert_eq!((entry.verb.as_deref(), entry.session), (Some("grant"), None));
    assert_eq!(entry.failed.unwrap().0, Code::Forbidden);
    assert!(messages(&mut relay, link).is_empty() && work(&mut relay).is_empty());
}

#[test]
fn a_refused_command_is_on_record_by_its_type_unless_it_is_very_long() {
    for (length, verb) in [(64 << 10, Some("send")), ((64 << 10) + 1, None)] {
        let (mut relay, link) = linked();
        let command = format!(r#"{{"type":"send","message":"{}"}}"#, "x".repeat(length - 28));
        assert_eq!(command.len(), length);
        assert_eq!(call(&mut relay, link, "nowhere", command).unwrap().code, Code::SessionNotFound);
        assert_eq!(taken(&mut relay)[0].verb.as_deref(), verb);
    }
}

#[test]
fn what_only_reads_takes_no_room_of_what_changes_something() {
    let (mut relay, link) = linked();
    for _ in 0..2048 {
        assert!(call(&mut relay, link, "here", r#"{"type":"get_message"}"#.into()).is_none());
        let SessionWork::Call { call, .. } = work(&mut relay).remove(0) else { panic!("no call") };
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
        messages(&mut relay, link);
    }
    assert_eq!(call(&mut relay, link, "here", r#"{"type":"abort"}"#.into()), None);
}

#[test]
fn a_refusal_of_a_session_elsewhere_says_that_it_was_the_session() {
    let (mut relay, link) = linked();
    let client = relay.open_client();
    ask(&mut relay, client, "far", 1, SECOND);
    let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    let outcome = Outcome::Failed(Failure::new(Code::SessionRefused, "busy"));
    relay.link_message(link, LinkMessage::RpcResponse { id, outcome }, SECOND);
    assert_eq!(lines(&mut relay, client)[0]["error"], "refused by its session on peer-2: busy");
}

#[test]
fn who_makes_too_many_calls_is_told_after_how_many_full_seconds_to_try_again() {
    for (a_minute, seconds) in [(60, 1), (120, 1), (30, 2), (25, 3)] {
        let (mut relay, link) = linked();
        relay.set_peer(device(2), Standing { calls_per_minute: Some(a_minute), ..full("peer-2") }, SECOND);
        (0..a_minute).for_each(|_| _ = call(&mut relay, link, "nowhere", "{}".into()));
        let refused = call(&mut relay, link, "nowhere", "{}".into()).unwrap();
        assert_eq!(refused.code, Code::RateLimited);
        assert!(refused.message.ends_with(&format!("try again in {seconds} s")), "{refused}");
    }
}

#[test]
fn whether_nothing_is_taken_from_any_peer_is_shown() {
    let (mut relay, _) = linked();
    for locked in [true, false] {
        relay.set_locked(locked, SECOND);
        assert_eq!(relay.is_locked(), locked);
    }
}
