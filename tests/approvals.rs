//! Calls that a person is asked about: held on one machine, told on the other, and what a session
//! hears of who sent them.

use nix::sys::signal::Signal;
use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::cli::{MadeUpDaemon, Running, answered, event, has_program, run};
use crate::support::peer::{HandPeer, Link};
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
    assert_eq!(words[0], ["ID", "PEER", "VERB", "SESSION", "AGE", "LEFT", "WHAT"]);
    let name = held["sessionName"].as_str().unwrap();
    let cells = (&words[1][..4], &words[1][6..]);
    assert_eq!(cells, (&[id, "laptop", "send", name][..], &["send:", "run", "the", "tests"][..]));
    assert!(words[1][4..6].iter().all(|cell| cell.ends_with('s') || *cell == "1m"), "{words:?}");
    assert!(table.err.contains("1 call waits for you: pi-remote --dir"), "{}", table.err);
    let status = asking.pair.desktop.ask(json!({"type": "status"}));
    assert_eq!(status["data"]["approvals"], 1);
    assert!(run(desktop, &["status"]).ends(0).out.contains("1 wait: pi-remote"));

    let of_another_start = if id.ends_with('2') { "a1-223" } else { "a1-222" };
    for other in ["a1", of_another_start] {
        assert_eq!(run(desktop, &["approve", other, "--json"]).ends(4).json_failure()["code"], "not_found");
    }
    let done = run(desktop, &["approve", id, "--json"]).ends(0).json();
    assert_eq!((&done["id"], &done["decision"]), (&json!(id), &json!("approved")));
    assert_eq!((&done["hash"], &done["preview"]), (&held["hash"], &held["preview"]), "what it was that it let go on");
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
    assert_eq!(failure["message"], "desktop: nobody approved it within 1 s");
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
    let name = held["sessionName"].as_str().unwrap();
    let ahead = format!("{standing}  laptop  send  {name}");
    assert!(list.contains("Approved for a while:") && list.contains(&ahead), "{list}");
    let ended = run(&desktop, &["deny", &standing]).ends(0).out;
    assert_eq!(ended, format!("{standing} ended: send by laptop on {name} is asked about again\n"));
    let again = run(&desktop, &["deny", &standing]).ends(4).err;
    assert!(again.contains(&format!("{standing} has ended already")), "{again}");
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

/// A machine that asks its user about each of these commands of a peer, the ids of which it gives too.
fn holding(commands: &[Value]) -> (TestDaemon, FakeSession, Link, Vec<String>) {
    let desktop = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&desktop, "by-hand");
    asks_first(&desktop);
    let session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || !desktop.sessions().is_empty());
    let mut link = peer.link(&desktop, &[]);
    for (id, command) in commands.iter().enumerate() {
        link.send(&json!({"type": "rpc", "id": id, "targetSessionId": "s-1", "command": command}));
        link.until("rpc_progress");
    }
    let list = desktop.ask(json!({"type": "approvals"}));
    let ids = list["data"]["approvals"].as_array().unwrap().iter();
    let ids = ids.map(|held| held["id"].as_str().unwrap().to_owned()).collect();
    (desktop, session, link, ids)
}

fn long_send() -> Value {
    json!({"type": "send", "message": format!("{}END", "x".repeat(2000))})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_in_its_preview_is_not_approved_before_all_of_it_was_seen() {
    let (desktop, session, _link, ids) = holding(&[long_send()]);
    let id = ids[0].as_str();
    for json in [&[][..], &["--json"]] {
        let refused = run(&desktop.dir, &[&["approve", id], json].concat()).ends(2);
        let said = format!("{}{}", refused.out, refused.err);
        for words in ["part of it was not shown", &format!("approvals {id}"), &format!("approve {id} --hash ")] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    let short = run(&desktop.dir, &["approve", id, "--hash", "0f0f"]).ends(2);
    assert!(short.err.contains("64 hex digits"), "{}", short.err);
    let other = run(&desktop.dir, &["approve", id, "--hash", &"0f".repeat(32), "--json"]).ends(7);
    assert_eq!(other.json_failure()["code"], "verification_failed");
    for (without, code) in [
        (json!({"type": "approve", "approval": id}), "invalid_request"),
        (json!({"type": "approve", "approval": id, "hash": null}), "invalid_request"),
        (json!({"type": "approve", "approval": id, "hash": ""}), "verification_failed"),
    ] {
        let answer = desktop.ask(without);
        assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!(code)), "{answer}");
    }
    assert_eq!(sent(&session), Vec::<Value>::new());
    // All of it, and the command that approves just that.
    let whole = run(&desktop.dir, &["approvals", id]).ends(0);
    assert!(whole.out.contains("xxEND"), "{}", whole.out);
    let command = whole.err.lines().find(|line| line.contains("approve ")).unwrap_or_else(|| panic!("{}", whole.err));
    let words: Vec<&str> = command.split_whitespace().skip_while(|word| *word != "approve").collect();
    run(&desktop.dir, &words).ends(0);
    eventually("it is delivered", || sent(&session).len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_what_was_cut_is_shown_and_asked_about() {
    if !has_program("script") {
        return;
    }
    let (desktop, session, _link, ids) = holding(&[long_send()]);
    for (answer, code, calls) in [("n\n", 5, 0), ("\n", 5, 0), ("\u{4}", 130, 0), ("y\n", 0, 1)] {
        let mut screen = Running::on_terminal(&desktop.dir, &format!("approve {}", ids[0]));
        let shown = screen.until("[y/N]");
        assert!(shown.contains("xxEND"), "all of it: {shown}");
        screen.write(answer);
        screen.wait_until_over();
        screen.end().ends(code);
        eventually("it has reached the session or has not", || sent(&session).len() == calls);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_is_one_calls_and_an_answer_that_never_comes_ends_it_all() {
    if !has_program("script") {
        return;
    }
    let send = |n: u8| json!({"type": "send", "message": format!("message {n}")});
    let (desktop, session, _link, ids) = holding(&[long_send(), send(2), long_send(), send(4)]);
    let asked = |words: String, answer: &str, code| {
        let mut screen = Running::on_terminal(&desktop.dir, &words);
        let shown = screen.until("[y/N]");
        screen.write(answer);
        screen.wait_until_over();
        shown + &screen.end().ends(code).out
    };
    let shown = asked(format!("approve {} {} --for 1h", ids[0], ids[1]), "n\n", 5);
    assert!(shown.contains(" for 1h without being shown? [y/N]"), "{shown}");
    assert!(shown.contains(&format!("you said no: {} waits on", ids[0])), "{shown}");
    let name = desktop.ask(json!({"type": "list_sessions"}))["data"]["sessions"][0]["name"].clone();
    let done = format!("{} approved: send by by-hand on {}; ", ids[1], name.as_str().unwrap());
    assert!(shown.contains(&done), "the next is decided about all the same: {shown}");
    eventually("it is delivered", || sent(&session).len() == 1);
    let shown = asked(format!("approve {} {}", ids[2], ids[3]), "\u{4}", 130);
    assert!(shown.contains(&format!("nothing done about: {}, {}", ids[2], ids[3])), "{shown}");
    let left = desktop.ask(json!({"type": "approvals"}))["data"]["approvals"].as_array().unwrap().len();
    assert_eq!((left, sent(&session).len()), (3, 1), "the others wait on");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_decided_at_once_and_the_worst_of_them_is_the_exit_code() {
    let send = |n: u8| json!({"type": "send", "message": format!("message {n}")});
    let (desktop, session, _link, ids) = holding(&[send(1), send(2), long_send(), send(4), send(5)]);
    let id = |n: usize| ids[n].as_str();
    let done = run(&desktop.dir, &["approve", id(0), "a99-zzz", id(2), id(1)]).ends(4);
    for shown in ["send: message 1", "send: message 2"] {
        assert!(done.out.contains(shown), "{}", done.out);
    }
    assert!(done.err.contains("a99-zzz") && done.err.contains(&format!("{} is longer", id(2))), "{}", done.err);
    eventually("two are delivered", || sent(&session).len() == 2);
    let mixed = run(&desktop.dir, &["deny", id(3), "a99-zzz", id(4), "--json"]).ends(4).json();
    let [denied, unknown, last] = &mixed["decided"].as_array().unwrap()[..] else { panic!("{mixed}") };
    assert_eq!((&denied["id"], &denied["decision"]), (&json!(id(3)), &json!("denied")));
    assert_eq!((&unknown["id"], &unknown["error"]["code"]), (&json!("a99-zzz"), &json!("not_found")));
    assert_eq!(last["decision"], "denied");
    let one_hash = run(&desktop.dir, &["approve", id(2), id(2), "--hash", &"0f".repeat(32)]).ends(2);
    assert!(one_hash.err.contains("--hash is of one call"), "{}", one_hash.err);
    let left = run(&desktop.dir, &["approvals", "--json"]).ends(0).json();
    assert_eq!((left["approvals"].as_array().unwrap().len(), sent(&session).len()), (1, 2), "the long one waits on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_followed_as_it_comes_and_ends() {
    let (desktop, _session, mut link, ids) = holding(&[json!({"type": "send", "message": "before"})]);
    let streams = [&["approvals", "--follow"][..], &["approvals", "--follow", "--json"]];
    let [mut text, mut lines] = streams.map(|words| Running::start(&desktop.dir, words));
    let line = text.line();
    assert!(line.starts_with(&format!("{}  by-hand on ", ids[0])) && line.ends_with(" s left: send: before"), "{line}");
    let first = lines.json();
    assert_eq!((&first["event"], &first["data"]["id"]), (&json!("approval_requested"), &json!(ids[0])));
    let command = json!({"type": "send", "message": "then"});
    link.send(&json!({"type": "rpc", "id": 9, "targetSessionId": "s-1", "command": command}));
    let line = text.line();
    assert!(line.starts_with("a2-") && line.ends_with("send: then"), "{line}");
    assert_eq!(lines.json()["data"]["preview"], "send: then");
    run(&desktop.dir, &["deny", &ids[0]]).ends(0);
    let line = text.line();
    assert!(line.starts_with(&format!("{}  denied: send by by-hand", ids[0])), "{line}");
    assert_eq!(lines.json()["data"]["decision"], "denied");
    text.signal(Signal::SIGINT);
    let said = text.end().ends(130).err;
    assert_eq!(said.matches("approve ID, or pi-remote").count(), 1, "how it is decided, once: {said}");
}

#[test]
fn who_follows_what_waits_and_has_missed_some_of_it_is_shown_that_all_the_same() {
    let held = |id: &str| {
        json!({"id": id, "peer": "desk", "fingerprint": "sha256:0", "verb": "send", "session": "s-1", "sessionId": "s-1",
            "sessionName": "work", "preview": "send: x", "cut": false, "hash": "0", "expires": "", "leftSeconds": 9})
    };
    let mut lists = [vec!["a1"], vec!["a1", "a2"]].into_iter();
    let daemon = MadeUpDaemon::saying(move |request| {
        if request["type"] != "approvals" {
            return vec![answered(json!({}))];
        }
        let ids = lists.next().unwrap();
        let list = answered(json!({"approvals": ids.iter().map(|id| held(id)).collect::<Vec<_>>()}));
        let (known, new) = (event("approval_requested", held("a1")), event("approval_requested", held("a3")));
        let lagged = event("lagged", json!({"missed": 5, "approvals": 2}));
        if ids.len() == 1 { vec![list, known, lagged] } else { vec![list, new] }
    });
    let mut text = Running::start(daemon.dir.path(), &["approvals", "--follow"]);
    let lines: Vec<String> = (0..4).map(|_| text.line()).collect();
    let shown: Vec<&str> = lines.iter().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(shown, ["a1", "lagged", "a2", "a3"], "each once: {lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_refuses_what_waits() {
    let mut asking = Asking::start(json!({}));
    let (sending, _) = asking.send(&["x", "--json"]);
    let desktop = asking.pair.desktop.dir.clone();
    run(&desktop, &["lock"]).ends(0);
    assert_eq!(asking.event("approval_resolved")["decision"], "void");
    let failure = sending.end().ends(4).json_failure();
    assert_eq!((&failure["code"], &failure["delivered"]), (&json!("session_not_found"), &json!(false)), "{failure}");
    let new = run(&asking.pair.laptop.dir, &["send", "desktop/s-1", "x", "--json"]).ends(4).json_failure();
    assert_eq!((&failure["code"], &failure["hint"]), (&new["code"], &new["hint"]), "as a new one");
    assert_eq!(run(&desktop, &["approvals", "--json"]).ends(0).json()["approvals"], json!([]));
    run(&desktop, &["unlock"]).ends(0);
    assert_eq!(run(&desktop, &["approvals", "--json"]).ends(0).json()["approvals"], json!([]), "nor afterwards");
    assert_eq!(asking.sent(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_grant_refuses_what_waits_as_it_would_a_new_call() {
    let mut asking = Asking::start(json!({}));
    let (sending, _) = asking.send(&["x", "--json"]);
    let (laptop, desktop) = (asking.pair.laptop.dir.clone(), asking.pair.desktop.dir.clone());
    run(&desktop, &["grant", "laptop", "read"]).ends(0);
    let held = sending.end().ends(5).json_failure();
    assert_eq!(asking.event("approval_resolved")["decision"], "void");
    let new = run(&laptop, &["send", "desktop/s-1", "x", "--json"]).ends(5).json_failure();
    assert!(held["hint"].is_string() && held == new, "{held} {new}");
    let audit = run(&desktop, &["audit"]).ends(0).out;
    assert!(audit.contains("  held send to ") && audit.contains(" by laptop no more (a1-"), "{audit}");
    assert_eq!(asking.sent(), Vec::<Value>::new());
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
