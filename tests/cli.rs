//! What commands print and how they end, in text and with `--json`.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use pi_remote::session::fake::{FakeBehaviour, FakeSession};
use pi_remote::wire::SessionId;
use serde_json::{Value, json};

use crate::support::cli::{MadeUpDaemon, Ran, Running, has_program, run, run_command, run_in};
use crate::support::{TestDaemon, TestPair, eventually, pi_remote};

/// Commands that need a daemon, each as it is typed.
const NEED_A_DAEMON: &[&[&str]] = &[
    &["id"],
    &["id", "--name", "x"],
    &["status"],
    &["sessions"],
    &["peers"],
    &["peers", "--verify"],
    &["peers", "show", "x"],
    &["peers", "rename", "x", "y"],
    &["peers", "address", "x", "--add", "h:1"],
    &["peers", "rate", "x", "30"],
    &["grant", "x", "read", "--session", "name:work", "--for", "2h"],
    &["grants"],
    &["grants", "x"],
    &["revoke", "g1"],
    &["lock"],
    &["unlock"],
    &["unpair", "x"],
    &["send", "x", "hi"],
    &["send", "x", "hi", "--wait"],
    &["read", "x"],
    &["summary", "x"],
    &["abort", "x"],
    &["clear", "x", "--yes"],
    &["events"],
    &["stop"],
];

const PEER: &[&str] = &[
    "name",
    "fingerprint",
    "addresses",
    "connected",
    "lastSeen",
    "version",
    "grants",
    "mayThere",
    "pairedAt",
    "pairedVia",
];
const GRANT: &[&str] = &["id", "peer", "preset", "allow", "ask", "deny", "sessions", "from", "expires"];

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn with_json<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [words, &["--json"]].concat()
}

/// Asserts that an object has exactly these members.
#[track_caller]
fn has_members(value: &Value, members: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut members = members.to_vec();
    found.sort_unstable();
    members.sort_unstable();
    assert_eq!(found, members, "{value}");
}

/// Asserts that an object has at least these members, none of them null.
#[track_caller]
fn tells(value: &Value, members: &[&str]) {
    members.iter().for_each(|member| assert!(!value[member].is_null(), "{member}: {value}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_members_that_scripts_rely_on() {
    let pair = TestPair::start();
    let _here = FakeSession::start(&pair.laptop.dir, &id("here-1")).unwrap();
    let _there = FakeSession::start(&pair.desktop.dir, &id("there-1")).unwrap();
    eventually("both sessions are seen", || pair.laptop.sessions().len() == 2);
    let dir = &pair.laptop.dir;
    let json = |words: &[&str]| run(dir, &with_json(words)).ends(0).json();

    let identity = json(&["id"]);
    has_members(&identity, &["name", "fingerprint", "short"]);
    let fingerprint = identity["fingerprint"].as_str().unwrap();
    assert_eq!((fingerprint.len(), fingerprint), (7 + 64, pair.laptop.fingerprint.as_str()));
    assert_eq!(identity["short"].as_str().unwrap(), &fingerprint[7..23]);
    assert_eq!(identity["name"], "laptop");

    // When a peer was seen is noted beside what its link does.
    eventually("the peer was seen", || !json(&["status"])["peers"][0]["lastSeen"].is_null());
    let status = json(&["status"]);
    tells(
        &status,
        &["pid", "uptime", "port", "localSessionCount", "remotePeerCount", "version", "name", "fingerprint"],
    );
    assert_eq!((&status["localSessionCount"], &status["remotePeerCount"]), (&json!(1), &json!(1)));
    let peer = &status["peers"][0];
    tells(peer, &["host", "port", "connected", "sessionCount", "name", "fingerprint", "lastSeen", "link"]);
    tells(&peer["link"], &["address", "tls", "group", "since"]);

    let sessions = json(&["sessions"]);
    has_members(&sessions, &["sessions"]);
    has_members(&sessions["sessions"][0], &["sessionId", "name", "aliases", "host", "isRemote"]);
    assert_eq!(sessions["sessions"][0]["sessionId"], "here-1", "local ones first");

    let peers = json(&["peers"]);
    let peer = &peers["peers"][0];
    tells(peer, PEER);
    assert_eq!((&peer["name"], &peer["connected"]), (&json!("desktop"), &json!(true)));
    assert_eq!(peer["pairedVia"], "ticket");
    assert_eq!(peer["mayThere"].as_array().unwrap().len(), 6, "{peer}");
    has_members(&peer["grants"][0], GRANT);
    tells(&json(&["peers", "show", "desktop"])["peer"], PEER);
    has_members(&json(&["peers", "--verify"])["checks"][0], &["name", "ok", "detail", "fix"]);

    for session in ["here-1", "there-1"] {
        let sent = json(&["send", session, "hi", "--wait"]);
        has_members(&sent, &["requestId", "response", "event", "reply"]);
        has_members(&sent["event"], &["message", "turnIndex"]);
        assert_eq!(sent["reply"], "echo: hi");
        for words in [&["send", session, "again"][..], &["read", session], &["summary", session], &["abort", session]] {
            let answer = json(words);
            has_members(&answer, &["requestId", "response"]);
            assert_eq!(answer["response"]["success"], true, "{answer}");
        }
        assert_eq!(json(&["read", session])["response"]["data"]["message"]["content"], "echo: again");
        assert_eq!(json(&["clear", session, "--yes"])["response"]["data"]["cleared"], true);
    }

    let unpaired = json(&["unpair", "desktop"]);
    has_members(&unpaired, &["peer", "linkCut"]);
    has_members(&unpaired["peer"], &["name", "fingerprint"]);
    assert_eq!(unpaired["linkCut"], true);
    assert_eq!(json(&["peers"])["peers"], json!([]));
    json(&["stop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_for_people_and_says_the_same() {
    let pair = TestPair::start();
    let session = FakeSession::start(&pair.desktop.dir, &id("there-1")).unwrap();
    session.set_alias("work").unwrap();
    let dir = &pair.laptop.dir;
    eventually("the session is seen", || run(dir, &["sessions"]).out.contains("work"));
    let text = |words: &[&str]| run(dir, words).ends(0).out;
    #[track_caller]
    fn says(text: &str, words: &[&str]) {
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    }
    says(&text(&["id"]), &["laptop", &pair.laptop.fingerprint, &pair.laptop.fingerprint[7..23]]);
    let status = text(&["status"]);
    says(&status, &["1 of 1 connected", "TLSv1.3", "pid"]);
    assert!(!status.contains("SETTING"), "{status}");
    says(&text(&["status", "-v"]), &["SETTING", "port", "flag", "name", "file", "messageLimit", "default"]);
    let sessions = text(&["sessions"]);
    assert!(sessions.starts_with("NAME"), "{sessions}");
    says(&sessions, &["work", "there-1", "desktop"]);
    says(&text(&["peers"]), &["desktop", &pair.desktop.fingerprint, "full", "connected"]);
    says(&text(&["peers", "show", "desktop"]), &["may here", "may there", "via ticket"]);
    says(&text(&["peers", "--verify"]), &["ok", "peers.json"]);
    says(&text(&["send", "work", "hi"]), &["delivered to desktop/"]);
    assert_eq!(text(&["send", "work", "hi", "--wait"]), "echo: hi\n");
    assert_eq!(text(&["read", "work"]), "echo: hi\n");
    says(&text(&["summary", "work"]), &["turns"]);
    assert_eq!(text(&["abort", "work"]), "aborted\n");
    assert_eq!(text(&["clear", "work", "--yes"]), "cleared\n");
    assert_eq!(text(&["clear", "work", "-y"]), "it was empty already\n");
    let nothing = run(dir, &["read", "work"]).ends(0);
    assert_eq!((nothing.out.as_str(), nothing.err.trim_end()), ("", "no message yet"));
    says(&text(&["unpair", "desktop"]), &["not trusted any more", "link is cut"]);
    assert_eq!(text(&["stop"]), "stopped\n");
}

#[test]
fn without_a_daemon_every_command_ends_with_3_and_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir.path().join("none");
    for words in NEED_A_DAEMON {
        let failure = run(dir, &with_json(words)).ends(3).json_failure();
        assert_eq!(failure["code"], "daemon_not_running", "{words:?}");
        assert_eq!(failure["hint"], format!("pi-remote --dir {} daemon --background", dir.display()), "{failure}");
        let ran = run(dir, words).ends(3);
        assert!(ran.text_failure().contains("hint: "), "{}", ran.err);
    }
    assert!(!dir.exists(), "asking makes no directory");
}

#[test]
fn a_command_line_that_is_not_understood_ends_with_2_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: &[&[&str]] = &[
        &[],
        &["fly"],
        &["send"],
        &["send", "x"],
        &["send", "x", "hi", "--timeout", "soon"],
        &["send", "x", "hi", "--timeout", "0s"],
        &["send", "x", ""],
        &["clear", "x"],
        &["id", "--name", "localhost"],
        &["id", "--name", "a\u{1b}[2Jb"],
        &["peers", "address", "x"],
        &["unpair", ""],
        &["pair", "--grant", "full", "--replace", ""],
        &["pair", "--grant", "full", ""],
        &["pair", "--grant", "full", "me@host"],
        &["peers", "address", "x", "--add", "no-port"],
        &["peers", "--verify", "show", "x"],
        &["daemon", "--listen", "nowhere"],
        &["daemon", "--port", "70000"],
        &["daemon", "--log-format", "xml"],
        &["completions", "cmd"],
        &["man", "fly"],
        &["sessions", "extra"],
        &["--no-such-option", "id"],
    ];
    for words in wrong {
        let failure = run(dir.path(), &with_json(words)).ends(2).json_failure();
        assert_eq!(failure["code"], "usage", "{words:?}");
        assert!(failure["hint"].is_string(), "{words:?}: {failure}");
        let ran = run(dir.path(), words).ends(2);
        assert_eq!(ran.out, "", "{words:?}");
        assert!(!ran.err.contains('\u{1b}'), "{words:?}: {}", ran.err);
        if !words.is_empty() {
            ran.text_failure();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_says_no_ends_with_1_and_its_words() {
    let daemon = TestDaemon::start("laptop");
    let _session = FakeSession::start(&daemon.dir, &id("s-1")).unwrap();
    eventually("the session is seen", || daemon.sessions().len() == 1);
    let failure = run(&daemon.dir, &["summary", "s-1", "--json"]).ends(1).json_failure();
    assert_eq!(failure["code"], "session_said_no");
    assert!(failure["message"].as_str().unwrap().contains("No messages to summarize"), "{failure}");
    let ran = run(&daemon.dir, &["summary", "s-1"]).ends(1);
    assert!(ran.text_failure().contains("said no: No messages to summarize"));
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_and_ambiguous_are_4_and_different_words() {
    let pair = TestPair::start();
    let here = FakeSession::start(&pair.laptop.dir, &id("aaaa-1")).unwrap();
    let there = FakeSession::start(&pair.desktop.dir, &id("bbbb-1")).unwrap();
    here.set_alias("work").unwrap();
    there.set_alias("work").unwrap();
    let dir = &pair.laptop.dir;
    eventually("both are seen", || run(dir, &["sessions"]).out.matches("work").count() == 2);
    for (words, code) in [
        (["read", "nobody"].as_slice(), "session_not_found"),
        (&["read", "work"], "session_ambiguous"),
        (&["read", "desktop/nobody"], "session_not_found"),
        (&["read", "nowhere/work"], "peer_not_found"),
        (&["peers", "show", "nobody"], "peer_not_found"),
        (&["peers", "rename", "nobody", "x"], "peer_not_found"),
        (&["peers", "address", "nobody", "--add", "h:1"], "peer_not_found"),
        (&["unpair", "nobody"], "peer_not_found"),
        (&["unpair", "desk"], "peer_not_found"),
        (&["unpair", &pair.desktop.fingerprint[..23]], "peer_not_found"),
    ] {
        let failure = run(dir, &with_json(words)).ends(4).json_failure();
        assert_eq!(failure["code"], code, "{words:?}: {failure}");
        let ran = run(dir, words).ends(4);
        assert!(ran.text_failure().contains("hint: "), "{words:?}: {}", ran.err);
    }
    let ambiguous = run(dir, &["read", "work"]).err;
    assert!(ambiguous.contains("aaaa-1") && ambiguous.contains("desktop/bbbb-1"), "{ambiguous}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_is_8_and_a_retry_is_safe() {
    let mut pair = TestPair::start();
    let _session = FakeSession::start(&pair.desktop.dir, &id("s-1")).unwrap();
    eventually("the session is seen", || pair.laptop.sessions().len() == 1);
    pair.desktop.kill();
    eventually("the link is down", || pair.laptop.peer("desktop")["connected"] == false);
    for session in ["desktop/s-1", "desktop/a name", &format!("{}/s-1", pair.desktop.fingerprint)] {
        let failure = run(&pair.laptop.dir, &["send", session, "hi", "--json"]).ends(8).json_failure();
        assert_eq!(failure["delivered"], false, "{failure}");
        let ran = run(&pair.laptop.dir, &["send", session, "hi"]).ends(8);
        let text = ran.text_failure();
        assert!(text.contains("desktop") && text.contains("hint: "), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_trusts_this_device_no_more_is_5() {
    let pair = TestPair::start();
    run(&pair.desktop.dir, &["unpair", "laptop"]).ends(0);
    eventually("the link is cut", || pair.laptop.peer("desktop")["connected"] == false);
    for session in ["desktop/s-1", "desktop/a name"] {
        let failure = run(&pair.laptop.dir, &["send", session, "hi", "--json"]).ends(5).json_failure();
        assert_eq!((&failure["code"], &failure["delivered"]), (&json!("not_paired"), &json!(false)), "{failure}");
        assert!(failure["hint"].is_string(), "{failure}");
    }
    let peers = run(&pair.laptop.dir, &["peers"]).ends(0).out;
    assert!(peers.contains("trust"), "the reason shows: {peers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_6_and_says_whether_it_was_delivered() {
    let pair = TestPair::start();
    let slow = FakeBehaviour::default().with_delay(Duration::from_secs(60));
    let _here = FakeSession::start(&pair.laptop.dir, &id("here-1")).unwrap();
    let _there = FakeSession::start_with(&pair.desktop.dir, &id("there-1"), slow).unwrap();
    eventually("both are seen", || pair.laptop.sessions().len() == 2);
    for (session, message, wait) in [("here-1", "SLOW 60000", true), ("there-1", "hi", false), ("there-1", "hi", true)]
    {
        let mut words = vec!["send", session, message, "--timeout", "300ms"];
        words.extend(wait.then_some("--wait"));
        let failure = run(&pair.laptop.dir, &with_json(&words)).ends(6).json_failure();
        assert_eq!((&failure["code"], &failure["delivered"]), (&json!("timeout"), &json!(true)), "{failure}");
        run(&pair.laptop.dir, &words).ends(6).text_failure();
    }
}

#[test]
fn what_was_tampered_with_under_a_running_daemon_is_7() {
    let pair = TestPair::start();
    let dir = &pair.laptop.dir;
    // It is stored once: what is put back below is then what the daemon knows.
    let stored = || std::fs::read_to_string(dir.join("peers.json")).unwrap();
    eventually("what the peer told is stored", || stored().contains(env!("CARGO_PKG_VERSION")));
    for file in ["device.crt", "device.key", "peers.json"] {
        let path = dir.join(file);
        let sound = run(dir, &["peers", "--verify", "--json"]).ends(0).json();
        assert!(sound["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{sound}");
        let own = std::fs::read_to_string(&path).unwrap();
        let other = match file {
            "peers.json" => own.replace("desktop", "dasktop"),
            _ => std::fs::read_to_string(pair.desktop.dir.join(file)).unwrap(),
        };
        assert_ne!(own, other);
        // The daemon may store what it has just learned of its peer, and so undo it.
        let tampered = || {
            std::fs::write(&path, &other).unwrap();
            run(dir, &["peers", "--verify"]).code == 7
        };
        eventually("the tampering is noticed", tampered);
        let ran = run(dir, &["peers", "--verify", "--json"]).ends(7);
        assert_eq!(ran.json_failure()["code"], "verification_failed");
        let checks = ran.json()["checks"].clone();
        let bad: Vec<&Value> = checks.as_array().unwrap().iter().filter(|check| check["ok"] == false).collect();
        assert!(bad.len() == 1 && bad[0]["fix"].is_string(), "{file}: {bad:?}");
        let ran = run(dir, &["peers", "--verify"]).ends(7);
        assert!(ran.out.contains("FAIL") && ran.err.starts_with("error: "), "{file}: {ran:?}");
        std::fs::write(&path, own).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_130_and_cancels_the_call_at_the_session() {
    let pair = TestPair::start();
    let here = FakeSession::start(&pair.laptop.dir, &id("here-1")).unwrap();
    let there = FakeSession::start(&pair.desktop.dir, &id("there-1")).unwrap();
    eventually("both are seen", || pair.laptop.sessions().len() == 2);
    for (session, signal) in [(&here, Signal::SIGINT), (&there, Signal::SIGINT), (&there, Signal::SIGTERM)] {
        let words = ["send", session.id().as_str(), "SLOW 60000 words", "--wait"];
        // Each call is two lines: it asks for the turn's end too.
        let before = session.received().len();
        let text = Running::start(&pair.laptop.dir, &words);
        session.until_received(before + 2).await;
        text.signal(signal);
        assert_eq!(text.end().ends(130).out, "");
        session.until_connections(0).await;
        let json = Running::start(&pair.laptop.dir, &with_json(&words));
        session.until_received(before + 4).await;
        json.signal(signal);
        assert_eq!(json.end().ends(130).json_failure()["code"], "interrupted");
        session.until_connections(0).await;
    }
}

#[test]
fn json_behind_two_dashes_is_a_word() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["send", "x", "--", "--json"]).ends(3).text_failure();
}

#[test]
fn events_stream_one_a_line() {
    let daemon = TestDaemon::start("laptop");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut text = Running::start(&daemon.dir, &["events"]);
    let mut json = Running::start(&daemon.dir, &["events", "--json"]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A session that comes again and again, until both have subscribed.
        scope.spawn(|| {
            let _in_it = runtime.enter();
            while !ended.load(Ordering::Acquire) {
                let session = FakeSession::start(&daemon.dir, &id("s-1")).unwrap();
                eventually("it is seen", || daemon.sessions().len() == 1);
                drop(session);
                eventually("it has gone", || daemon.sessions().is_empty());
            }
        });
        let (event, line) = (json.json(), text.line());
        ended.store(true, Ordering::Release);
        assert_eq!((&event["type"], &event["data"]["sessionId"]), (&json!("event"), &json!("s-1")), "{event}");
        assert!(line.starts_with("session_") && line.contains("laptop/s-1"), "{line}");
    });
    text.signal(Signal::SIGINT);
    text.end().ends(130);
    json.signal(Signal::SIGTERM);
    assert_eq!(json.end().ends(130).lines().pop().unwrap()["error"]["code"], "interrupted");
}

#[test]
fn events_end_quietly_with_their_reader_and_with_3_when_the_daemon_stops() {
    let daemon = TestDaemon::start("laptop");
    let program = env!("CARGO_BIN_EXE_pi-remote");
    let script = format!("{program} --dir {} events | true; echo ${{PIPESTATUS[0]}}", daemon.dir.display());
    let ran = run_command(Command::new("bash").args(["-c", &script]));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("0\n", ""));

    let json = Running::start(&daemon.dir, &["events", "--json"]);
    eventually("the client is there", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", json.pid())).unwrap();
        let mut to = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        to.any(|to| to.to_string_lossy().starts_with("socket:"))
    });
    run(&daemon.dir, &["stop"]).ends(0);
    let failure = json.end().ends(3).lines().pop().unwrap();
    assert_eq!(failure["error"]["code"], "daemon_not_running");
}

#[test]
fn prose_is_broken_for_the_terminal_that_it_is_read_on_and_nowhere_else() {
    if !has_program("script") {
        return;
    }
    let command = format!("stty cols 80 rows 24; {} grant guest", env!("CARGO_BIN_EXE_pi-remote"));
    let ran = run_command(Command::new("script").args(["-qfec", &command, "/dev/null"]).env("NO_COLOR", "1"));
    let broken =
        "error: what is granted? A preset (full, ask, read, none), or verbs with --verbs\r\n       or --ask\r\n";
    assert!(ran.out.contains(broken), "{}", ran.out);
    let dir = tempfile::tempdir().unwrap();
    let piped = run(dir.path(), &["grant", "guest"]).ends(2);
    assert!(piped.err.contains("with --verbs or --ask\n"), "{}", piped.err);
}

#[test]
fn a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_pi-remote");
    for (words, code) in [("--help", 0), ("man", 0), ("completions bash", 0), ("man send", 0), ("fly --json", 2)] {
        // The reader has gone before a byte is written.
        let writer = format!("while kill -0 $reader 2>/dev/null; do :; done; {program} --dir {}", dir.path().display());
        let script = format!("exec 3> >(exec true); reader=$!; wait $reader; {writer} {words} >&3; echo $?");
        let ran = run_command(Command::new("bash").args(["-c", &script]));
        assert_eq!((ran.out.trim(), ran.err.as_str()), (code.to_string().as_str(), ""), "{words}");
    }
}

#[test]
fn a_failure_that_stdout_does_not_take_is_said_on_stderr() {
    let daemon = TestDaemon::start("laptop");
    let full = |words: &[&str]| {
        let stdout = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = pi_remote(&daemon.dir).args(words).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let ended = ended.wait_with_output().unwrap();
        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    };
    for words in [&["status", "--json"][..], &["status"]] {
        let (code, err) = full(words);
        assert_eq!(code, Some(1), "{words:?}");
        assert!(err.starts_with("error: writing to stdout failed\n") && err.contains("No space left"), "{err}");
    }
    let (code, err) = full(&["unpair", "nobody", "--json"]);
    assert!(code == Some(4) && err.contains("nobody"), "{code:?}: {err}");
}

#[test]
fn what_others_say_is_escaped_in_tables_and_in_json() {
    let evil = "a\u{1b}[2J\u{202e}b\nc\u{9b}d";
    let session = json!({"sessionId": evil, "name": evil, "aliases": [evil], "host": evil, "isRemote": true});
    let grant = json!({
        "id": evil, "peer": evil, "preset": evil, "allow": [evil], "ask": [evil], "deny": [evil], "sessions": [evil],
        "from": [evil], "expires": evil,
    });
    let granted = json!({"grant": grant, "grants": [grant, grant], "gained": [evil], "lost": [evil]});
    let peer = json!({
        "name": evil, "fingerprint": evil, "addresses": [evil], "connected": false, "lastSeen": evil, "why": evil,
        "version": evil, "grants": [grant.clone(), grant], "mayThere": [evil], "pairedAt": evil, "pairedVia": evil,
    });
    let daemon = MadeUpDaemon::start(move |request| match request["type"].as_str().unwrap() {
        "list_sessions" => json!({"sessions": [session]}),
        "peers" => json!({"peers": [peer]}),
        "status" => json!({}),
        "grants" => json!({"grants": peer["grants"]}),
        "grant" | "revoke" => granted.clone(),
        "identity" => json!({"name": evil, "fingerprint": evil, "short": evil}),
        "verify_peers" => json!({"checks": [{"name": evil, "ok": true, "detail": evil, "fix": evil}]}),
        "unpair" => json!({"peer": {"name": evil, "fingerprint": evil}, "linkCut": false}),
        "relay" => json!({
            "requestId": evil, "event": {"message": {"content": evil}},
            "response": {"success": true, "data": {"mode": evil, "message": {"content": evil}, "summary": evil}},
        }),
        other => panic!("{other}"),
    });
    let dir = daemon.dir.path();
    let harmful = |c: char| matches!(c, '\u{1b}' | '\u{202e}' | '\u{9b}');
    for words in [
        ["sessions"].as_slice(),
        &["peers"],
        &["peers", "show", evil],
        &["peers", "--verify"],
        &["grants"],
        &["grant", evil, "read"],
        &["revoke", "g1"],
        &["id"],
        &["unpair", "x"],
        &["send", evil, "x"],
        &["send", evil, "x", "--wait"],
        &["read", evil],
        &["summary", evil],
    ] {
        let text = run(dir, words).ends(0);
        assert!(text.out.contains("\\u{1b}") && text.out.contains("\\u{202e}"), "{words:?}: {}", text.out);
        let json = run(dir, &with_json(words)).ends(0);
        json.json();
        for ran in [text, json] {
            assert!(!ran.out.contains(harmful) && !ran.err.contains(harmful), "{words:?}: {ran:?}");
        }
    }
    for words in [["read", "x\u{1b}[2J\u{202e}"], ["unpair\u{1b}[2J\u{202e}", "x"]] {
        let ran = run(dir, &words);
        assert!(ran.code != 0 && !ran.err.contains(harmful), "{ran:?}");
    }
}

#[test]
fn without_a_terminal_there_is_no_colour_even_where_no_color_is_unset() {
    let daemon = TestDaemon::start("laptop");
    for word in ["sessions", "status", "fly"] {
        let ran = run_command(pi_remote(&daemon.dir).env_remove("NO_COLOR").env("TERM", "xterm").arg(word));
        assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
    }
}

#[test]
fn on_a_terminal_there_is_colour_unless_no_color_says_no() {
    if !has_program("script") {
        return;
    }
    let daemon = TestDaemon::start("laptop");
    for (no_color, coloured) in [("", true), ("1", false)] {
        let command = format!("{} --dir {} status", env!("CARGO_BIN_EXE_pi-remote"), daemon.dir.display());
        let mut script = Command::new("script");
        script.args(["-qfec", &command, "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", no_color);
        let ran = run_command(&mut script).ends(0);
        assert_eq!(ran.out.contains('\u{1b}'), coloured, "NO_COLOR={no_color}: {:?}", ran.out);
    }
}

#[test]
fn completions_the_manual_and_the_help_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let text = |words: &[&str]| run(dir.path(), words).ends(0).out;
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&["completions", shell]);
        assert!(script.contains("pi-remote") && script.contains("unpair"), "{shell}: {script}");
    }
    assert!(text(&["man"]).contains(".TH"));
    assert!(text(&["--version"]).starts_with("pi-remote "));
    let help = text(&["--help"]);
    for words in [
        "pair --ticket",
        "--wait",
        "< message.txt",
        "unpair laptop",
        "Exit codes",
        "130",
        "--dir",
        "--json",
        "PI_REMOTE_DIR",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let commands = commands.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "help");
    let mut seen = 0;
    for command in commands {
        let help = text(&[command, "--help"]);
        assert!(help.contains(&format!("Usage: pi-remote {command}")) && help.contains("--json"), "{help}");
        assert!(text(&["man", command]).contains(".TH"), "{command}");
        seen += 1;
    }
    assert!(seen >= 25, "{seen}");
}

#[test]
fn the_identity_is_what_openssl_computes_and_takes_a_name() {
    let daemon = TestDaemon::start("laptop");
    let dir = &daemon.dir;
    let named = run(dir, &["id", "--name", "workbench", "--json"]).ends(0).json();
    assert_eq!(named["name"], "workbench");
    assert_eq!(named["fingerprint"].as_str(), Some(daemon.fingerprint.as_str()));
    assert!(run(dir, &["id"]).ends(0).out.contains("workbench"));
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["name"], "workbench");
    if has_program("openssl") {
        let script =
            "openssl x509 -in device.crt -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256";
        let ran = run_command(Command::new("sh").args(["-c", script]).current_dir(dir));
        assert!(ran.ends(0).out.contains(&daemon.fingerprint[7..]));
    }
}

#[test]
fn a_peer_is_renamed_and_its_addresses_change() {
    let pair = TestPair::start();
    let dir = &pair.laptop.dir;
    let peer = |words: &[&str]| -> Value {
        let ran: Ran = run(dir, &with_json(words));
        ran.ends(0).json()["peer"].clone()
    };
    let addresses = |peer: &Value| -> Vec<String> { serde_json::from_value(peer["addresses"].clone()).unwrap() };
    assert_eq!(peer(&["peers", "rename", "desktop", "desk"])["name"], "desk");
    assert_eq!(run(dir, &["peers", "show", "desktop", "--json"]).ends(4).json_failure()["code"], "peer_not_found");
    assert_eq!(peer(&["peers", "show", &pair.desktop.fingerprint])["name"], "desk");
    let added = peer(&["peers", "address", "desk", "--add", "desk.example:7433", "--add", "[::1]:9"]);
    for address in ["desk.example:7433", "[::1]:9"] {
        assert!(addresses(&added).iter().any(|known| known == address), "{address}: {added}");
    }
    let removed = peer(&["peers", "address", "desk", "--remove", "desk.example:7433"]);
    assert!(!addresses(&removed).iter().any(|known| known.starts_with("desk.example")), "{removed}");
    let again = run(dir, &["peers", "address", "desk", "--remove", "desk.example:7433", "--json"]).ends(1);
    assert_eq!(again.json_failure()["code"], "invalid_request");
    assert!(run(dir, &["peers", "rename", "desk", "localhost"]).ends(2).err.contains("localhost"));
    assert!(run(dir, &["peers"]).ends(0).out.contains("desk"));
    assert_eq!(pair.laptop.peer("desk")["connected"], true, "the link has not suffered");
}

#[test]
fn stdin_that_is_empty_no_text_or_too_long_is_refused_before_anything_is_sent() {
    let daemon = TestDaemon::start("laptop");
    let words = ["send", "x", "-", "--json"];
    assert_eq!(run_in(&daemon.dir, &words, "").ends(2).json_failure()["code"], "usage");
    let failure = run_in(&daemon.dir, &words, &"x".repeat(9 * 1024 * 1024)).ends(1).json_failure();
    assert_eq!((&failure["code"], &failure["delivered"]), (&json!("too_large"), &json!(false)));
    let mut command = Command::new("sh");
    command.args(["-c", "printf '\\377' | \"$0\" --dir \"$1\" send x - --json"]).arg(env!("CARGO_BIN_EXE_pi-remote"));
    assert_eq!(run_command(command.arg(&daemon.dir)).ends(2).json_failure()["code"], "usage");
}
