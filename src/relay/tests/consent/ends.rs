//! Held calls that come to nothing, and calls that are not even held.

use super::*;

#[test]
fn what_ends_a_right_ends_what_waits_for_it_with_the_answer_of_a_new_call() {
    type Change = fn(&mut Relay);
    let changes: [(&str, Change, &str); 4] = [
        ("locked", |relay| relay.set_locked(true, SECOND), "Session s not found"),
        ("read", |relay| relay.set_peer(device(2), standing(2, Preset::Read), SECOND), "send is not open"),
        ("none", |relay| relay.set_peer(device(2), standing(2, Preset::None), SECOND), "Session s not found"),
        ("gone", |relay| relay.session_removed(&"s".parse().unwrap(), SECOND), "Session s not found"),
    ];
    for (how, change, words) in changes {
        let (mut relay, link) = asked(2);
        let client = relay.open_client();
        relay.subscribe(client);
        rpc(&mut relay, link, 1, SEND, Duration::ZERO);
        change(&mut relay);
        let held = refusal(&mut relay, link);
        rpc(&mut relay, link, 2, SEND, SECOND);
        assert_eq!(held, refusal(&mut relay, link), "{how}");
        assert!(held.message.starts_with(words), "{how}: {held}");
        assert!(ids(&relay).is_empty() && relay.pending.is_empty() && work(&mut relay).is_empty(), "{how}");
        assert_eq!(resolved(&mut relay, client), [("a1-322".into(), "void".into())], "{how}: nobody has denied it");
        let entry = trail(&mut relay).pop().unwrap();
        let recorded = (entry.action, entry.data.unwrap()["decision"].clone(), entry.failed);
        assert_eq!(recorded, (Action::Deny, "void".into(), Some((held.code, held.message))), "{how}");
    }
}

#[test]
fn what_waits_for_a_turn_to_end_ends_with_its_right_and_the_words_of_a_new_call() {
    type Change = fn(&mut Relay);
    let changes: [(&str, Change); 3] = [
        ("locked", |relay| relay.set_locked(true, SECOND)),
        ("read", |relay| relay.set_peer(device(2), standing(2, Preset::Read), SECOND)),
        ("none", |relay| relay.set_peer(device(2), standing(2, Preset::None), SECOND)),
    ];
    for (how, change) in changes {
        let (mut relay, link) = asked(2);
        let wait = |relay: &mut Relay, id| {
            let (command, wait_until) = (SEND.into(), Some(WaitUntil::TurnEnd));
            let rpc = Rpc { id, target: "s".into(), command, wait_until, timeout_ms: None };
            relay.link_message(link, LinkMessage::Rpc(rpc), SECOND);
        };
        wait(&mut relay, 1);
        approve(&mut relay, "a1-322", SECOND).unwrap();
        change(&mut relay);
        let ended = refusal(&mut relay, link);
        wait(&mut relay, 2);
        let new = refusal(&mut relay, link);
        assert_eq!((ended.delivered, new.delivered), (Some(true), Some(false)), "{how}: it has begun");
        assert_eq!((ended.code, ended.message, ended.hint), (new.code, new.message, new.hint), "{how}");
    }
}

#[test]
fn nothing_is_worked_out_of_a_call_that_is_refused_whatever_it_says() {
    let (mut relay, link) = asked(2);
    relay.session_added(session("hidden"), Duration::ZERO);
    let mut some = standing(2, Preset::Ask);
    some.grants[0].sessions = vec!["id:s".parse().unwrap()];
    some.calls_per_minute = Some(20);
    relay.set_peer(device(2), some, Duration::ZERO);
    let call = |target: &str, bytes| {
        let command = Bytes::from(format!("{SEND}{}", " ".repeat(bytes)));
        Rpc { id: 100, target: target.into(), command, wait_until: None, timeout_ms: None }
    };
    let may_ask = |relay: &Relay, target, bytes| relay.may_ask_about(link, &call(target, bytes), Duration::ZERO);
    assert!(may_ask(&relay, "s", 0));
    for absent in ["hidden", "gone", "no/id"] {
        assert!(!may_ask(&relay, absent, 0), "{absent}");
    }
    let longest = relay.limits.message - SEND.len();
    assert!(may_ask(&relay, "s", longest) && !may_ask(&relay, "s", longest + 1), "too long");
    (0..8).for_each(|id| rpc(&mut relay, link, id, SEND, Duration::ZERO));
    assert!(!may_ask(&relay, "s", 0), "as many are held as may be");
    relay.deny("a1-322", None).unwrap();
    assert!(may_ask(&relay, "s", 0));
    (8..19).for_each(|id| rpc(&mut relay, link, id, "{}", Duration::ZERO));
    assert!(may_ask(&relay, "s", 0), "the last of its minute, and looking at it has cost nothing");
    rpc(&mut relay, link, 19, "{}", Duration::ZERO);
    assert!(!may_ask(&relay, "s", 0), "beyond its minute");
    let later = 10 * SECOND;
    assert!(relay.may_ask_about(link, &call("s", 0), later));
    relay.set_locked(true, later);
    assert!(!relay.may_ask_about(link, &call("s", 0), later), "locked");
    relay.set_locked(false, later);
    relay.link_closed(link, LinkEnd::Silent, later);
    assert!(!relay.may_ask_about(link, &call("s", 0), later), "its link is gone");
}

#[test]
fn whoever_names_what_has_ended_is_told_how() {
    let (mut relay, link) = asked(2);
    (1..5).for_each(|id| rpc(&mut relay, link, id, SEND, Duration::ZERO));
    let ahead = Approve { for_seconds: Some(9), ..yes(&relay, "a1-322") };
    assert_eq!(relay.approve(&ahead, None, SECOND).unwrap().session(), "name-s");
    relay.deny("a2-322", None).unwrap();
    relay.deny("s1-322", None).unwrap();
    relay.link_message(link, LinkMessage::Cancel(3), SECOND);
    relay.link_heard(link, HOLD);
    relay.tick(HOLD);
    for (id, words) in [
        ("a1-322", "a1-322 was approved already"),
        ("a2-322", "a2-322 was denied already"),
        ("a3-322", "a3-322 is void: "),
        ("a4-322", "a4-322 has expired: "),
        ("s1-322", "s1-322 has ended already: "),
        ("a9-322", "No call that waits for approval is named a9-322"),
    ] {
        let failures = [relay.deny(id, None).unwrap_err(), relay.approve(&yes(&relay, id), None, HOLD).unwrap_err()];
        for failure in failures {
            assert!(failure.code == Code::NotFound && failure.message.starts_with(words), "{id}: {failure}");
        }
    }
}

#[test]
fn a_held_call_is_void_once_whoever_asked_has_gone() {
    type End = fn(&mut Relay, LinkId);
    let ends: [(&str, End); 4] = [
        ("cancelled", |relay, link| drop(relay.link_message(link, LinkMessage::Cancel(1), SECOND))),
        ("its link ended", |relay, link| relay.link_closed(link, LinkEnd::Lost("x".into()), SECOND)),
        ("unpaired", |relay, _| {
            relay.unpin(device(2), SECOND);
        }),
        ("the daemon goes down", |relay, _| relay.end_all_links(SECOND)),
    ];
    for (how, end) in ends {
        let (mut relay, link) = asked(2);
        let client = relay.open_client();
        relay.subscribe(client);
        rpc(&mut relay, link, 1, SEND, Duration::ZERO);
        end(&mut relay, link);
        assert_eq!(resolved(&mut relay, client), [("a1-322".into(), "void".into())], "{how}");
        assert_eq!(approve(&mut relay, "a1-322", SECOND), Err(Code::NotFound), "{how}");
        assert!(work(&mut relay).is_empty() && relay.pending.is_empty(), "{how}: nothing is left");
    }
}

#[test]
fn a_subscriber_that_missed_a_call_that_waits_is_told_how_many_wait() {
    let (mut relay, link) = asked(2);
    let client = relay.open_client();
    relay.subscribe(client);
    // A peer's sessions come and go, and fill what waits for a slow reader.
    for n in 0..100 {
        relay.link_message(link, LinkMessage::SessionAdded(session(&format!("far{n}"))), SECOND);
    }
    rpc(&mut relay, link, 1, SEND, SECOND);
    let seen = lines(&mut relay, client);
    assert!(seen.iter().all(|line| line["event"] != "approval_requested"), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!((&last["event"], &last["data"]), (&"lagged".into(), &serde_json::json!({"missed": 37, "approvals": 1})));
}
