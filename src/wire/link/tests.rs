//! The messages come back as they were sent, and nothing else gets through.

use super::*;
use proptest::prelude::*;

fn info() -> SessionInfo {
    SessionInfo { session_id: "s-1".parse().unwrap(), name: "sage-star".into(), aliases: vec!["work".into()] }
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    let hello = Hello {
        instance: u64::MAX,
        version: "0.1.0".into(),
        name: "laptop".into(),
        port: 7433,
        addresses: vec!["192.0.2.1:7433".into()],
        heartbeat_interval: 15,
        message_limit: 65_536,
        features: vec![],
        allows: vec![Verb::Read],
        ask: vec![Verb::Send],
        dial: 3,
        contested: true,
        sessions: vec![info()],
    };
    let rpc = Rpc {
        id: 7,
        target: "s-1".into(),
        command: Bytes::from_static(br#"{"type":"send", "message":"\u00e9"}"#),
        wait_until: Some(WaitUntil::TurnEnd),
        timeout_ms: Some(5),
    };
    let answer = Outcome::Answer { response: Bytes::from_static(b"{ }"), event: Some(Bytes::from_static(b"[1]")) };
    let failed = Outcome::Failed(Failure::new(Code::Timeout, "late").delivered(true));
    for message in [
        LinkMessage::Hello(hello),
        LinkMessage::Ping(1),
        LinkMessage::Pong(2),
        LinkMessage::SessionAdded(info()),
        LinkMessage::SessionRenamed(info()),
        LinkMessage::SessionRemoved("s-1".parse().unwrap()),
        LinkMessage::Rpc(rpc),
        LinkMessage::RpcProgress { id: 1, code: Code::NeedsApproval, extend_ms: 60_000 },
        LinkMessage::RpcResponse { id: 1, outcome: answer },
        LinkMessage::RpcResponse { id: 2, outcome: failed },
        LinkMessage::Cancel(9),
        LinkMessage::Check(10),
        LinkMessage::Checked(Checked {
            id: 10,
            time: "2026-01-01T00:00:00.000Z".into(),
            version: "0.1.0".into(),
            results: vec![TriedThere { address: "192.0.2.1:7433".into(), found: FoundThere::NotReached }],
        }),
        LinkMessage::Allows(Allows { verbs: vec![Verb::List], ask: vec![Verb::Send, Verb::Control] }),
        LinkMessage::Bye(ByeReason::Duplicate),
        LinkMessage::Request("grant"),
        LinkMessage::Unknown,
    ] {
        assert_eq!(LinkMessage::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn unknown_types_members_and_reasons_are_ignored() {
    let decode = |text: &'static str| LinkMessage::decode(&Bytes::from(text)).unwrap();
    assert_eq!(decode(r#"{"type":"novelty","id":"x"}"#), LinkMessage::Unknown);
    assert_eq!(decode(r#"{"type":"session_removed","sessionId":"../x"}"#), LinkMessage::Unknown);
    assert_eq!(decode(r#"{"type":"cancel","id":1,"more":[]}"#), LinkMessage::Cancel(1));
    assert_eq!(decode(r#"{"type":"bye","reason":"novelty"}"#), LinkMessage::Bye(ByeReason::Other));
    assert_eq!(decode(r#"{"type":"heartbeat"}"#), LinkMessage::Unknown);
}

#[test]
fn a_request_of_the_control_socket_is_known_for_what_it_is_whatever_its_members_are() {
    for kind in request::TYPES {
        for members in ["", r#","id":"x""#, r#","session":7,"reason":[],"code":{},"command":null"#] {
            let text = Bytes::from(format!(r#"{{"type":"{kind}"{members}}}"#));
            assert_eq!(LinkMessage::decode(&text).unwrap(), LinkMessage::Request(kind), "{members}");
            let read = request::Request::read(&text).1;
            assert!(read.err().is_none_or(|failure| failure.code != Code::UnknownCommand), "{kind} is no request");
        }
        assert!(!TYPES.contains(kind), "{kind} means something on a link");
    }
}

#[test]
fn verbs_and_moments_of_a_later_version_end_no_link() {
    let decode = |text: &'static str| LinkMessage::decode(&Bytes::from(text)).unwrap();
    let hello = r#"{"type":"hello","instance":1,"allows":["list","dance",{"send":1},"send"]}"#;
    let LinkMessage::Hello(hello) = decode(hello) else { panic!("no hello") };
    assert_eq!(hello.allows, [Verb::List, Verb::Send]);
    assert_eq!(hello.message_limit, 8 << 20, "what an earlier version takes");
    for (until, read) in [
        ("\"turn_end\"", Some(WaitUntil::TurnEnd)),
        ("\"later\"", Some(WaitUntil::Unknown)),
        ("{\"event\":5}", Some(WaitUntil::Unknown)),
        ("null", None),
    ] {
        let text = format!(r#"{{"type":"rpc","id":1,"targetSessionId":"s","command":{{}},"waitUntil":{until}}}"#);
        let LinkMessage::Rpc(rpc) = LinkMessage::decode(&Bytes::from(text)).unwrap() else { panic!("no call") };
        assert_eq!(rpc.wait_until, read, "{until}");
    }
}

#[test]
fn sessions_that_break_the_id_rule_are_left_out_and_long_names_cut() {
    let text = format!(
        r#"{{"type":"hello","instance":1,"sessions":[{{"sessionId":"a/b","name":"x"}},{{"sessionId":"ok","name":"{}"}},5]}}"#,
        "\u{e9}".repeat(5000)
    );
    let LinkMessage::Hello(hello) = LinkMessage::decode(&Bytes::from(text)).unwrap() else { panic!("no hello") };
    assert_eq!(hello.sessions.len(), 1);
    assert_eq!(hello.sessions[0].name.chars().count(), MAX_NAME);
}

#[test]
fn what_a_peer_found_is_cut_and_a_finding_of_a_later_version_is_another() {
    let evil = "run this; ".repeat(500);
    let other = format!(r#"{{"address":"192.0.2.1:1","found":"teleported","detail":"{evil}"}}"#);
    let nowhere = format!(r#"{{"address":"{evil}","found":"reached"}}"#);
    let tried = [nowhere.as_str(), &other].repeat(20).join(",");
    let text = format!(r#"{{"type":"checked","id":1,"version":"{}","results":[{tried}]}}"#, "9".repeat(5000));
    let LinkMessage::Checked(checked) = LinkMessage::decode(&Bytes::from(text)).unwrap() else { panic!("not checked") };
    assert_eq!((checked.results.len(), checked.version.len()), (MAX_ADDRESSES, MAX_VERSION));
    for tried in checked.results {
        assert_eq!(tried, TriedThere { address: "192.0.2.1:1".into(), found: FoundThere::Other });
    }
}

#[test]
fn what_breaks_the_rules_is_refused() {
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"rpc","id":1}"#,
        r#"{"type":"rpc","id":-1}"#,
        r#"{"type":"session_removed"}"#,
        r#"{"type":"rpc_response","id":1}"#,
        r#"{"type":"rpc_response","id":1,"response":{},"error":{"code":"timeout","message":""}}"#,
        "{\"type\":\"rpc_response\",\"id\":1,\"response\":[\n{}\n]}",
        r#"{"type":"cancel","id":1,"id":2}"#,
        r#"{"type":"check"}"#,
        r#"{"type":"checked","results":[]}"#,
        r#"{"type":"checked","id":1,"results":[7]}"#,
    ] {
        assert!(LinkMessage::decode(&Bytes::from(text)).is_err(), "{text}");
    }
    assert!(LinkMessage::decode(&Bytes::from_static(b"{\"type\":\"\xff\"}")).is_err());
}

#[test]
fn what_is_wrong_with_a_message_is_told_without_quoting_it() {
    let long = "\u{1b}]52;evil".repeat(100_000);
    for text in [
        format!(r#"{{"type":"bye","reason":{{"{long}":1}}}}"#),
        format!(r#"{{"type":"rpc_response","id":1,"error":"{long}"}}"#),
        format!(r#"{{"type":"hello","instance":"{long}"}}"#),
        format!(r#"{{"type":"cancel","id":"{long}"}}"#),
        format!(r#"{{"type":"heartbeat","ping":{long}}}"#),
    ] {
        let error = LinkMessage::decode(&Bytes::from(text)).unwrap_err();
        assert!(std::error::Error::source(&error).is_none());
        for told in [error.to_string(), format!("{error:?}")] {
            assert!(told.len() < 200 && !told.contains("evil"), "{}", &told[..200.min(told.len())]);
        }
    }
}

#[test]
fn deep_nesting_does_no_harm() {
    let deep = format!(r#"{{"type":"rpc_response","id":1,"response":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(LinkMessage::decode(&Bytes::from(deep)).is_ok());
    let deep = format!(r#"{{"type":"hello","sessions":{}"#, "[".repeat(10_000));
    assert!(LinkMessage::decode(&Bytes::from(deep)).is_err());
}

proptest! {
    #[test]
    fn payloads_travel_byte_for_byte(text in "[ a-zA-Z0-9\u{e9}\\t]{0,40}", id in any::<u64>()) {
        let payload = Bytes::from(serde_json::json!({ "x": text }).to_string());
        let message = LinkMessage::RpcResponse { id, outcome: Outcome::Answer { response: payload, event: None } };
        prop_assert_eq!(LinkMessage::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = LinkMessage::decode(&Bytes::from(bytes));
    }
}
