//! What goes on record of consent beside the decisions themselves.

use serde_json::json;

use super::*;

#[test]
fn what_is_void_what_was_approved_ahead_and_its_end_are_on_record() {
    let (mut relay, link) = asked(2);
    rpc(&mut relay, link, 1, SEND, Duration::ZERO);
    relay.link_message(link, LinkMessage::Cancel(1), SECOND);
    let void = trail(&mut relay).pop().unwrap();
    assert_eq!((void.action, void.caller, void.failed.unwrap().0), (Action::Deny, None, Code::Interrupted));
    assert_eq!(void.data.unwrap()["approval"], "a1-322");

    rpc(&mut relay, link, 2, SEND, SECOND);
    let request = Approve { for_seconds: Some(60), ..yes(&relay, "a2-322") };
    relay.approve(&request, None, SECOND).unwrap();
    rpc(&mut relay, link, 3, SEND, SECOND);
    for work in work(&mut relay) {
        let SessionWork::Call { call, .. } = work else { continue };
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
    }
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("nothing is on record") };
    let calls = entries.iter().filter(|entry| entry.action == Action::Relay);
    let ahead: Vec<Value> = calls.map(|entry| entry.data.clone().unwrap_or_default()).collect();
    assert_eq!(ahead, [Value::Null, json!({ "standing": "s1-322" })]);

    relay.tick(62 * SECOND);
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("nothing is on record") };
    let end = entries.iter().find(|entry| entry.action == Action::Expire).unwrap();
    assert_eq!((end.verb.as_deref(), end.session.as_deref()), (Some("send"), Some("s")));
    assert_eq!((end.data.as_ref().unwrap()["approval"].as_str(), end.caller.as_ref()), (Some("s1-322"), None));
}

#[test]
fn what_is_open_by_itself_is_not_said_to_be_approved_ahead() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let near = Grant { from: vec!["cidr:192.0.2.0/24".parse().unwrap()], ..Grant::of_preset(GrantId(2), Preset::Ask) };
    let grants = vec![Grant::of_preset(GrantId(1), Preset::Full), near];
    relay.set_peer(device(2), Standing { grants, ..full("peer-2") }, Duration::ZERO);
    let first = link(&mut relay, 2, &[]);
    rpc(&mut relay, first, 1, SEND, Duration::ZERO);
    let request = Approve { for_seconds: Some(60), ..yes(&relay, "a1-322") };
    relay.approve(&request, None, Duration::ZERO).unwrap();
    relay.link_closed(first, LinkEnd::Silent, SECOND);

    let far = LinkFacts { address: SocketAddr::from(([198, 51, 100, 1], 1)), ..facts(1) };
    let second = relay.open_link(device(2), true, far, SECOND).unwrap();
    relay.link_message(second, hello_from(2, false, &[]), SECOND);
    rpc(&mut relay, second, 1, SEND, SECOND);
    for work in work(&mut relay) {
        let SessionWork::Call { call, .. } = work else { continue };
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
    }
    let Poll::Ready((entries, 0)) = relay.poll_audit(&mut cx()) else { panic!("nothing is on record") };
    let last = entries.iter().rfind(|entry| entry.action == Action::Relay && entry.failed.is_none()).unwrap();
    assert_eq!((last.verb.as_deref(), &last.data), (Some("send"), &None));
}
