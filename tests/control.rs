//! The control socket: what its clients are promised, one by one and all at once.

use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pi_remote::session::fake::{FakeBehaviour, FakeSession};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::process::resident_kib;
use crate::support::scripted::Scripted;
use crate::support::{Control, DEADLINE, TestDaemon, eventually};

/// The default limit of a line, in bytes.
const LIMIT: usize = 8 * 1024 * 1024;

fn relay(session: &str, command: Value) -> Value {
    json!({"type": "relay", "targetSessionId": session, "rpcCommand": command})
}

fn with(mut request: Value, members: Value) -> Value {
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    request
}

fn send(session: &str, message: &str) -> Value {
    relay(session, json!({"type": "send", "message": message}))
}

fn read(session: &str) -> Value {
    relay(session, json!({"type": "get_message"}))
}

fn fake(daemon: &TestDaemon, id: &str, behaviour: FakeBehaviour) -> FakeSession {
    let session = FakeSession::start_with(&daemon.dir, &id.parse().unwrap(), behaviour).unwrap();
    until_listed(daemon, id);
    session
}

fn until_listed(daemon: &TestDaemon, id: &str) {
    eventually("the session is listed", || daemon.sessions().iter().any(|listed| listed.ends_with(&format!("/{id}"))));
}

fn lives(daemon: &TestDaemon) {
    assert_eq!(daemon.ask(json!({"type": "status"}))["success"], true, "the daemon lives");
}

/// What a fake session was sent, by `send`s.
fn messages(session: &FakeSession) -> Vec<String> {
    let commands = session.received();
    let commands = commands.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
    commands.filter_map(|command| command["message"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_to_a_silent_session_holds_up_nothing_behind_it() {
    let daemon = TestDaemon::start("a");
    let _silent = fake(&daemon, "silent", FakeBehaviour::default().never_read());
    let _quick = fake(&daemon, "quick", FakeBehaviour::default());
    let mut client = daemon.control();
    client.send(&with(read("silent"), json!({"id": "held", "timeoutMs": 500})));
    client.send(&json!({"type": "status", "id": "status"}));
    client.send(&with(read("quick"), json!({"id": "quick"})));
    let first: HashSet<String> = [client.next(), client.next()].map(|line| line["id"].as_str().unwrap().into()).into();
    assert_eq!(first, HashSet::from(["status".into(), "quick".into()]));
    let held = client.next();
    assert_eq!(
        (&held["id"], &held["error"], &held["code"], &held["success"]),
        (&"held".into(), &"Error: Relay timeout after 500ms".into(), &"timeout".into(), &false.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_hundred_relays_in_flight_gets_its_own_answer_in_any_order() {
    let daemon = TestDaemon::start("a");
    let _session = Scripted::start(&daemon.dir, "s", |line| async move {
        let number = serde_json::from_str::<Value>(&line).unwrap()["n"].as_u64().unwrap();
        // The later asked, the earlier answered, as far as they are asked at once.
        tokio::time::sleep(Duration::from_millis(200 - number)).await;
        format!(r#"{{"type":"response","n":{number}}}"#).into_bytes()
    });
    until_listed(&daemon, "s");
    let mut client = daemon.control();
    for n in 0..100 {
        // The request ids are repeated: they are the client's own affair.
        let ids = json!({"id": format!("i{n}"), "requestId": n % 3});
        client.send(&with(relay("s", json!({"type": "x", "n": n})), ids));
    }
    let mut order = Vec::new();
    for _ in 0..100 {
        let answer = client.next();
        let n = answer["data"]["response"]["n"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!((&answer["id"], &answer["data"]["requestId"]), (&format!("i{n}").into(), &(n % 3).into()));
        order.push(n);
    }
    assert!(!order.is_sorted(), "answers come as they are there");
    order.sort_unstable();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_of_any_kind_comes_back_as_it_was_written() {
    let daemon = TestDaemon::start("a");
    let _session = Scripted::always(&daemon.dir, "s", r#"{"type":"response"}"#);
    until_listed(&daemon, "s");
    let mut client = daemon.control();
    for id in [
        "\"r\"",
        "\"\"",
        "1",
        "1.0",
        "-0",
        "1e400",
        "null",
        "true",
        "[1, {}]",
        r#"{"a" : "b","a":2}"#,
        r#""\u00e9\u0000é""#,
        "123456789012345678901234567890",
    ] {
        client.send_raw(
            format!(r#"{{"type":"relay","targetSessionId":"s","rpcCommand":{{"type":"x"}},"requestId":{id}}}"#)
                .as_bytes(),
        );
        client.send_raw(b"\n");
        let line = client.line().unwrap();
        assert!(line.contains(&format!(r#""data":{{"requestId":{id},"response":"#)), "{id}: {line}");
    }
    let answer = client.ask(relay("s", json!({"type": "x"})));
    assert_eq!(answer["data"], json!({"response": {"type": "response"}}), "none given, none echoed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_of_any_kind_stands_in_a_message_status_too() {
    let daemon = TestDaemon::start("a");
    let _session = fake(&daemon, "s", FakeBehaviour::default().close_without_answer());
    let mut client = daemon.control();
    client.ask(json!({"type": "subscribe"}));
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    for id in ["1.0", "123456789012345678901234567890", "1e400", &deep] {
        let request =
            r#"{"type":"relay","targetSessionId":"s","rpcCommand":{"type":"x"},"fireAndForget":true,"requestId":"#;
        client.send_raw(format!("{request}{id}}}\n").as_bytes());
        let mut line = client.line().unwrap();
        while !line.contains("message_status") {
            line = client.line().unwrap();
        }
        assert!(line.contains(&format!(r#""requestId":{id}"#)), "{id}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_and_answer_pass_byte_for_byte() {
    let daemon = TestDaemon::start("a");
    let answers = [
        r#"{"type":"response","command":"x","success":true}"#,
        r#"{ "type" :"response" ,	"data":{"a":1,"a":2, "n":1.000, "big":12345678901234567890123} }"#,
        r#"{"type":"again","text":"\u00e9\/é\ud83d\ude00😀\u0000","success":1,"success":true,"type":"response"}"#,
        r#"{"type":"response","lone":"\ud800","e":1e999,"neg":-0.0,"":[]}"#,
    ];
    for (n, answer) in answers.iter().enumerate() {
        let id = format!("s{n}");
        let session = Scripted::always(&daemon.dir, &id, *answer);
        until_listed(&daemon, &id);
        let command = r#"{ "type":"x","type":"y" ,"\u0061":[1.0,"\ud800", {"k":1,"k":2}]	}"#;
        let mut client = daemon.control();
        let request = format!(r#"{{"rpcCommand":{command},"requestId":"r","targetSessionId":"{id}","type":"relay"}}"#);
        client.send_raw((request + "\n").as_bytes());
        let expected = r#"{"type":"response","command":"relay","success":true,"data":{"requestId":"r","response":"#;
        assert_eq!(client.line().unwrap(), format!("{expected}{answer}}}}}\n"));
        assert_eq!(session.received(), [command]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_null_or_text_goes_to_the_session_too() {
    let daemon = TestDaemon::start("a");
    let _session = fake(&daemon, "s", FakeBehaviour::default());
    for command in [json!(null), json!("text"), json!(5), json!([])] {
        let answer = daemon.ask(relay("s", command.clone()));
        assert_eq!(answer["data"]["response"]["command"], "parse", "{command}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fired_is_queued_at_once_and_a_later_failure_is_an_event() {
    let daemon = TestDaemon::start("a");
    let _silent = fake(&daemon, "silent", FakeBehaviour::default().never_read());
    let _broken = fake(&daemon, "broken", FakeBehaviour::default().close_without_answer());
    let mut subscriber = daemon.control();
    subscriber.ask(json!({"type": "subscribe"}));
    let fire = |session, id| with(send(session, "x"), json!({"fireAndForget": true, "requestId": id}));
    for (session, id) in [("silent", "1"), ("broken", "2")] {
        let queued = daemon.ask(fire(session, id));
        assert_eq!(queued["data"], json!({"requestId": id, "queued": true}));
    }
    let status = subscriber.until(|line| line["event"] == "message_status");
    let data = &status["data"];
    assert_eq!(
        (&data["requestId"], &data["sessionId"], &data["status"], &data["code"]),
        (&"2".into(), &"broken".into(), &"failed".into(), &"session_refused".into())
    );
    let missing = daemon.ask(fire("missing", "3"));
    assert_eq!((&missing["success"], &missing["code"]), (&false.into(), &"session_not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fired_arrives_though_its_client_has_closed_at_once() {
    let daemon = TestDaemon::start("a");
    let session = fake(&daemon, "s", FakeBehaviour::default());
    for round in 0..10 {
        let lines: String = (0..50)
            .map(|n| with(send("s", &format!("{round}-{n} {}", "x".repeat(400))), json!({"fireAndForget": true})))
            .map(|request| format!("{request}\n"))
            .collect();
        daemon.control().send_raw(lines.as_bytes());
    }
    tokio::time::timeout(DEADLINE, session.until_received(500)).await.expect("all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_for_what_it_was_told_to_wait_for() {
    let daemon = TestDaemon::start("a");
    let session = fake(&daemon, "s", FakeBehaviour::default());
    let answer = daemon.ask(with(send("s", "SLOW 200 a"), json!({"waitUntil": "turn_end", "requestId": 1})));
    assert_eq!(answer["data"]["response"]["data"]["delivered"], true, "{answer}");
    assert_eq!(answer["data"]["event"]["message"]["content"], "echo: SLOW 200 a");
    assert_eq!(answer["data"]["event"]["turnIndex"], 0);
    let begun = Instant::now();
    let answer = daemon.ask(with(send("s", "SLOW 60000 b"), json!({"waitUntil": "message_processed"})));
    assert!(answer["data"]["response"]["success"] == true && answer["data"].get("event").is_none(), "{answer}");
    let answer = daemon.ask(with(send("s", "c"), json!({"waitUntil": "turn_end", "timeoutMs": 300})));
    assert_eq!((&answer["code"], &answer["error"]), (&"timeout".into(), &"Error: Relay timeout after 300ms".into()));
    assert!(begun.elapsed() < Duration::from_secs(30));
    let answer = daemon.ask(with(read("s"), json!({"waitUntil": "turn_end"})));
    assert_eq!(answer["code"], "invalid_request");
    tokio::time::timeout(DEADLINE, session.until_connections(0)).await.expect("what timed out is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_to_one_session_arrive_in_the_order_they_were_made() {
    let daemon = TestDaemon::start("a");
    for (id, behaviour, count) in [
        ("quick", FakeBehaviour::default(), 250),
        ("slow", FakeBehaviour::default().with_delay(Duration::from_millis(5)), 100),
    ] {
        let session = fake(&daemon, id, behaviour);
        for round in 0..3 {
            let mut client = daemon.control();
            let lines: String = (0..count).map(|n| format!("{}\n", send(id, &format!("{round} {n}")))).collect();
            client.send_raw(lines.as_bytes());
            for _ in 0..count {
                assert_eq!(client.next()["success"], true);
            }
        }
        let expected = (0..3).flat_map(|round| (0..count).map(move |n| format!("{round} {n}")));
        assert_eq!(messages(&session), expected.collect::<Vec<_>>(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_that_wait_their_turn_hold_up_no_reading_of_the_session() {
    let daemon = TestDaemon::start("a");
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let session = Scripted::start(&daemon.dir, "s", move |line| {
        let released = Arc::clone(&released);
        async move {
            if line.contains("send") {
                released.notified().await;
            }
            br#"{"type":"response"}"#.to_vec()
        }
    });
    until_listed(&daemon, "s");
    let mut client = daemon.control();
    (0..100).for_each(|_| client.send(&send("s", "x")));
    client.ask(json!({"type": "status"}));
    eventually("the first has arrived", || !session.received().is_empty());
    client.send(&with(read("s"), json!({"id": "read", "timeoutMs": 5000})));
    let answer = client.next();
    assert_eq!((&answer["id"], &answer["success"]), (&"read".into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_closed_its_sending_half_gets_every_answer_and_then_the_end() {
    let daemon = TestDaemon::start("a");
    let _session = fake(&daemon, "s", FakeBehaviour::default().with_delay(Duration::from_millis(20)));
    let mut client = daemon.control();
    for n in 0..40 {
        client.send(&with(read("s"), json!({"id": n.to_string()})));
    }
    client.send(&json!({"type": "status", "id": "status"}));
    client.stream().shutdown(Shutdown::Write).unwrap();
    let mut ids = HashSet::new();
    while let Some(line) = client.line() {
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["success"] == true && ids.insert(answer["id"].to_string()), "{answer}");
    }
    assert_eq!(ids.len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_holds_no_session_for_more_than_a_second() {
    let daemon = TestDaemon::start("a");
    let session = fake(&daemon, "s", FakeBehaviour::default());
    // As many as one client may have in flight, so that nothing more is read from it.
    for count in [1, 300] {
        let mut client = daemon.control();
        daemon.ask(send("s", "SLOW 60000 a"));
        for _ in 0..count {
            client.send(&with(send("s", "b"), json!({"waitUntil": "turn_end"})));
        }
        let connections = count.min(2);
        eventually("calls are under way", || session.open_connections() >= connections);
        drop(client);
        let gone = tokio::time::timeout(Duration::from_secs(1), session.until_connections(0)).await;
        assert!(gone.is_ok(), "{} connections after a second, of {count} calls", session.open_connections());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_the_limit_passes_and_one_byte_more_closes_with_nothing_else_lost() {
    let daemon = TestDaemon::start("a");
    let session = fake(&daemon, "s", FakeBehaviour::default());
    // Its last message is short, so that its answers come soon.
    let _other = fake(&daemon, "t", FakeBehaviour::default());
    let empty = send("s", "").to_string().len();
    let at_limit = send("s", &"x".repeat(LIMIT - empty)).to_string();
    assert_eq!(at_limit.len(), LIMIT);
    let mut client = daemon.control();
    client.send_raw((at_limit.clone() + "\n").as_bytes());
    assert_eq!(client.next()["success"], true);
    assert_eq!(session.received()[0].len(), LIMIT - (empty - json!({"type": "send", "message": ""}).to_string().len()));

    let mut other = daemon.control();
    for n in 0..20 {
        client.send(&with(read("t"), json!({"id": n.to_string()})));
    }
    // Nobody reads the rest of a line that is too long, so writing it may fail.
    let mut over = at_limit.replacen("xx", "xxx", 1);
    over.push('\n');
    let writer = client.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut &writer, over.as_bytes()).is_ok());
    let mut lines = Vec::new();
    while let Some(line) = client.line() {
        lines.push(line);
    }
    let _ = writing.join();
    assert_eq!(lines.pop().unwrap(), "{\"type\":\"error\",\"error\":\"Message size exceeds 8388608 bytes\"}\n");
    assert_eq!(lines.len(), 20, "what was asked before is answered");
    assert_eq!(other.ask(json!({"type": "status"}))["success"], true, "others notice nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_limit_passes_and_one_byte_more_is_too_large() {
    let daemon = TestDaemon::start("a");
    let answer = |length: usize| {
        let empty = r#"{"type":"response","data":""}"#;
        empty.replace("\"\"", &format!("\"{}\"", "y".repeat(length - empty.len())))
    };
    let _fits = Scripted::always(&daemon.dir, "fits", answer(LIMIT));
    let _over = Scripted::always(&daemon.dir, "over", answer(LIMIT + 1));
    until_listed(&daemon, "fits");
    until_listed(&daemon, "over");
    let mut client = daemon.control();
    client.send(&with(read("fits"), json!({"requestId": "r"})));
    let line = client.line().unwrap();
    assert!(line.ends_with(&format!(r#""response":{}}}}}{}"#, answer(LIMIT), "\n")), "{} bytes", line.len());
    let too_large = client.ask(read("over"));
    assert_eq!((&too_large["success"], &too_large["code"]), (&false.into(), &"too_large".into()));
    assert_eq!(client.ask(json!({"type": "status"}))["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_reads_too_slowly_is_told_how_much_it_missed_and_others_miss_nothing() {
    const EVENTS: u64 = 4000;
    let daemon = TestDaemon::start("a");
    let _broken = fake(&daemon, "s", FakeBehaviour::default().close_without_answer().record_nothing());
    let [mut slow, mut quick] = [daemon.control(), daemon.control()];
    for subscriber in [&mut slow, &mut quick] {
        subscriber.ask(json!({"type": "subscribe"}));
    }
    // Each of them fails, and each failure is an event of half a kilobyte.
    let firing = {
        let mut client = daemon.control();
        std::thread::spawn(move || {
            let padding = "x".repeat(300);
            for n in 0..EVENTS {
                let id = json!({"fireAndForget": true, "requestId": format!("{n} {padding}")});
                client.send(&with(relay("s", json!({"type": "x"})), id));
                assert_eq!(client.next()["success"], true);
            }
        })
    };
    let number =
        |event: &Value| event["data"]["requestId"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut seen = HashSet::<u64>::new();
    while seen.len() < usize::try_from(EVENTS).unwrap() {
        let event = quick.next();
        assert_eq!(event["event"], "message_status", "{event}");
        assert!(seen.insert(number(&event)), "told twice: {event}");
    }
    firing.join().unwrap();
    let (mut told, mut missed) = (0, 0);
    while told + missed < EVENTS {
        let event = slow.next();
        if event["event"] == "lagged" {
            missed += event["data"]["missed"].as_u64().unwrap();
        } else {
            told += 1;
        }
    }
    assert!(missed > 0 && told >= 1024, "{told} told, {missed} missed");
    assert_eq!(told + missed, EVENTS);
    // Once it has caught up it is told everything again.
    daemon.ask(with(relay("s", json!({"type": "x"})), json!({"fireAndForget": true, "requestId": "again"})));
    assert_eq!(slow.next()["data"]["requestId"], "again");
}

#[test]
fn garbage_is_answered_or_ignored_and_the_daemon_lives() {
    let daemon = TestDaemon::start("a");
    let deep = |open: &str, close: &str| open.repeat(10_000) + "1" + &close.repeat(10_000);
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).filter(|byte| *byte != b'\n').collect();
    let texts = [
        "null".into(),
        "[]".into(),
        "0".into(),
        "\"\"".into(),
        "{".into(),
        "{}".into(),
        "1e999999".into(),
        "9".repeat(100_000),
        "\0\0\0".into(),
        "{\"type\":\"sta\0tus\"}".into(),
        r#"{"type":"status\u0000"}"#.into(),
        r#"{"type":"status","type":"status"}"#.into(),
        r#"{"type":{"a":1}}"#.into(),
        r#"{"type":"relay","targetSessionId":{"a":[]},"rpcCommand":null}"#.into(),
        r#"{"type":"relay","targetSessionId":"../x","rpcCommand":{}}"#.into(),
        r#"{"type":"relay","targetSessionId":"x","rpcCommand":{},"timeoutMs":1e300}"#.into(),
        r#"{"type":"relay","targetSessionId":"x","rpcCommand":{},"timeoutMs":18446744073709551615}"#.into(),
        r#"{"type":"add_peer","host":"a","port":-1}"#.into(),
        deep("[", "]"),
        deep("{\"a\":", "}"),
        format!(r#"{{"type":"status","x":{}}}"#, deep("[", "]")),
        format!(r#"{{"type":{}}}"#, deep("[", "]")),
        format!(r#"{{"type":"relay","targetSessionId":{},"rpcCommand":1}}"#, deep("[", "]")),
        format!(r#"{{"type":"relay","targetSessionId":"s","rpcCommand":{}}}"#, deep("{\"a\":", "}")),
        format!(r#"{{"type":"identity","name":{}}}"#, deep("[", "]")),
        format!(r#"{{"type":"pair_offer","x":{}}}"#, deep("[", "]")),
        format!(r#"{{"type":"pair_join","ticket":{}}}"#, deep("[", "]")),
        format!(r#"{{"type":"peer_address","peer":"x","add":{}}}"#, deep("[", "]")),
    ];
    let mut lines: Vec<Vec<u8>> = texts.map(String::into_bytes).into();
    lines.extend([binary, vec![0xff; 5000], b"{\"type\":\"\xff\"}".to_vec(), vec![0; 50_000]]);
    let mut all = daemon.control();
    for line in lines {
        let line = [line, b"\n".to_vec()].concat();
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        let mut alone = daemon.control();
        for client in [&mut alone, &mut all] {
            client.send_raw(&line);
            client.send(&json!({"type": "list_sessions", "id": "after"}));
            let after = client.until(|answer| answer["id"] == "after");
            assert_eq!(after["success"], true, "{shown}");
        }
    }
    // A line that never ends, from a client that goes away in the middle.
    daemon.control().send_raw(&[b'{'; 100_000]);
    lives(&daemon);
}

#[test]
fn three_hundred_clients_at_once_are_all_answered() {
    let daemon = TestDaemon::start("a");
    let mut clients: Vec<Control> = (0..300).map(|_| daemon.control()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&json!({"type": "status", "id": n.to_string()}));
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.next()["id"], n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_read_cost_bounded_memory_and_hold_up_nobody() {
    let daemon = TestDaemon::start("a");
    let _session = fake(&daemon, "big", FakeBehaviour::default());
    daemon.ask(with(send("big", "BIG 8000000"), json!({"waitUntil": "turn_end"})));
    session_holds_big_answer(&daemon);
    // Each time they ask for 3 GB of answers together and read none of them.
    for _ in 0..2 {
        let deaf: Vec<Control> = (0..2).map(|_| daemon.control()).collect();
        for client in &deaf {
            client.stream().set_nonblocking(true).unwrap();
            for _ in 0..200 {
                let line = format!("{}\n", read("big"));
                let _ = std::io::Write::write(&mut client.stream(), line.as_bytes());
            }
        }
        let mut most = 0;
        let mut other = daemon.control();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            assert_eq!(other.ask(json!({"type": "status"}))["success"], true);
            assert!(asked.elapsed() < Duration::from_secs(2), "held up for {:?}", asked.elapsed());
            most = most.max(resident_kib(daemon.pid()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // 40 MiB that wait for each of the two, four answers on their way, and the allocator's share.
        println!("{most} KiB in use");
        assert!(most < 256 * 1024, "{most} KiB in use");
    }
}

fn session_holds_big_answer(daemon: &TestDaemon) {
    let answer = daemon.ask(read("big"));
    let length = answer["data"]["response"]["data"]["message"]["content"].as_str().map(str::len);
    assert_eq!(length, Some(8_000_000));
}

#[test]
fn both_words_for_it_stop_the_daemon() {
    for word in ["/kill-daemon", "kill"] {
        let daemon = TestDaemon::start("a");
        let mut client = daemon.control();
        let answer = client.ask(json!({"type": word, "id": "k"}));
        assert_eq!((&answer["command"], &answer["id"]), (&word.into(), &"k".into()));
        assert_eq!(answer["data"], json!({"message": "Shutting down"}));
        assert_eq!(client.line(), None);
        eventually("the socket is gone", || !Path::exists(&daemon.dir.join("daemon.sock")));
    }
}

#[test]
fn one_connection_may_use_the_same_id_twice() {
    let daemon = TestDaemon::start("a");
    let mut client = daemon.control();
    let mut answers: HashMap<String, usize> = HashMap::new();
    for kind in ["status", "list_sessions", "peers", "identity"] {
        client.send(&json!({"type": kind, "id": "same \"id\" \u{1F600}"}));
    }
    for _ in 0..4 {
        let answer = client.next();
        assert_eq!(answer["id"], "same \"id\" \u{1F600}");
        *answers.entry(answer["command"].as_str().unwrap().into()).or_default() += 1;
    }
    assert_eq!(answers.len(), 4);
}

#[test]
fn what_is_asked_is_done_though_whoever_asks_does_not_stay_for_the_answer() {
    let daemon = TestDaemon::start("desktop");
    for (request, locked) in [("lock", true), ("unlock", false), ("lock", true)] {
        daemon.control().send(&json!({ "type": request }));
        eventually(request, || daemon.ask(json!({"type": "status"}))["data"]["locked"] == locked);
    }
}
