//! The bounds of a call, each met exactly and passed by one, what is asked of a session for it, and the
//! words of a link beside its calls.

use super::consent::{self, SEND, join, refusal, rpc};
use super::*;
use crate::wire::link::{ByeReason, Checked, FEATURE_CHECK};

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

#[test]
fn there_are_only_so_many_calls_in_flight_and_so_many_bytes_of_them() {
    let (mut relay, client) = with_session();
    let bytes = request("s", 1).command.len();
    for (calls, budget, taken) in [(2, usize::MAX, 2), (usize::MAX, 3 * bytes, 3), (0, 0, 0)] {
        (relay.limits.calls, relay.limits.budget) = (calls, budget);
        for _ in 0..taken {
            ask(&mut relay, client, "s", 1, SECOND);
            assert!(lines(&mut relay, client).is_empty(), "{calls} {budget}");
        }
        ask(&mut relay, client, "s", 1, SECOND);
        assert_eq!(lines(&mut relay, client)[0]["code"], "overloaded");
        for work in work(&mut relay) {
            let SessionWork::Call { call, .. } = work else { panic!("{work:?}") };
            relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
        }
        lines(&mut relay, client);
    }
}

#[test]
fn a_call_that_took_too_long_says_which_session_on_which_machine_and_is_dropped_there() {
    let (mut relay, client) = with_session();
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["far"]);
    messages(&mut relay, link);
    for (target, words) in [("s", "session s on this machine"), ("far", "session far on peer-2")] {
        ask_with(
            &mut relay,
            client,
            control::Relay { timeout_ms: Some(1000), ..request(target, 1) },
            1,
            Duration::ZERO,
        );
        relay.tick(SECOND - Duration::from_millis(1));
        assert!(lines(&mut relay, client).is_empty(), "not yet");
        relay.tick(SECOND);
        let line = lines(&mut relay, client).remove(0);
        assert!(line["code"] == "timeout" && line["hint"].as_str().unwrap().starts_with(words), "{line}");
    }
    assert!(matches!(work(&mut relay)[..], [SessionWork::Call { .. }, SessionWork::Drop(_)]));
    assert!(messages(&mut relay, link).iter().any(|message| matches!(message, LinkMessage::Cancel(_))));
}

#[test]
fn this_machine_may_be_named_too_by_its_name_or_its_key() {
    let (mut relay, client) = with_session();
    for (peer, found) in [("here".to_owned(), true), (device(1).to_string(), true), ("there".to_owned(), false)] {
        ask_with(&mut relay, client, control::Relay { peer: Some(peer), ..request("s", 1) }, 1, SECOND);
        assert_eq!(work(&mut relay).len(), usize::from(found));
        let refused: Vec<_> = lines(&mut relay, client).into_iter().map(|line| line["code"].clone()).collect();
        assert_eq!(refused, if found { vec![] } else { vec![Value::from("peer_not_found")] });
    }
}

#[test]
fn only_a_peers_send_that_brings_no_message_id_is_said_to_lack_one() {
    let (mut relay, _) = with_session();
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    for (command, lacks) in [
        (r#"{"type":"send","message":"a"}"#, true),
        (r#"{"type":"send","message":"a","messageId":"m"}"#, false),
        (r#"{"type":"get_message"}"#, false),
    ] {
        let rpc = Rpc { id: 1, target: "s".into(), command: command.into(), wait_until: None, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
        let [SessionWork::Call { call, sender: Some(sender), .. }] = &work(&mut relay)[..] else { panic!("no call") };
        assert_eq!(sender.lacks_message_id, lacks, "{command}");
        relay.session_answered(*call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
    }
}

#[test]
fn a_peer_is_sent_what_it_takes_and_no_byte_more() {
    let (mut relay, client) = with_session();
    pin(&mut relay, 2);
    let link = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    let LinkMessage::Hello(hello) = hello_from(2, false, &["far"]) else { panic!("no hello") };
    let limit = request("far", 1).command.len();
    relay.link_message(link, LinkMessage::Hello(Hello { message_limit: limit as u64, ..hello }), Duration::ZERO);
    ask(&mut relay, client, "far", 1, SECOND);
    assert!(lines(&mut relay, client).is_empty());
    ask(&mut relay, client, "far", 10, SECOND);
    assert_eq!(lines(&mut relay, client)[0]["code"], "too_large");
}

#[test]
fn the_bytes_of_a_clients_calls_count_until_their_answers() {
    let (mut relay, client) = with_session();
    ask(&mut relay, client, "s", 1, SECOND);
    ask(&mut relay, client, "s", 2, SECOND);
    let bytes = request("s", 1).command.len();
    for left in [bytes, 0] {
        let call = relay.pending.matching(|_| true)[0];
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
        assert_eq!(relay.clients[&client].call_bytes, left);
    }
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &[]);
    messages(&mut relay, link);
    (1..3).for_each(|id| assert_eq!(asked_by(&mut relay, link, id, 40), None));
    for left in [40, 0] {
        let call = relay.pending.matching(|_| true)[0];
        relay.session_answered(call, Ok((Bytes::from_static(b"{}"), None)), SECOND);
        assert_eq!(relay.links[&link].call_bytes, left);
    }
}

#[test]
fn a_peer_is_answered_with_what_it_takes_and_no_byte_more() {
    let (mut relay, _) = with_session();
    pin(&mut relay, 2);
    let link = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    let LinkMessage::Hello(hello) = hello_from(2, false, &[]) else { panic!("no hello") };
    relay.link_message(link, LinkMessage::Hello(Hello { message_limit: 20, ..hello }), Duration::ZERO);
    messages(&mut relay, link);
    for (event, is_answered) in [(Some(r#"{"e":"12345"}"#), true), (Some(r#"{"e":"123456"}"#), false), (None, true)] {
        let command = Bytes::from_static(br#"{"type":"get_message"}"#);
        let rpc = Rpc { id: 1, target: "s".into(), command, wait_until: None, timeout_ms: None };
        relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
        let (call, _) = asked(&mut relay);
        let event = event.map(|event| Bytes::from_static(event.as_bytes()));
        relay.session_answered(call, Ok((Bytes::from_static(br#"{"a":1}"#), event)), SECOND);
        match messages(&mut relay, link).pop() {
            Some(LinkMessage::RpcResponse { outcome: Outcome::Answer { .. }, .. }) => assert!(is_answered),
            Some(LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. }) => {
                assert!(!is_answered && failure.code == Code::TooLarge, "{failure}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn few_calls_of_a_peer_are_held_and_few_in_all() {
    let mut relay = relay(1, 1);
    relay.session_added(session("s"), Duration::ZERO);
    let links: Vec<LinkId> = (2..12).map(|byte| join(&mut relay, byte)).collect();
    for id in 0..9 {
        rpc(&mut relay, links[0], id, SEND, Duration::ZERO);
    }
    let full = refusal(&mut relay, links[0]);
    assert_eq!((full.code, full.delivered), (Code::Overloaded, Some(false)));
    for (n, link) in links.iter().skip(1).enumerate() {
        (0..8).for_each(|id| rpc(&mut relay, *link, id, SEND, Duration::ZERO));
        let refused = messages(&mut relay, *link).into_iter().filter_map(|message| {
            if let LinkMessage::RpcResponse { outcome: Outcome::Failed(failure), .. } = message {
                Some(failure)
            } else {
                None
            }
        });
        let refused: Vec<Failure> = refused.collect();
        assert_eq!(refused.len(), if n < 7 { 0 } else { 8 }, "64 in all");
        assert!(refused.iter().all(|failure| *failure == full), "it says nothing of others: {refused:?}");
    }
    assert_eq!(relay.held_count(), 64);
    rpc(&mut relay, links[0], 20, r#"{"type":"get_message"}"#, Duration::ZERO);
    assert_eq!(work(&mut relay).len(), 1, "what needs no approval goes on");
    relay.deny("a1-322", None).unwrap();
    messages(&mut relay, links[0]);
    rpc(&mut relay, links[0], 21, SEND, Duration::ZERO);
    assert_eq!(relay.held_count(), 64, "there is room again");
}

#[test]
fn the_bytes_of_held_calls_count_as_in_flight() {
    let (mut relay, link) = consent::asked(2);
    let long = format!(r#"{{"type":"send","message":"{}"}}"#, "x".repeat(60_000));
    (0..5).for_each(|id| rpc(&mut relay, link, id, &long, Duration::ZERO));
    let refused = refusal(&mut relay, link);
    assert_eq!(refused.code, Code::Overloaded, "four times the longest message for one peer");
    assert_eq!((relay.held_count(), relay.pending.bytes()), (4, 4 * long.len()));
    for id in 1..=4 {
        relay.deny(&format!("a{id}-322"), None).unwrap();
    }
    assert_eq!((relay.pending.bytes(), relay.links[&link].call_bytes), (0, 0));
}

#[test]
fn of_a_hello_with_more_sessions_than_are_kept_the_rest_is_not_even_looked_at() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let id = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    let Me { hello, .. } = self::relay(0, 2).me;
    let long = |n: usize| SessionInfo { aliases: vec!["a".repeat(64); 16], ..session(&format!("s{n}")) };
    // One that would fit again comes last.
    let sessions = (0..2000).map(long).chain([session("last")]).collect();
    relay.link_message(id, LinkMessage::Hello(Hello { sessions, ..hello }), Duration::ZERO);
    let kept = &relay.links[&id].sessions;
    assert!((100..1000).contains(&kept.len()), "{}", kept.len());
    assert!(!kept.contains_key("last"));
}

/// What this side's last hello on a link says of another link.
fn says_contested(relay: &mut Relay, id: LinkId) -> bool {
    let hello = messages(relay, id)
        .into_iter()
        .find_map(|message| if let LinkMessage::Hello(hello) = message { Some(hello) } else { None });
    hello.unwrap().contested
}

#[test]
fn a_hello_says_whether_its_sender_holds_another_link() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let first = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    assert!(!says_contested(&mut relay, first), "it is the only one");
    relay.link_message(first, hello_from(2, false, &[]), Duration::ZERO);
    let second = relay.open_link(device(2), true, facts(3), Duration::ZERO).unwrap();
    assert!(says_contested(&mut relay, second));
}

fn checked(id: u64) -> Checked {
    Checked { id, time: String::new(), version: String::new(), results: Vec::new() }
}

#[test]
fn an_answer_to_a_check_that_was_not_asked_is_no_answer() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let id = relay.open_link(device(2), true, facts(2), Duration::ZERO).unwrap();
    let Me { hello, .. } = self::relay(0, 2).me;
    let features = vec![FEATURE_CHECK.into()];
    relay.link_message(id, LinkMessage::Hello(Hello { features, ..hello }), Duration::ZERO);
    let asked = relay.ask_check(device(2), Duration::ZERO).unwrap();
    let number = messages(&mut relay, id)
        .into_iter()
        .find_map(|message| if let LinkMessage::Check(number) = message { Some(number) } else { None });
    let number = number.unwrap();
    let shared = relay.ask_check(device(2), SECOND).unwrap();
    assert_eq!(shared, asked, "who asks meanwhile shares it");
    let answer = |number| LinkMessage::Checked(checked(number));
    relay.link_message(id, answer(number + 1), SECOND);
    assert!(relay.poll_checked(asked, &mut cx()).is_pending());
    relay.link_message(id, answer(number), SECOND);
    assert_eq!(relay.poll_checked(asked, &mut cx()), Poll::Ready(Some(checked(number))));
    let later = relay.ask_check(device(2), SECOND).unwrap();
    assert_ne!(later, asked);
    assert_eq!(relay.poll_checked(asked, &mut cx()), Poll::Ready(None), "a later one has taken its place");
}

#[test]
fn a_check_that_was_made_is_told_under_the_number_of_whoever_asked() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let id = link(&mut relay, 2, &[]);
    messages(&mut relay, id);
    relay.link_message(id, LinkMessage::Check(77), SECOND);
    let Poll::Ready(work) = relay.poll_check(&mut cx()) else { panic!("nothing to be checked") };
    assert_eq!((work.peer, work.link, work.id), (device(2), id, 77));
    relay.check_made(work, checked(0));
    let told = messages(&mut relay, id);
    assert!(matches!(&told[..], [LinkMessage::Checked(Checked { id: 77, .. })]), "{told:?}");
}

#[test]
fn a_time_out_that_a_client_gave_is_not_made_longer_by_the_wait_for_somebody() {
    let mut relay = relay(1, 1);
    pin(&mut relay, 2);
    let link = link(&mut relay, 2, &["s"]);
    let client = relay.open_client();
    ask_with(&mut relay, client, control::Relay { timeout_ms: Some(9000), ..request("s", 1) }, 5, Duration::ZERO);
    let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
    let progress = LinkMessage::RpcProgress { id, code: Code::NeedsApproval, extend_ms: 60_000 };
    relay.link_message(link, progress, SECOND);
    assert_eq!(lines(&mut relay, client)[0]["data"]["expiresInSeconds"], 8, "what is left of it");
    relay.tick(9 * SECOND);
    let failure = lines(&mut relay, client).remove(0);
    assert_eq!((&failure["code"], &failure["delivered"]), (&"timeout".into(), &true.into()), "it may just be approved");
    assert!(failure["hint"].as_str().unwrap().contains("approve"), "{failure}");
    assert!(messages(&mut relay, link).contains(&LinkMessage::Cancel(id)), "and so it is void there");
}

#[test]
fn who_waits_for_a_decision_is_told_before_the_bye_that_nothing_was_begun() {
    for end in [
        |relay: &mut Relay, link| relay.end_link(link, ByeReason::Shutdown, SECOND),
        |relay: &mut Relay, link| relay.break_off(link, "x", SECOND),
    ] {
        let (mut relay, link) = consent::asked(2);
        let other = join(&mut relay, 3);
        rpc(&mut relay, other, 1, SEND, Duration::ZERO);
        rpc(&mut relay, link, 1, SEND, Duration::ZERO);
        rpc(&mut relay, link, 2, r#"{"type":"get_message"}"#, Duration::ZERO);
        messages(&mut relay, link);
        messages(&mut relay, other);
        end(&mut relay, link);
        let said = messages(&mut relay, link);
        let [LinkMessage::RpcResponse { id: 1, outcome: Outcome::Failed(failure) }, LinkMessage::Bye(_)] = &said[..]
        else {
            panic!("{said:?}")
        };
        assert_eq!((failure.code, failure.delivered), (Code::PeerDisconnected, Some(false)));
        assert_eq!(consent::ids(&relay), ["a1-322"], "what others wait for waits on");
        assert_eq!(messages(&mut relay, other), []);
    }
}
