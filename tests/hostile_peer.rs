//! A peer that is paired and means harm: whatever it says, it gets no further than it may, takes
//! nothing over, forges nothing, and uses up nothing that has no bound.

use std::time::{Duration, Instant};

use pi_remote::session::fake::FakeSession;
use pi_remote::wire::frames::MAX_PAYLOAD;
use serde_json::{Value, json};

use crate::support::peer::{HandPeer, Link, announced};
use crate::support::{TestDaemon, eventually, within};

/// A daemon and a peer that it has pinned as `mallory`.
fn victim() -> (TestDaemon, HandPeer) {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    (daemon, peer)
}

fn impatient_victim(config: Value) -> (TestDaemon, HandPeer) {
    let daemon = TestDaemon::start_with("desktop", &[], config);
    let peer = HandPeer::paired(&daemon, "mallory");
    (daemon, peer)
}

fn session_of(daemon: &TestDaemon, id: &str) -> FakeSession {
    let session = FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap();
    let local = format!("desktop/{id}");
    eventually("the daemon sees its session", || daemon.sessions().contains(&local));
    session
}

fn read(target: &str) -> Value {
    json!({"type": "relay", "targetSessionId": target, "rpcCommand": {"type": "get_message"}, "timeoutMs": 5000})
}

/// The resident memory of a daemon, in bytes.
fn resident(daemon: &TestDaemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_before_hello_ends_the_link_and_does_nothing() {
    let (daemon, peer) = victim();
    let session = session_of(&daemon, "s-1");
    for early in [
        json!({"type": "rpc", "id": 1, "targetSessionId": "s-1", "command": {"type": "abort"}}),
        json!({"type": "session_added", "session": announced("s-9")}),
        json!({"type": "heartbeat", "ping": 1}),
    ] {
        let mut link = peer.dial(&daemon);
        link.send(&early);
        let rest = link.rest();
        assert!(rest.iter().all(|message| message["type"] == "bye"), "{early}: {rest:?}");
    }
    assert!(session.received().is_empty());
    assert_eq!(daemon.sessions(), ["desktop/s-1"]);
}

#[test]
fn what_breaks_the_framing_ends_the_link_and_not_the_daemon() {
    let (daemon, peer) = victim();
    let frame = |length: u32, flags: u8, payload: &[u8]| {
        let mut out = length.to_be_bytes().to_vec();
        out.extend([0, 0, 0, 9, flags]);
        out.extend(payload);
        out
    };
    let over = MAX_PAYLOAD + 1;
    let whole = |payload: &[u8]| frame(payload.len() as u32 + 5, 1, payload);
    let deep = |open: &str, close: &str| {
        whole(format!(r#"{{"type":"cancel","id":{}1{}}}"#, open.repeat(10_000), close.repeat(10_000)).as_bytes())
    };
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("a frame one byte over", frame(over as u32 + 5, 1, &vec![b' '; over])),
        ("the longest length", frame(u32::MAX, 1, b"")),
        ("a length below the header", frame(4, 1, b"")),
        ("an empty frame in the middle", frame(5, 0, b"")),
        ("invalid UTF-8", whole(b"{\"type\":\"\xff\xfe\"}")),
        ("no JSON", whole(b"hello")),
        ("nothing", whole(b"")),
        ("a list", whole(b"[1]")),
        ("null", whole(b"null")),
        ("two objects", whole(b"{\"type\":\"bye\"}{\"type\":\"bye\"}")),
        ("deep lists", deep("[", "]")),
        ("deep objects", deep("{\"a\":", "}")),
        ("a line break", whole(b"{\"type\":\n\"heartbeat\",\"ping\":1}")),
        ("a forged line", whole(b"{\"type\":\"rpc_response\",\"id\":1,\"response\":{}\n,\"a\":1}")),
        ("a second hello", whole(peer.hello(&[]).to_string().as_bytes())),
        ("a type twice", whole(b"{\"type\":\"cancel\",\"type\":\"cancel\",\"id\":1}")),
        ("an rpc without a command", whole(b"{\"type\":\"rpc\",\"id\":1,\"targetSessionId\":\"x\"}")),
        ("a negative id", whole(b"{\"type\":\"cancel\",\"id\":-1}")),
    ];
    for (what, bytes) in broken {
        let mut link = peer.link(&daemon, &["s-1"]);
        link.send_raw(&bytes);
        assert_eq!(link.bye(), "protocol_error", "{what}");
        within(Duration::from_secs(1), what, || daemon.sessions().is_empty());
    }
    // The daemon is none the worse for it.
    let mut link = peer.link(&daemon, &[]);
    link.send_bytes(&vec![b' '; MAX_PAYLOAD - 2].into_iter().chain(*b"{}").collect::<Vec<_>>());
    assert_eq!(link.bye(), "protocol_error", "an object without a type");
    assert_eq!(daemon.ask(json!({"type": "status"}))["success"], true);
}

#[test]
fn a_peer_that_breaks_the_protocol_again_and_again_adds_few_lines_to_the_log() {
    let (daemon, peer) = victim();
    for _ in 0..30 {
        let mut link = peer.link(&daemon, &[]);
        link.send_raw(b"\0\0\0\x07\0\0\0\x09\x01[]");
        assert_eq!(link.bye(), "protocol_error");
    }
    let lines = || daemon.log().matches("broke the protocol").count();
    eventually("it is in the log", || lines() >= 20);
    assert_eq!(lines(), 20);
}

#[test]
fn a_frame_at_the_limit_and_types_of_later_versions_are_taken() {
    let (daemon, peer) = victim();
    let mut link = peer.link(&daemon, &[]);
    let padding = "x".repeat(MAX_PAYLOAD - r#"{"type":"later","a":""}"#.len());
    link.send_bytes(format!(r#"{{"type":"later","a":"{padding}"}}"#).as_bytes());
    link.send_bytes(br#"{"type":"later","id":"not a number","session":7,"reason":[]}"#);
    link.send(&json!({"type": "heartbeat"}));
    link.ping();
    assert_eq!(daemon.peer("mallory")["connected"], true);
}

#[test]
fn messages_that_are_never_finished_are_bounded() {
    let (daemon, peer) = impatient_victim(json!({"messageLimit": 65536}));
    let before = resident(&daemon);
    let mut link = peer.link(&daemon, &[]);
    let mut out = bytes::BytesMut::new();
    for message in 0..10_000u32 {
        pi_remote::wire::frames::encode(&mut out, message, &[b' '; 1000], false);
    }
    link.send_raw(&out);
    assert_eq!(link.bye(), "protocol_error");
    let mut link = peer.link(&daemon, &[]);
    // Past 8 MiB, which a hello may have whatever this device's own limit is.
    for _ in 0..140 {
        out.clear();
        pi_remote::wire::frames::encode(&mut out, 1, &vec![b' '; MAX_PAYLOAD], false);
        link.send_raw(&out);
    }
    assert_eq!(link.bye(), "protocol_error");
    // The message as it grew: what it outgrew is given back a second later.
    assert!(resident(&daemon) < before + (32 << 20), "{} bytes, {before} before", resident(&daemon));
    eventually("the memory is back", || resident(&daemon) < before + (4 << 20));
}

#[test]
fn session_ids_that_break_the_rule_are_left_out() {
    let (daemon, peer) = victim();
    let long = "x".repeat(300);
    let bad = ["../x", "a/b", "a\0b", &long, "", ".", "-a", "daemon", "a b", "\u{202e}x"];
    let mut hello = peer.hello(&["good"]);
    let sessions = hello["sessions"].as_array_mut().unwrap();
    sessions.extend(bad.iter().map(|id| announced(id)));
    sessions.extend([json!(null), json!([]), json!({"name": "no id"}), json!({"sessionId": 7, "name": "x"})]);
    let mut link = peer.dial(&daemon);
    link.send(&hello);
    link.until("hello");
    assert_eq!(daemon.sessions(), ["mallory/good"]);
    for id in bad {
        link.send(&json!({"type": "session_added", "session": announced(id)}));
        link.send(&json!({"type": "session_renamed", "session": announced(id)}));
        link.send(&json!({"type": "session_removed", "sessionId": id}));
    }
    link.ping();
    assert_eq!(daemon.sessions(), ["mallory/good"]);
    for id in bad {
        let outcome = link.call(1, id, json!({"type": "get_message"}));
        assert_eq!(outcome["error"]["code"], "session_not_found", "{id:?}: {outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_announces_anothers_session_takes_nothing_over() {
    let (daemon, mallory) = victim();
    let friend = HandPeer::paired(&daemon, "friend");
    let local = session_of(&daemon, "local");
    let mut at_friend = friend.link(&daemon, &["theirs"]);
    let mut at_mallory = mallory.link(&daemon, &["local", "theirs"]);

    let answer = daemon.ask(read("local"));
    assert_eq!(answer["success"], true, "the local one wins: {answer}");
    local.until_received(1).await;
    let ambiguous = daemon.ask(read("theirs"));
    assert_eq!(ambiguous["code"], "session_ambiguous", "{ambiguous}");
    for name in ["friend", "mallory"] {
        assert!(ambiguous["error"].as_str().unwrap().contains(name), "{ambiguous}");
    }
    let mut calling = daemon.control();
    let mut request = read("theirs");
    request["peer"] = "friend".into();
    calling.send(&request);
    let call = at_friend.until("rpc");
    at_friend.answer(&call, json!({"from": "the friend"}));
    assert_eq!(calling.next()["data"]["response"]["from"], "the friend");

    at_mallory.send(&json!({"type": "session_removed", "sessionId": "theirs"}));
    at_mallory.send(&json!({"type": "session_removed", "sessionId": "local"}));
    at_mallory.ping();
    let mut left = daemon.sessions();
    left.sort();
    assert_eq!(left, ["desktop/local", "friend/theirs"], "what others have stays");
}

#[test]
fn a_hello_under_anothers_name_is_shown_under_the_petname() {
    let (daemon, mallory) = victim();
    let friend = HandPeer::paired(&daemon, "friend");
    let _at_friend = friend.link(&daemon, &["theirs"]);
    let mut hello = mallory.hello(&["mine"]);
    hello["name"] = "friend".into();
    hello["fingerprint"] = friend.fingerprint().to_string().into();
    let mut link = mallory.dial(&daemon);
    link.send(&hello);
    link.until("hello");
    assert_eq!(daemon.sessions(), ["friend/theirs", "mallory/mine"]);
    assert_eq!(daemon.peer("friend")["connected"], true, "nobody is pushed out");
    assert_eq!(daemon.peer("mallory")["fingerprint"], mallory.fingerprint().to_string());
}

#[test]
fn an_answer_counts_once_in_time_and_from_whom_it_was_asked() {
    let (daemon, mallory) = victim();
    let friend = HandPeer::paired(&daemon, "friend");
    let mut at_friend = friend.link(&daemon, &["theirs"]);
    let mut at_mallory = mallory.link(&daemon, &["mine"]);
    let mut calling = daemon.control();
    calling.send(&read("theirs"));
    let call = at_friend.until("rpc");
    for id in 0..200 {
        at_mallory.send(&json!({"type": "rpc_response", "id": id, "response": {"from": "mallory"}}));
        at_mallory.send(&json!({"type": "rpc_progress", "id": id, "code": "needs_approval", "extendMs": 1u64 << 40}));
        at_mallory.send(&json!({"type": "cancel", "id": id}));
    }
    at_mallory.ping();
    at_friend.answer(&call, json!({"from": "the friend"}));
    at_friend.answer(&call, json!({"from": "the friend, again"}));
    assert_eq!(calling.next()["data"]["response"]["from"], "the friend");

    let mut late = read("theirs");
    late["timeoutMs"] = 50.into();
    calling.send(&late);
    let call = at_friend.until("rpc");
    assert_eq!(calling.next()["code"], "timeout");
    assert_eq!(at_friend.until("cancel")["id"], call["id"]);
    at_friend.answer(&call, json!({"from": "the friend, too late"}));
    at_friend.ping();
    calling.send(&read("theirs"));
    let call = at_friend.until("rpc");
    at_friend.answer(&call, json!({"from": "the friend, in time"}));
    assert_eq!(calling.next()["data"]["response"]["from"], "the friend, in time");
    assert_eq!(daemon.peer("mallory")["connected"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_peer_may_do_is_forbidden_and_reaches_no_session() {
    let (daemon, peer) = victim();
    let session = session_of(&daemon, "s-1");
    let mut link = peer.link(&daemon, &[]);
    let forbidden = [
        "kill",
        "/kill-daemon",
        "add_peer",
        "remove_peer",
        "grant",
        "revoke",
        "approve",
        "unpair",
        "pair_offer",
        "pair_join",
        "lock",
        "status",
        "list_sessions",
        "relay",
        "SEND",
        "send ",
        "",
        "\u{0}send",
    ];
    for (n, kind) in (1..).zip(forbidden) {
        let outcome = link.call(n, "s-1", json!({"type": kind, "host": "x", "peer": "desktop", "message": "hi"}));
        assert_eq!(outcome["error"]["code"], "forbidden", "{kind}: {outcome}");
        assert_eq!(outcome["error"]["delivered"], false);
    }
    for (n, command) in (100..).zip([json!({}), json!({"type": null}), json!({"type": ["send"]})]) {
        assert_eq!(link.call(n, "s-1", command)["error"]["code"], "forbidden");
    }
    let raw = |link: &mut Link, id: u64, command: &str| {
        link.send_bytes(
            format!(r#"{{"type":"rpc","id":{id},"targetSessionId":"s-1","command":{command}}}"#).as_bytes(),
        );
        let outcome = link.until("rpc_response");
        assert_eq!(outcome["id"], id);
        outcome["error"]["code"].as_str().map(str::to_owned)
    };
    let invalid = [
        r#"{"type":"send","message":"a","message":"b"}"#,
        r#"{"type":"get_message","type":"abort"}"#,
        r#"{"type":"get_message","\u0074ype":"abort"}"#,
        r#"{"type":"send","message":"a","from":{"peer":"friend"}}"#,
        r#"{"type":"send","message":"a","\u0066rom":1}"#,
        r#"[{"type":"send"}]"#,
        r#""send""#,
        "7",
    ];
    for (n, command) in (200..).zip(invalid) {
        assert_eq!(raw(&mut link, n, command).as_deref(), Some("invalid_request"), "{command}");
    }
    assert!(session.received().is_empty(), "{:?}", session.received());
    // Deep nesting does no harm, here or there.
    let deep = format!(r#"{{"type":"get_message","x":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_ne!(raw(&mut link, 300, &deep).as_deref(), Some("internal"));
    assert_eq!(link.call(301, "s-1", json!({"type": "get_message"}))["response"]["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_id_in_use_cannot_be_used_again() {
    let (daemon, peer) = victim();
    let session = session_of(&daemon, "s-1");
    let mut link = peer.link(&daemon, &[]);
    let slow = json!({
        "type": "rpc", "id": 5, "targetSessionId": "s-1", "waitUntil": "turn_end",
        "command": {"type": "send", "message": "SLOW 10000 x"},
    });
    link.send(&slow);
    session.until_received(1).await;
    link.send(&slow);
    assert_eq!(link.bye(), "protocol_error");
    session.until_connections(0).await;
}

#[test]
fn names_that_mislead_are_bounded_and_escaped_wherever_they_are_shown() {
    let daemon = TestDaemon::start("desktop");
    let bad = "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\r\n\u{202e}evil\u{9b}31m\u{200b}";
    let huge = format!("{bad}{}", "n".repeat(10 * 1024));
    let peer = HandPeer::paired(&daemon, &huge);
    let fingerprint = peer.fingerprint().to_string();
    let peers = daemon.ask(json!({"type": "peers"}))["data"]["peers"].clone();
    let petname = peers[0]["name"].as_str().unwrap().to_owned();
    assert!(petname.chars().count() <= 64 && petname.chars().all(|c| c.is_ascii_graphic()), "{petname:?}");

    let mut hello = peer.hello(&[]);
    let tricky = json!({"sessionId": "s-1", "name": huge, "aliases": vec![huge.clone(); 50]});
    hello["sessions"] = json!([tricky]);
    for member in ["name", "version"] {
        hello[member] = huge.clone().into();
    }
    hello["addresses"] = json!([bad, "127.0.0.1:1\n", "x".repeat(10_000)]);
    let mut link = peer.dial(&daemon);
    link.send(&hello);
    link.until("hello");
    let seen = daemon.ask(json!({"type": "list_sessions"}))["data"]["sessions"][0].clone();
    assert!(seen["name"].as_str().unwrap().chars().count() <= 64);
    assert!(seen["aliases"].as_array().unwrap().len() <= 16);

    let harmless = |text: &[u8], what: &str| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let shown = text.chars().find(|c| *c != '\n' && pi_remote::wire::ids::is_unsafe_to_show(*c));
        assert_eq!(shown, None, "{what}: {text:?}");
        assert!(text.len() < 20_000, "{what} is {} bytes long", text.len());
    };
    let answering = std::thread::spawn(move || {
        while let Some(message) = link.next() {
            if message["type"] == "rpc" {
                let text = "\u{1b}]0;title\u{7}\u{202e}";
                let failure = json!({"code": "internal", "message": text, "hint": "rm -rf ~"});
                link.send(&json!({"type": "rpc_response", "id": message["id"], "error": failure}));
            }
        }
    });
    for arguments in [
        vec!["sessions"],
        vec!["peers"],
        vec!["peers", "show", &fingerprint],
        vec!["status"],
        vec!["read", "s-1"],
        vec!["send", "s-1", "hi"],
        vec!["--json", "sessions"],
        vec!["--json", "peers"],
        vec!["--json", "status"],
        vec!["--json", "read", "s-1"],
    ] {
        let output = daemon.cli(&arguments);
        harmless(&output.stdout, &format!("stdout of {arguments:?}"));
        harmless(&output.stderr, &format!("stderr of {arguments:?}"));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("rm -rf"), "a hint of the peer's is not shown");
    }
    daemon.ask(json!({"type": "unpair", "peer": fingerprint}));
    answering.join().unwrap();
}

#[test]
fn an_answer_of_ten_thousand_levels_does_no_harm() {
    let (daemon, peer) = victim();
    let mut link = peer.link(&daemon, &["s-1"]);
    let answering = std::thread::spawn(move || {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for _ in 0..3 {
            let call = link.until("rpc");
            link.send_bytes(format!(r#"{{"type":"rpc_response","id":{},"response":{deep}}}"#, call["id"]).as_bytes());
        }
        link
    });
    let mut control = daemon.control();
    control.send(&read("s-1"));
    let line = control.line().unwrap();
    assert!(line.len() > 20_000 || line.contains("\"code\""), "{line}");
    for arguments in [vec!["read", "s-1"], vec!["--json", "read", "s-1"]] {
        let output = daemon.cli(&arguments);
        assert!(output.status.code().is_some(), "killed by a signal: {output:?}");
    }
    drop(answering.join().unwrap());
    assert_eq!(daemon.ask(json!({"type": "status"}))["success"], true);
}

#[test]
fn a_peer_that_stops_reading_is_bounded_and_dropped() {
    let (daemon, peer) = impatient_victim(json!({"heartbeatInterval": 1, "messageLimit": 1 << 20}));
    let before = resident(&daemon);
    let mut link = peer.link(&daemon, &["s-1"]);
    let mut calling = daemon.control();
    let message = "x".repeat(900_000);
    for n in 0..40 {
        calling.send(&json!({
            "type": "relay", "id": n.to_string(), "targetSessionId": "s-1", "fireAndForget": true,
            "rpcCommand": {"type": "send", "message": message},
        }));
        // It goes on writing, so that it is not simply silent.
        link.send(&json!({"type": "heartbeat", "pong": 1}));
    }
    let answers: Vec<Value> = (0..40).map(|_| calling.next()).collect();
    let full = answers.iter().filter(|answer| answer["code"] == "overloaded").count();
    assert!(full > 0, "some found no room: {}", answers[0]);
    assert!(resident(&daemon) < before + (24 << 20), "{} bytes, {before} before", resident(&daemon));
    let begun = Instant::now();
    while daemon.peer("mallory")["connected"] == true {
        link.send(&json!({"type": "heartbeat", "pong": 1}));
        std::thread::park_timeout(Duration::from_millis(100));
        assert!(begun.elapsed() < Duration::from_secs(8), "it is dropped in time");
    }
    assert!(daemon.sessions().is_empty());
}

#[test]
fn a_flood_of_sessions_is_bounded() {
    let (daemon, peer) = victim();
    let before = resident(&daemon);
    let many: Vec<String> = (0..12_000).map(|n| format!("s-{n}")).collect();
    let mut hello = peer.hello(&[]);
    hello["sessions"] = many.iter().map(|id| announced(id)).collect();
    let mut link = peer.dial(&daemon);
    link.send(&hello);
    link.until("hello");
    let count = || daemon.peer("mallory")["sessionCount"].as_u64().unwrap();
    assert_eq!(count(), 10_000);
    for n in 0..2000 {
        link.send(&json!({"type": "session_added", "session": announced(&format!("more-{n}"))}));
    }
    link.ping();
    assert_eq!(count(), 10_000);
    assert!(resident(&daemon) < before + (64 << 20), "{} bytes, {before} before", resident(&daemon));
}

#[test]
fn a_silent_peer_is_dropped_after_three_heartbeats() {
    let (daemon, peer) = impatient_victim(json!({"heartbeatInterval": 1}));
    let begun = Instant::now();
    let _silent = peer.link(&daemon, &["s-1"]);
    eventually("it is dropped", || daemon.peer("mallory")["connected"] == false);
    assert!((Duration::from_millis(2500)..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(daemon.sessions().is_empty());
}

#[test]
fn many_links_of_one_peer_at_once_leave_one() {
    let (daemon, peer) = victim();
    let mut links: Vec<Link> = (0..30).map(|_| peer.link(&daemon, &["s-1"])).collect();
    let mut last = links.pop().unwrap();
    for link in &mut links {
        assert_eq!(link.bye(), "duplicate");
    }
    last.ping();
    assert_eq!(daemon.sessions(), ["mallory/s-1"]);
    // Connections that never say hello do not pile up either.
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors();
    let dumb: Vec<Link> = (0..200).map(|_| peer.dial(&daemon)).collect();
    last.ping();
    within(Duration::from_secs(3), "all but a few are ended", || descriptors() < before + 20);
    assert_eq!(daemon.sessions(), ["mallory/s-1"]);
    drop(dumb);
}
