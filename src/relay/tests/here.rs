//! The sessions of this machine as they come and go, and the ends of what they are asked.

use serde_json::json;

use super::*;

/// How an answer and an event that have so many bytes together end.
fn ends_with(limit: usize, response: usize, event: Option<usize>) -> Value {
    let mut relay = relay(1, 1);
    relay.limits.message = limit;
    relay.session_added(session("s"), Duration::ZERO);
    let client = relay.open_client();
    ask(&mut relay, client, "s", 1, Duration::ZERO);
    let Some(SessionWork::Call { call, .. }) = work(&mut relay).pop() else { panic!("nothing is asked") };
    let text = |length: usize| Bytes::from(format!("\"{}\"", "x".repeat(length - 2)));
    relay.session_answered(call, Ok((text(response), event.map(text))), SECOND);
    lines(&mut relay, client).remove(0)
}

#[test]
fn an_answer_and_its_event_fit_one_message_together() {
    for (response, event) in [(100, None), (60, Some(40))] {
        assert_eq!(ends_with(100, response, event)["success"], true, "{response} {event:?}");
        let failed = ends_with(99, response, event);
        assert_eq!(failed["code"], "too_large", "{failed}");
    }
}

#[test]
fn what_is_renamed_is_told_of_as_that_if_it_was_there_and_else_as_new() {
    let mut relay = relay(1, 1);
    let client = relay.open_client();
    relay.subscribe(client);
    assert_eq!(relay.local_session_count(), 0);
    for (id, event) in [("s", "session_added"), ("s", "session_renamed"), ("t", "session_added")] {
        relay.session_renamed(session(id), SECOND);
        let told = lines(&mut relay, client);
        assert_eq!((told.len(), &told[0]["event"]), (1, &json!(event)), "{id}");
    }
    assert_eq!(relay.local_session_count(), 2);
    relay.session_removed(&"s".parse().unwrap(), SECOND);
    assert_eq!(relay.local_session_count(), 1);
}

#[test]
fn a_call_that_was_given_more_time_says_how_long_it_has_waited_in_all() {
    let waited = |extensions: usize| {
        let mut relay = relay(1, 1);
        pin(&mut relay, 2);
        let link = link(&mut relay, 2, &["s"]);
        let client = relay.open_client();
        ask(&mut relay, client, "s", 1, Duration::ZERO);
        let id = messages(&mut relay, link).into_iter().find_map(rpc_id).unwrap();
        for _ in 0..extensions {
            let more = LinkMessage::RpcProgress { id, code: Code::NeedsApproval, extend_ms: 7000 };
            relay.link_message(link, more, SECOND);
        }
        let mut now = SECOND;
        while let Some(due) = relay.tick(now) {
            now = due;
            relay.tick(due);
            for message in messages(&mut relay, link) {
                if let LinkMessage::Ping(number) = message {
                    relay.link_message(link, LinkMessage::Pong(number), due);
                }
            }
            if let Some(line) = lines(&mut relay, client).iter().find(|line| line["type"] == "response") {
                let words = line["error"].as_str().unwrap();
                return words.split(|c: char| !c.is_ascii_digit()).find_map(|n| n.parse::<u64>().ok()).unwrap();
            }
        }
        panic!("it waits for good")
    };
    assert_eq!(waited(1) - waited(0), 7000);
    assert_eq!(waited(2) - waited(0), 14_000);
}
