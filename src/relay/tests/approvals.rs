//! What was approved for a while, one by one.

use super::consent::{SEND, asked, refusal, rpc};
use super::*;
use crate::wire::rights::Approve;

#[test]
fn calls_may_be_approved_for_a_whole_day_and_each_of_those_approvals_is_shown_by_its_id() {
    let mut relay = relay(1, 1);
    let grants = vec![Grant::of_preset(GrantId(1), Preset::Ask)];
    relay.set_peer(device(2), Standing { grants, ..full("peer-2") }, Duration::ZERO);
    let link = link(&mut relay, 2, &[]);
    for (id, target) in [(1, "s"), (2, "t")] {
        relay.session_added(session(target), Duration::ZERO);
        let command = br#"{"type":"send","message":"hi"}"#.as_slice().into();
        let rpc = Rpc { id, target: target.into(), command, wait_until: None, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
        let held = relay.approvals(None, SECOND).unwrap().approvals.remove(0);
        let request = Approve { id: held.id, hash: held.hash, for_seconds: Some(86_400) };
        relay.approve(&request, None, SECOND).unwrap();
    }
    let all = relay.approvals(None, SECOND).unwrap().standing;
    assert_eq!(all.iter().map(|standing| standing.session.as_str()).collect::<Vec<_>>(), ["s", "t"]);
    for one in &all {
        assert_eq!(one.left_seconds, 86_400);
        let shown = relay.approvals(Some(&one.id), SECOND).unwrap();
        assert_eq!(shown.standing.iter().map(|standing| &standing.id).collect::<Vec<_>>(), [&one.id]);
        assert!(shown.approvals.is_empty());
    }
}

#[test]
fn what_waits_ends_at_one_and_the_same_date_whenever_it_is_looked_at() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    let at = |relay: &Relay, now: Duration| relay.approvals(None, now).unwrap().approvals.remove(0);
    let (first, later) = (at(&relay, Duration::ZERO), at(&relay, 10 * SECOND));
    assert_eq!(first.expires, later.expires);
    assert_eq!(first.left_seconds - later.left_seconds, 10);
}

#[test]
fn the_session_is_told_what_controls_it_from_what_does_not() {
    let (mut relay, _) = asked(2);
    let client = relay.open_client();
    for (command, controls) in [(r#"{"type":"abort"}"#, true), (r#"{"type":"get_message"}"#, false), (SEND, false)] {
        let asked = control::Relay { command: Bytes::from(command), ..request("s", 1) };
        ask_with(&mut relay, client, asked, 1, SECOND);
        let Some(SessionWork::Call { is_control, .. }) = work(&mut relay).pop() else { panic!("{command}") };
        assert_eq!(is_control, controls, "{command}");
    }
}

#[test]
fn nothing_is_approved_after_its_time_though_the_timer_is_late() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    let held = relay.approvals(None, Duration::ZERO).unwrap().approvals.remove(0);
    let request = Approve { id: held.id, hash: held.hash, for_seconds: None };
    let late = Duration::from_secs(held.left_seconds);
    assert_eq!(relay.approve(&request, None, late).unwrap_err().code, Code::NotFound);
    assert!(work(&mut relay).is_empty(), "the session is not asked");
    assert_eq!(refusal(&mut relay, link).code, Code::Forbidden);
}
