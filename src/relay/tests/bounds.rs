//! The bounds of a call, each met exactly and passed by one, and what is asked of a session for it.

use super::*;

/// The call that a session was just asked, and whether it is a send.
fn asked(relay: &mut Relay) -> (CallId, bool) {
    let [SessionWork::Call { call, is_send, .. }] = work(relay)[..] else { panic!("no call") };
    (call, is_send)
}

fn with_session() -> (Relay, ClientId) {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    (relay, client)
}

#[test]
fn a_call_has_the_time_that_its_caller_gave_within_a_day_or_that_of_its_kind() {
    for (given, command, expected) in [
        (Some(0), "send", Duration::from_millis(1)),
        (Some(1500), "send", Duration::from_millis(1500)),
        (Some(u64::MAX), "send", 86_400 * SECOND),
        (None, "send", 300 * SECOND),
        (None, "get_summary", 60 * SECOND),
        (None, "abort", 10 * SECOND),
    ] {
        let (mut relay, client) = with_session();
        let command = format!(r#"{{"type":"{command}"}}"#).into();
        ask_with(&mut relay, client, control::Relay { timeout_ms: given, command, ..request("s", 1) }, 1, SECOND);
        let (call, _) = asked(&mut relay);
        assert_eq!(relay.pending.get(call).unwrap().deadline, SECOND + expected, "{given:?}");
    }
}

#[test]
fn the_end_of_a_turn_is_waited_for_with_a_send_alone() {
    let (mut relay, client) = with_session();
    for (n, (command, wait_until, is_send)) in [
        ("send", Some(WaitUntil::TurnEnd), Some(true)),
        ("get_message", None, Some(false)),
        ("get_message", Some(WaitUntil::TurnEnd), None),
        ("send", Some(WaitUntil::Unknown), None),
    ]
    .into_iter()
    .enumerate()
    {
        let command = format!(r#"{{"type":"{command}"}}"#).into();
        ask_with(&mut relay, client, control::Relay { wait_until, command, ..request("s", 1) }, n as u64, SECOND);
        match is_send {
            Some(is_send) => assert_eq!(asked(&mut relay).1, is_send),
            None => assert_eq!(lines(&mut relay, client)[0]["code"], "invalid_request"),
        }
    }
    assert!(work(&mut relay).is_empty());
}

/// What a peer's call to the session is answered at once, if it is refused.
fn asked_by(relay: &mut Relay, link: LinkId, id: u64, bytes: usize) -> Option<Code> {
    let mut command = br#"{"type":"send","message":""}"#.to_vec();
    command.splice(command.len() - 2..command.len() - 2, vec![b'x'; bytes - command.len()]);
    let rpc = Rpc { id, target: "s".into(), command: command.into(), wait_until: None, timeout_ms: None };
    relay.link_message(link, LinkMessage::Rpc(rpc), Duration::ZERO);
    match messages(relay, link).pop() {
        Some(LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }) => Some(failure.code),
        None => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_peers_commands_are_taken_up_to_the_longest_message_and_four_of_them_at_a_time() {
    let (mut relay, _) = with_session();
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    messages(&mut relay, link);
    let longest = relay.limits().message;
    assert_eq!(asked_by(&mut relay, link, 1, longest + 1), Some(Code::TooLarge));
    for id in 2..6 {
        assert_eq!(asked_by(&mut relay, link, id, longest), None);
    }
    assert_eq!(asked_by(&mut relay, link, 6, 40), Some(Code::Overloaded));
    assert_eq!(work(&mut relay).len(), 4);
}
