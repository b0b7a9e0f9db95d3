//! Calls that a person is asked about: held on one machine, told on the other, and what a session
//! hears of who sent them.

use nix::sys::signal::Signal;
use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::cli::{Running, run};
use crate::support::peer::HandPeer;
use crate::support::{Control, TestDaemon, TestPair, eventually, pair};

/// Two machines, of which `desktop` asks its user before `laptop` changes anything there.
struct Asking {
    pair: TestPair,
    session: FakeSession,
    /// Events on `desktop`.
    events: Control,
}

impl Asking {
    fn start(config: Value) -> Self {
        let laptop = TestDaemon::start("laptop");
        let desktop = TestDaemon::start_with("desktop", &[], config);
        pair(&desktop, &laptop);
        asks_first(&desktop);
        let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
        eventually("the session is seen", || laptop.sessions() == ["desktop/s-1"]);
        let mut events = desktop.control();
        events.ask(json!({"type": "subscribe"}));
        Self { pair: TestPair { laptop, desktop }, session, events }
    }

    /// A `send` from `laptop`, once `desktop` holds it, and what `desktop` shows of it.
    fn send(&mut self, words: &[&str]) -> (Running, Value) {
        let sending = Running::start(&self.pair.laptop.dir, &[&["send", "desktop/s-1"], words].concat());
        (sending, self.event("approval_requested"))
    }

    fn event(&mut self, name: &str) -> Value {
        self.events.until(|line| line["event"] == name)["data"].clone()
    }

    fn sent(&self) -> Vec<Value> {
        sent(&self.session)
    }
}

/// Has a daemon ask its user before any of its peers changes something.
fn asks_first(daemon: &TestDaemon) {
    let peers = daemon.ask(json!({"type": "peers"}));
    for peer in peers["data"]["peers"].as_array().unwrap() {
        let granted = daemon.ask(json!({"type": "grant", "peer": peer["name"], "preset": "ask"}));
        assert_eq!(granted["success"], true, "{granted}");
    }
}

/// The commands but `subscribe` that a session has received.
fn sent(session: &FakeSession) -> Vec<Value> {
    let lines = session.received().into_iter().map(|line| serde_json::from_slice::<Value>(&line).unwrap());
    lines.filter(|line| line["type"] != "subscribe").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_approval_and_is_then_delivered_with_its_sender_and_answered() {
    let mut asking = Asking::start(json!({}));
    let (sending, held) = asking.send(&["run the tests", "--wait"]);
    assert_eq!((&held["peer"], &held["verb"]), (&json!("laptop"), &json!("send")));
    let id = held["id"].as_str().unwrap();
    assert!(id.starts_with("a1-"), "{id}");
    assert_eq!(held["preview"], "send: run the tests");
    assert_eq!(asking.sent(), Vec::<Value>::new());
    let desktop = &asking.pair.desktop.dir.clone();
    let list = run(desktop, &["approvals", "--json"]).ends(0).json();
    let one = &list["approvals"][0];
    for member in ["id", "peer", "verb", "session", "preview", "expires"] {
        assert!(one[member].is_string(), "{member}: {list}");
    }
    assert_eq!((&one["session"], &one["hash"]), (&json!("s-1"), &held["hash"]));
    let table = run(desktop, &["approvals"]).ends(0);
    let words: Vec<Vec<&str>> = table.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["ID", "PEER", "RIGHT", "SESSION", "LEFT", "WHAT"]);
    assert_eq!((&words[1][..3], &words[1][5..]), (&[id, "laptop", "send"][..], &["send:", "run", "the", "tests"][..]));
    let status = asking.pair.desktop.ask(json!({"type": "status"}));
    assert_eq!(status["data"]["approvals"], 1);
    assert!(run(desktop, &["status"]).ends(0).out.contains("1 wait: pi-remote"));

    let of_another_start = if id.ends_with('2') { "a1-223" } else { "a1-222" };
    for other in ["a1", of_another_start] {
        assert_eq!(run(desktop, &["approve", other, "--json"]).ends(4).json_failure()["code"], "not_found");
    }
    let done = run(desktop, &["approve", id, "--json"]).ends(0).json();
    assert_eq!((&done["id"], &done["decision"]), (&json!(id), &json!("approved")));
    let sent_by = sending.end().ends(0);
    assert_eq!(sent_by.out, "echo: run the tests\n");
    assert_eq!(sent_by.err, "waiting for somebody on desktop to approve it (up to 60 s)\n");
    assert_eq!(asking.event("approval_resolved")["decision"], "approved");
    let [command] = &asking.sent()[..] else { panic!("{:?}", asking.sent()) };
    assert_eq!(command["from"], json!({"peer": "laptop", "fingerprint": asking.pair.laptop.fingerprint}));
    assert!(command["messageId"].as_str().unwrap().parse::<uuid::Uuid>().is_ok(), "{command}");
    assert_eq!(run(desktop, &["approve", id, "--json"]).ends(4).json_failure()["code"], "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_or_what_nobody_answers_is_refused_and_reaches_no_session() {
    let mut asking = Asking::start(json!({"approvalSeconds": 1}));
    let (sending, _) = asking.send(&["x", "--json"]);
    // Nobody answers.
    let failure = sending.end().ends(5).json_failure();
    assert_eq!((&failure["code"], &failure["delivered"]), (&json!("forbidden"), &json!(false)));
    assert_eq!(failure["message"], "desktop: nobody on this machine approved it within 1 s");
    assert_eq!(failure["hint"], Value::Null, "no grant was in the way");
    assert_eq!(asking.event("approval_resolved")["decision"], "expired");

    let mut asking = Asking::start(json!({}));
    for words in [&["send", "desktop/s-1", "x"][..], &["clear", "s-1", "--yes"], &["abort", "s-1"], &["summary", "s-1"]]
    {
        let sending = Running::start(&asking.pair.laptop.dir, &[words, &["--json"]].concat());
        let held = asking.event("approval_requested");
        let denied = run(&asking.pair.desktop.dir, &["deny", held["id"].as_str().unwrap()]).ends(0);
        assert!(denied.out.contains("denied"), "{}", denied.out);
        let ran = sending.end().ends(5);
        let failure = ran.json_failure();
        assert_eq!((&failure["code"], &failure["delivered"]), (&json!("forbidden"), &json!(false)), "{words:?}");
        assert_eq!(failure["hint"], Value::Null, "no grant was in the way");
        assert!(ran.err.starts_with("waiting for somebody on desktop"), "{}", ran.err);
        assert_eq!(asking.event("approval_resolved")["decision"], "denied");
    }
    assert_eq!(asking.sent(), Vec::<Value>::new());
    // What needs no approval is answered at once.
    run(&asking.pair.laptop.dir, &["read", "desktop/s-1"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_whose_machine_goes_down_was_not_delivered_and_may_be_sent_again() {
    let mut asking = Asking::start(json!({}));
    let (sending, _) = asking.send(&["x", "--json"]);
    run(&asking.pair.desktop.dir, &["stop"]).ends(0);
    let failure = sending.end().ends(8).json_failure();
    assert_eq!((&failure["code"], &failure["delivered"]), (&json!("peer_disconnected"), &json!(false)), "{failure}");
    assert_eq!(asking.sent(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_that_the_user_gave_is_kept_while_somebody_has_to_approve() {
    let mut asking = Asking::start(json!({}));
    let (sending, _) = asking.send(&["x", "--json", "--timeout", "2s"]);
    let ran = sending.end().ends(6);
    let failure = ran.json_failure();
    assert!(failure["message"].as_str().unwrap().ends_with(" did not answer within 2s"), "{failure}");
    assert!(ran.err.starts_with("waiting for somebody on desktop to approve it"), "{}", ran.err);
    assert_eq!(asking.event("approval_resolved")["decision"], "void");
    assert_eq!(asking.sent(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_sender_gave_up_is_void_and_cannot_be_approved_any_more() {
    let mut asking = Asking::start(json!({}));
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let (sending, held) = asking.send(&["x"]);
        sending.signal(signal);
        sending.end();
        let resolved = asking.event("approval_resolved");
        assert_eq!((&resolved["id"], &resolved["decision"]), (&held["id"], &json!("void")));
        let gone = run(&asking.pair.desktop.dir, &["approve", held["id"].as_str().unwrap(), "--json"]).ends(4);
        let failure = gone.json_failure();
        assert_eq!(failure["code"], "not_found");
        assert!(failure["hint"].as_str().unwrap().contains("approvals"), "{failure}");
    }
    assert_eq!(asking.sent(), Vec::<Value>::new());
    assert_eq!(asking.pair.desktop.ask(json!({"type": "approvals"}))["data"]["approvals"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_for_a_while_lets_the_next_through_until_it_is_ended() {
    let mut asking = Asking::start(json!({}));
    let (sending, held) = asking.send(&["first"]);
    let mark = held["id"].as_str().unwrap().strip_prefix("a1-").unwrap().to_owned();
    let standing = format!("s1-{mark}");
    let (laptop, desktop) = (asking.pair.laptop.dir.clone(), asking.pair.desktop.dir.clone());
    let said = run(&desktop, &["approve", held["id"].as_str().unwrap(), "--for", "1h"]).ends(0);
    assert!(said.out.contains("needs no approval until"), "{}", said.out);
    sending.end().ends(0);
    let second = run(&laptop, &["send", "desktop/s-1", "second"]).ends(0);
    assert_eq!(second.err, "", "nobody was asked");
    let list = run(&desktop, &["approvals"]).ends(0).out;
    assert!(
        list.contains("Approved for a while:") && list.contains(&format!("{standing}  laptop  send   s-1")),
        "{list}"
    );
    assert!(run(&desktop, &["deny", &standing]).ends(0).out.starts_with(&format!("{standing} ended")));
    let (sending, held) = asking.send(&["third"]);
    assert_eq!(held["id"], format!("a2-{mark}"), "asked about again");
    sending.signal(Signal::SIGKILL);
    sending.end();
    let texts: Vec<Value> = asking.sent().iter().map(|command| command["message"].clone()).collect();
    assert_eq!(texts, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_of_a_held_call_hides_nothing_and_moves_no_cursor() {
    let desktop = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&desktop, "by-hand");
    asks_first(&desktop);
    let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || !desktop.sessions().is_empty());
    let mut link = peer.link(&desktop, &[]);
    let message = "a\u{1b}]52;c;x\u{7}\u{202e}b";
    let plain = json!({"type": "send", "message": message});
    let odd = json!({"type": "send", "message": "harmless", "tool": "\u{202e}rm"});
    let long = json!({"type": "send", "message": format!("{}END", "x".repeat(2000))});
    let unseen = json!({"type": "send", "message": format!("hi🙂\u{fe0f}\u{e0171}\u{3164}{}rm", " ".repeat(250))});
    let told = json!({"type": "send", "message": "ok", "id": "RUN rm INSTEAD"});
    for (id, command) in [&plain, &odd, &long, &unseen, &told].into_iter().enumerate() {
        link.send(&json!({"type": "rpc", "id": id, "targetSessionId": "s-1", "command": command}));
        let progress = link.until("rpc_progress");
        assert_eq!((&progress["code"], &progress["extendMs"]), (&json!("needs_approval"), &json!(60_000)));
    }
    let list = run(&desktop.dir, &["approvals", "--json"]).ends(0).json();
    let preview = |n: usize| list["approvals"][n]["preview"].as_str().unwrap().to_owned();
    assert_eq!(preview(0), r"send: a\u{1b}]52;c;x\u{7}\u{202e}b");
    assert!(preview(1).starts_with('{') && preview(1).contains(r#""tool":"\u202erm""#), "{}", preview(1));
    assert_eq!((preview(2).len(), &list["approvals"][2]["cut"]), (500, &json!(true)));
    assert_eq!(preview(3), r"send: hi🙂\u{fe0f}\u{e0171}\u{3164}\[250 spaces]rm");
    assert!(preview(4).contains("RUN rm INSTEAD"), "{}", preview(4));
    let id = |n: usize| list["approvals"][n]["id"].as_str().unwrap();
    let unseen = ['\u{1b}', '\u{7}', '\u{202e}', '\u{fe0f}', '\u{e0171}', '\u{3164}'];
    for one in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
        let words: Vec<&str> = std::iter::once("approvals").chain(one.map(id)).collect();
        let shown = run(&desktop.dir, &words).ends(0).out;
        assert!(!shown.contains(unseen), "{shown:?}");
        assert_eq!(shown.contains("END"), one == Some(2), "the whole of one: {shown}");
    }
    let whole = run(&desktop.dir, &["approvals", id(1), "--json"]).ends(0).json();
    let command = whole["approvals"][0]["command"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(command).unwrap(), odd, "the command as it came");
    let other = json!({"type": "approve", "approval": id(1), "hash": list["approvals"][0]["hash"]});
    assert_eq!(desktop.ask(other)["code"], "verification_failed", "another call than the one that was shown");
    assert_eq!(sent(&session), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ninth_held_call_of_a_peer_is_refused_and_a_forged_sender_too() {
    let desktop = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&desktop, "by-hand");
    asks_first(&desktop);
    let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || !desktop.sessions().is_empty());
    let mut link = peer.link(&desktop, &[]);
    let forged = json!({"type": "send", "message": "x", "from": {"peer": "boss", "fingerprint": "sha256:0"}});
    assert_eq!(link.call(100, "s-1", forged.clone())["error"]["code"], "invalid_request");
    for id in 0..8 {
        let command = json!({"type": "send", "message": "x"});
        link.send(&json!({"type": "rpc", "id": id, "targetSessionId": "s-1", "command": command}));
    }
    let ninth = link.call(8, "s-1", json!({"type": "send", "message": "x"}));
    assert_eq!((&ninth["error"]["code"], &ninth["error"]["delivered"]), (&json!("overloaded"), &json!(false)));
    assert_eq!(link.call(9, "s-1", json!({"type": "get_message"}))["response"]["success"], true);
    assert_eq!(sent(&session).len(), 1, "the one that needs no approval");
    // Local clients cannot forge one either, and have none.
    let relay = |command: &Value| json!({"type": "relay", "targetSessionId": "s-1", "rpcCommand": command});
    assert_eq!(desktop.ask(relay(&forged))["code"], "invalid_request");
    assert_eq!(desktop.ask(relay(&json!({"type": "send", "message": "mine"})))["success"], true);
    let own = sent(&session).pop().unwrap();
    assert_eq!(own, json!({"type": "send", "message": "mine"}), "byte for byte what the client sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_who_sent_it_a_command_that_needed_no_approval_too() {
    let pair = TestPair::start();
    let session = FakeSession::start(&pair.desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || pair.laptop.sessions() == ["desktop/s-1"]);
    let relay = |command: Value| json!({"type": "relay", "targetSessionId": "s-1", "rpcCommand": command});
    let from = json!({"peer": "laptop", "fingerprint": pair.laptop.fingerprint});
    for (command, has_id) in [
        (json!({"type": "send", "message": "a"}), true),
        (json!({"type": "send", "message": "a", "messageId": "mine"}), true),
        (json!({"type": "get_message"}), false),
    ] {
        assert_eq!(pair.laptop.ask(relay(command.clone()))["success"], true);
        let mut got = sent(&session).pop().unwrap();
        let members = got.as_object_mut().unwrap();
        assert_eq!(members.remove("from"), Some(from.clone()));
        assert_eq!(members.contains_key("messageId"), has_id);
        if command.get("messageId").is_none() {
            members.remove("messageId");
        }
        assert_eq!(got, command);
    }
}
