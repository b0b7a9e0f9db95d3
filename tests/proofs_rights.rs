//! What a peer with little may not do, tried whole: every verb and every request that the control socket
//! knows, a grant up to its end, and a hidden session beside one that is not there.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pi_remote::clock::Clock;
use pi_remote::session::fake::FakeSession;
use pi_remote::wire::Code;
use pi_remote::wire::request::{self, Request};
use serde_json::{Value, json};

use crate::support::cli::run;
use crate::support::instant::{Machine, pair as pair_machines};
use crate::support::peer::{HandPeer, Link};
use crate::support::source::product;
use crate::support::{Control, TestDaemon, TestPair, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// Every command of a session that `read` does not have, and types that nobody knows.
const BEYOND_READ: [&str; 11] =
    ["send", "get_summary", "clear", "abort", "list", "read", "summary", "events", "control", "unheard_of", "SEND"];

/// The type of every request that the control socket knows, from where it is read.
fn control_requests() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/request.rs");
    let text = std::fs::read_to_string(source).unwrap();
    let reading = text.split_once("fn of_kind(").and_then(|(_, rest)| rest.split_once("unknown_command()"));
    let reading = reading.expect("the function that reads a request by its type").0;
    let of_arm = |arm: &str| -> Vec<String> {
        let types = arm.split_once(')').unwrap().0.split('|');
        types.map(|kind| kind.trim().trim_matches('"').to_owned()).collect()
    };
    let kinds: Vec<String> = reading.split("Some(\"").skip(1).flat_map(of_arm).collect();
    let variants = variants(&product(&text));
    for variant in &variants {
        assert!(reading.contains(&format!("Self::{variant}")), "no type was found for {variant}");
    }
    assert!(!variants.is_empty() && kinds.len() >= variants.len(), "{kinds:?}, {variants:?}");
    for kind in &kinds {
        let read = Request::read(&Bytes::from(json!({ "type": kind }).to_string())).1;
        assert!(read.err().is_none_or(|failure| failure.code != Code::UnknownCommand), "{kind} is no request");
    }
    assert_eq!(kinds, request::TYPES, "what is taken for a request where one comes over a link");
    kinds
}

/// The one request that is called as a command of a session is, which `read` has; it means that command on
/// a link.
const COMMAND_TOO: &str = "subscribe";

/// The variants of `enum Request`.
fn variants(tokens: &[String]) -> Vec<String> {
    let head = ["enum", "Request", "{"];
    let start = tokens.windows(head.len()).position(|part| part == head).expect("enum Request") + head.len();
    let (mut level, mut found) = (1, Vec::new());
    for token in &tokens[start..] {
        match token.as_str() {
            "{" | "(" => level += 1,
            "}" | ")" => level -= 1,
            name if level == 1 && name != "," => found.push(name.to_owned()),
            _ => {}
        }
        if level == 0 {
            break;
        }
    }
    found
}

/// A request as a client would make it to get `mallory` everything, with every member that it needs.
fn in_full(kind: &str, held: &Value, grant: &Value) -> Value {
    let mut request = json!({
        "type": kind, "peer": "mallory", "name": "evil", "host": "127.0.0.1", "port": 1, "preset": "full",
        "grant": "full", "add": ["127.0.0.1:1"], "callsPerMinute": 100_000, "kind": "ticket", "ticket": "pir1x",
        "address": "127.0.0.1:1", "approval": held["id"], "hash": held["hash"], "targetSessionId": "s-1",
        "rpcCommand": {"type": "abort"},
    });
    match kind {
        "grant" => request["add"] = true.into(),
        "revoke" => request["grant"] = grant.clone(),
        _ => {}
    }
    loop {
        let Err(failure) = Request::read(&Bytes::from(request.to_string())).1 else { return request };
        // What changes trust refuses members that are another request's.
        let unknown = failure.message.split_once("knows no member `").and_then(|(_, rest)| rest.split_once('`'));
        let removed = unknown.and_then(|(member, _)| request.as_object_mut().unwrap().remove(member));
        assert!(removed.is_some(), "{kind} needs members that it does not have here: {failure}");
    }
}

/// What a machine trusts and is, as its own user sees it.
fn standing(daemon: &TestDaemon) -> Value {
    let ask = |kind: &str| daemon.ask(json!({ "type": kind }))["data"].clone();
    let mut peers = ask("peers");
    for peer in peers["peers"].as_array_mut().unwrap() {
        let kept = ["name", "fingerprint", "grants", "callsPerMinute", "addresses", "removed"];
        peer.as_object_mut().unwrap().retain(|member, _| kept.contains(&member.as_str()));
    }
    let held: Vec<Value> = ask("approvals")["approvals"].as_array().unwrap().iter().map(|a| a["id"].clone()).collect();
    json!([peers["peers"], ask("grants"), ask("identity"), ask("status")["locked"], held])
}

/// The lines of calls at a machine in one direction to one session, in order.
fn calls(dir: &Path, direction: &str, session: &str) -> Vec<Value> {
    let lines = run(dir, &["audit", "--json", "-n", "100000"]).ends(0).lines();
    let of_calls = lines.into_iter().filter(|line| line["action"] == "relay" && line["direction"] == direction);
    of_calls.filter(|line| line["session"] == session).collect()
}

/// What was asked in a call on record, and how it ended.
fn in_words(call: &Value) -> Value {
    json!([call["verb"], call["code"]])
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by_key(Value::to_string);
    values
}

/// What goes on record of a refused command of this type.
fn on_record(kind: &str) -> Value {
    let verb = match kind {
        "get_summary" => "summary",
        "clear" | "abort" => "control",
        other => other,
    };
    json!([verb, "forbidden"])
}

/// Commands that a session was given to carry out.
fn kinds(session: &FakeSession) -> Vec<Value> {
    session.received().iter().map(|line| serde_json::from_slice::<Value>(line).unwrap()["type"].clone()).collect()
}

/// Sends a message that asks for a sign of life, and gives all that came before it.
fn all_before_pong(link: &mut Link) -> Vec<Value> {
    link.send(&json!({"type": "heartbeat", "ping": 77}));
    let mut came = Vec::new();
    loop {
        let message = link.next().expect("the link stays");
        if message["pong"] == 77 {
            return came;
        }
        came.extend(Some(message).filter(|message| message["type"] != "heartbeat"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_read_that_tries_every_verb_and_every_control_request_by_hand_is_refused_on_record() {
    let daemon = TestDaemon::start("desktop");
    let (mallory, friend) = (HandPeer::paired(&daemon, "mallory"), HandPeer::paired(&daemon, "friend"));
    let session = FakeSession::start(&daemon.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("it is listed", || !daemon.sessions().is_empty());
    let granted = run(&daemon.dir, &["grant", "mallory", "read", "--json"]).ends(0).json();
    run(&daemon.dir, &["grant", "friend", "ask"]).ends(0);

    // Something is held, so that there is something to approve and to deny.
    let mut waiting = friend.link(&daemon, &[]);
    let send = json!({"type": "send", "message": "hi"});
    waiting.send(&json!({"type": "rpc", "id": 1, "targetSessionId": "s-1", "command": send}));
    waiting.until("rpc_progress");
    let held = daemon.ask(json!({"type": "approvals"}))["data"]["approvals"][0].clone();
    assert!(held["id"].is_string() && held["hash"].is_string(), "{held}");

    let mut listening = daemon.control();
    listening.ask(json!({"type": "subscribe"}));
    let mut link = mallory.link(&daemon, &[]);
    let peers = listening.until(|line| line["event"] == "peer_connected");
    assert_eq!(peers["data"]["host"], "mallory", "{peers}");
    let before = standing(&daemon);
    let trust_log = || {
        daemon.ask(json!({"type": "audit_sync"}));
        std::fs::read_to_string(daemon.dir.join("trust.log")).unwrap()
    };
    let trust = trust_log();

    let requests: Vec<Value> =
        control_requests().iter().map(|kind| in_full(kind, &held, &granted["grant"]["id"])).collect();
    // As a session's command. Without the sync, refusals beyond some would be on record with their number.
    let verbs = BEYOND_READ.iter().map(|kind| json!({"type": kind, "message": "hi", "event": "turn_end"}));
    let no_verb = requests.iter().filter(|request| request["type"] != COMMAND_TOO);
    let commands: Vec<Value> = verbs.chain(no_verb.cloned()).collect();
    for (n, command) in (1..).zip(&commands) {
        let outcome = link.call(n, "s-1", command.clone());
        let refusal = (&outcome["error"]["code"], &outcome["error"]["delivered"]);
        assert_eq!(refusal, (&json!("forbidden"), &json!(false)), "{command}: {outcome}");
        daemon.ask(json!({"type": "audit_sync"}));
    }
    // As a message of the link: there is no such message, and nothing comes of it.
    let all =
        requests.iter().cloned().chain(BEYOND_READ.iter().map(|kind| json!({"type": kind, "targetSessionId": "s-1"})));
    for (n, mut message) in all.enumerate() {
        link.send(&message);
        message["id"] = n.to_string().into();
        link.send(&message);
        assert_eq!(all_before_pong(&mut link), Vec::<Value>::new(), "{message}");
    }
    // As a command of the daemon's, should it have a name of its own among the sessions.
    for (n, target) in (500..).zip(["daemon", "", ".", "desktop", "daemon.sock"]) {
        let outcome = link.call(n, target, json!({"type": "kill"}));
        assert_eq!(outcome["error"]["code"], "session_not_found", "{target}: {outcome}");
    }

    assert_eq!(standing(&daemon), before, "nothing has changed");
    assert_eq!(kinds(&session), Vec::<Value>::new(), "nothing has reached the session");
    listening.send(&json!({"type": "status"}));
    let told = listening.next();
    assert_eq!(told["type"], "response", "nobody is told of anything: {told}");
    let expected: Vec<Value> = commands.iter().map(|command| on_record(command["type"].as_str().unwrap())).collect();
    let came = calls(&daemon.dir, "in", "s-1").iter().map(in_words).collect();
    assert_eq!(sorted(came), sorted(expected), "each is on record, in its own words");
    assert_eq!(trust_log(), trust, "and no change of trust is");
    // Beyond some in a while, those that were made as messages of the link share a line with their number.
    let made = run(&daemon.dir, &["audit", "--json", "-n", "100000"]).ends(0).lines();
    let made = made.iter().filter(|line| line["direction"] == "in" && line["session"].is_null());
    let number = |line: &Value| {
        assert_eq!((&line["peer"], &line["code"]), (&json!("mallory"), &json!("forbidden")), "{line}");
        line["count"].as_u64().unwrap_or(1)
    };
    assert_eq!(made.map(number).sum::<u64>(), 2 * requests.len() as u64, "each of them is on record");
    let read = link.call(600, "s-1", json!({"type": "get_message"}));
    assert_eq!(read["response"]["success"], true, "it reads all the while: {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_with_read_tries_through_its_own_daemon_is_on_record_at_both_ends() {
    let pair = TestPair::start();
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || laptop.sessions() == ["desktop/s-1"]);
    run(&desktop.dir, &["grant", "laptop", "read"]).ends(0);
    let before = (standing(laptop), standing(desktop));
    let tried: Vec<String> = BEYOND_READ.iter().map(|kind| (*kind).to_owned()).chain(control_requests()).collect();
    let tried: Vec<String> = tried.into_iter().filter(|kind| kind != COMMAND_TOO).collect();
    let mut asking = laptop.control();
    for kind in &tried {
        let answer = asking.ask(json!({
            "type": "relay", "targetSessionId": "s-1", "peer": "desktop",
            "rpcCommand": {"type": kind, "message": "hi", "peer": "laptop", "preset": "full"},
        }));
        assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!("forbidden")), "{kind}: {answer}");
    }
    let expected = sorted(tried.iter().map(|kind| on_record(kind)).collect());
    let sent = calls(&laptop.dir, "out", "s-1");
    assert_eq!(sorted(sent.iter().map(in_words).collect()), expected, "who asks has each in its own words");
    // Beyond some in a while, refused commands of no verb share a line with their number.
    let came = calls(&desktop.dir, "in", "s-1");
    let number = |call: &Value| call["count"].as_u64().unwrap_or(1);
    assert_eq!(came.iter().map(number).sum::<u64>(), tried.len() as u64, "who is asked has each: {came:?}");
    for call in &came {
        assert!(call["code"] == "forbidden" && call["peer"] == "laptop", "{call}");
        assert!(call["verb"].is_null() || expected.contains(&in_words(call)), "{call}");
    }
    assert_eq!((standing(laptop), standing(desktop)), before, "nothing has changed at either end");
    assert_eq!(kinds(&session), Vec::<Value>::new(), "nothing has reached the session");
}

/// The sessions that a machine lists, as `host/sessionId`.
fn listed(control: &mut Control) -> Vec<String> {
    let list = control.ask(json!({"type": "list_sessions"}));
    let name = |s: &Value| format!("{}/{}", s["host"].as_str().unwrap(), s["sessionId"].as_str().unwrap());
    let mut names: Vec<_> = list["data"]["sessions"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_one_session_and_two_hours_shows_one_session_for_two_hours_to_what_was_open_too() {
    let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let clock = Clock::manual(begun);
    let (desktop, laptop) = (Machine::start_with("desktop", clock.clone()), Machine::start("laptop"));
    pair_machines(&desktop, &laptop);
    let kim = HandPeer::paired(&desktop, "kim");
    let sessions = ["s-1", "s-2"].map(|id| FakeSession::start(&desktop.dir, &id.parse().unwrap()).unwrap());
    let mut home = desktop.control();
    eventually("both are listed at home", || listed(&mut home) == ["desktop/s-1", "desktop/s-2"]);
    for peer in ["laptop", "kim"] {
        let granted = home.ask(json!({
            "type": "grant", "peer": peer, "verbs": ["list", "read", "events", "send"], "sessions": ["id:s-1"],
            "forSeconds": 7200,
        }));
        assert_eq!(granted["success"], true, "{granted}");
    }
    let mut at_laptop = laptop.control();
    eventually("laptop sees the one", || listed(&mut at_laptop) == ["desktop/s-1"]);

    // What is open: a subscription, and of each peer a wait for the end of a turn.
    let mut subscribed = laptop.control();
    subscribed.ask(json!({"type": "subscribe"}));
    let mut link = kim.dial(&desktop);
    link.send(&kim.hello(&[]));
    let hello = link.until("hello");
    let shown: Vec<&Value> = hello["sessions"].as_array().unwrap().iter().map(|s| &s["sessionId"]).collect();
    assert_eq!(shown, ["s-1"], "{hello}");
    let send = json!({"type": "send", "message": "SLOW 600000 words-after-the-end"});
    let mut waiting = laptop.control();
    waiting.send(&json!({
        "type": "relay", "id": "w", "targetSessionId": "s-1", "rpcCommand": send, "waitUntil": "turn_end",
    }));
    sessions[0].until_received(2).await;
    link.send(&json!({
        "type": "rpc", "id": 1, "targetSessionId": "s-1", "waitUntil": "turn_end",
        "command": {"type": "subscribe", "event": "turn_end"},
    }));
    let refused = link.until("rpc_response");
    assert_eq!(refused["error"]["code"], "invalid_request", "a turn is waited for with a send alone: {refused}");
    link.send(&json!({"type": "rpc", "id": 2, "targetSessionId": "s-1", "waitUntil": "turn_end", "command": send}));
    sessions[0].until_received(4).await;

    // A second before the end. Every change has the date looked at anew.
    clock.set_wall(begun + 2 * HOUR - Duration::from_secs(1));
    assert_eq!(home.ask(json!({"type": "peer_rate", "peer": "kim", "callsPerMinute": 500}))["success"], true);
    assert_eq!(all_before_pong(&mut link), Vec::<Value>::new());
    let read = link.call(3, "s-1", json!({"type": "get_message"}));
    assert_eq!(read["response"]["success"], true, "{read}");
    assert_eq!(listed(&mut at_laptop), ["desktop/s-1"]);

    clock.set_wall(begun + 2 * HOUR);
    let gone = subscribed.until(|line| line["event"] == "session_removed");
    assert_eq!((&gone["data"]["host"], &gone["data"]["sessionId"]), (&json!("desktop"), &json!("s-1")), "{gone}");
    assert_eq!(listed(&mut at_laptop), Vec::<String>::new());
    let ended = waiting.until(|line| line["id"] == "w" && line["type"] == "response");
    assert_eq!(ended["code"], "session_not_found", "{ended}");
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(link.next().filter(|message| message["type"] != "heartbeat"));
    }
    let of = |kind: &str| told.iter().find(|message| message["type"] == kind).unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(of("session_removed")["sessionId"], "s-1");
    assert_eq!(of("allows"), &json!({"type": "allows", "verbs": [], "ask": []}));
    let ended = of("rpc_response");
    assert_eq!((&ended["id"], &ended["error"]["code"]), (&json!(2), &json!("session_not_found")), "{ended}");

    // The turn ends, and further things happen there: nobody who is not to know is told.
    let abort = json!({"type": "relay", "targetSessionId": "s-1", "rpcCommand": {"type": "abort"}});
    assert_eq!(home.ask(abort)["success"], true);
    let again = json!({"type": "send", "message": "words-of-later"});
    let answer = home.ask(json!({
        "type": "relay", "targetSessionId": "s-1", "rpcCommand": again, "waitUntil": "turn_end",
    }));
    assert_eq!(answer["success"], true, "{answer}");
    sessions[0].set_alias("renamed").unwrap();
    eventually("it has its alias at home", || {
        let list = home.ask(json!({"type": "list_sessions"}));
        list["data"]["sessions"].to_string().contains("renamed")
    });
    assert_eq!(all_before_pong(&mut link), Vec::<Value>::new(), "nothing more comes over the link");
    for command in ["get_message", "subscribe", "send", "abort"] {
        let outcome = link.call(4, "s-1", json!({"type": command, "message": "x", "event": "turn_end"}));
        assert_eq!(outcome["error"]["code"], "session_not_found", "{command}: {outcome}");
    }
    for control in [&mut subscribed, &mut waiting] {
        control.send(&json!({"type": "status", "id": "last"}));
        let rest = std::iter::from_fn(|| Some(control.next()).filter(|line| line["id"] != "last"));
        let rest: Vec<Value> = rest.collect();
        assert!(rest.iter().all(|line| !line.to_string().contains("s-1")), "{rest:?}");
    }
}

const HIDDEN: &str = "s-hidden";
const MISSING: [&str; 2] = ["s-absent", "s-nobody"];

/// A daemon, a peer that may `read` one session and not know of the other, and that other.
fn with_a_hidden_session() -> (TestDaemon, Link, [FakeSession; 2]) {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let sessions = ["s-shown", HIDDEN].map(|id| FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap());
    eventually("both are listed", || daemon.sessions().len() == 2);
    run(&daemon.dir, &["grant", "mallory", "full", "--session", "id:s-shown"]).ends(0);
    run(&daemon.dir, &["peers", "rate", "mallory", "1000000"]).ends(0);
    let link = peer.link(&daemon, &[]);
    (daemon, link, sessions)
}

/// The bytes of the answer to a call, and how long it took to come.
fn answer(link: &mut Link, target: &str, rest: &str) -> (String, Duration) {
    let call = format!(r#"{{"type":"rpc","id":7,"targetSessionId":"{target}",{rest}}}"#);
    let begun = Instant::now();
    link.send_bytes(call.as_bytes());
    loop {
        let came = String::from_utf8(link.next_bytes().expect("the link stays").to_vec()).unwrap();
        if !came.starts_with(r#"{"type":"heartbeat""#) {
            return (came, begun.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_session_and_a_missing_one_are_answered_with_the_same_bytes_whatever_is_asked() {
    let (daemon, mut link, sessions) = with_a_hidden_session();
    let known = ["get_message", "get_summary", "subscribe", "send", "clear", "abort"];
    let kinds = known.iter().chain(&BEYOND_READ).map(|kind| (*kind).to_owned()).chain(control_requests());
    let mut calls: Vec<String> =
        kinds.map(|kind| format!(r#""command":{{"type":"{kind}","message":"hi","event":"turn_end"}}"#)).collect();
    for odd in [
        r#""command":{}"#,
        r#""command":{"type":7}"#,
        r#""command":[]"#,
        r#""command":"send""#,
        r#""command":{"type":"send","message":"a","message":"b"}"#,
        r#""command":{"type":"send","message":"a","from":1}"#,
        r#""command":{"type":"send","message":"a"},"waitUntil":"turn_end""#,
        r#""command":{"type":"get_message"},"waitUntil":"turn_end""#,
        r#""command":{"type":"get_message"},"waitUntil":"later""#,
        r#""command":{"type":"get_message"},"timeoutMs":0"#,
    ] {
        calls.push(odd.to_owned());
    }
    let plain = answer(&mut link, MISSING[0], r#""command":{"type":"get_message"}"#).0;
    assert!(plain.contains("session_not_found") && plain.matches(MISSING[0]).count() == 1, "{plain}");
    for call in &calls {
        for target in [HIDDEN, MISSING[1], MISSING[0]] {
            let answer = answer(&mut link, target, call).0;
            assert_eq!(answer.replace(target, MISSING[0]), plain, "{target}: {call}");
        }
    }
    assert_eq!(all_before_pong(&mut link), Vec::<Value>::new(), "one answer each");
    assert!(sessions[1].received().is_empty(), "{:?}", sessions[1].received());
    assert_eq!(daemon.peer("mallory")["connected"], true);
}

/// The middle of some times, and how far apart the middle half of them lies.
fn middle(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 4];
    (at(2), at(3) - at(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_session_and_a_missing_one_are_not_told_apart_by_the_time_beyond_noise() {
    let (_daemon, mut link, _sessions) = with_a_hidden_session();
    let mut said = Vec::new();
    for _ in 0..3 {
        let targets = [HIDDEN, MISSING[0], MISSING[1]];
        let mut times = [(); 3].map(|()| Vec::new());
        for n in 0..1200 {
            // In changing order, so that none always comes first.
            let which = (n + n / 3) % 3;
            times[which].push(answer(&mut link, targets[which], r#""command":{"type":"get_message"}"#).1);
        }
        let [hidden, missing, same] = times.map(middle);
        // What two that are both missing differ by, and what a median of so many may be off by: a quarter
        // of where half of all times lie is five times its standard error.
        let noise = missing.0.abs_diff(same.0).max(missing.1 / 4).max(same.1 / 4);
        if hidden.0.abs_diff(missing.0) <= noise {
            return;
        }
        said.push(format!("hidden {hidden:?}, missing {missing:?}, missing too {same:?}"));
    }
    panic!("medians and spreads: {said:#?}");
}
