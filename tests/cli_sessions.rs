//! Which session a word means, and what the session verbs do to it.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use pi_remote::session::fake::{FakeBehaviour, FakeSession};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cli::{Running, has_program, run, run_command, run_in, until_gone};
use crate::support::{TestDaemon, TestPair, eventually, pi_remote};

fn session(daemon: &TestDaemon, id: &str, alias: &str) -> FakeSession {
    let session = FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap();
    session.set_alias(alias).unwrap();
    session
}

/// The `send`s that a session has received.
fn sent(session: &FakeSession) -> Vec<Value> {
    let lines = session.received().into_iter().map(|line| serde_json::from_slice::<Value>(&line).unwrap());
    lines.filter(|line| line["type"] == "send").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_means_an_id_a_prefix_a_name_an_alias_or_one_of_a_peer() {
    let pair = TestPair::start();
    let here = session(&pair.laptop, "abcd-0001", "work");
    let there = session(&pair.desktop, "bcde-0001", "build");
    let both = session(&pair.laptop, "cdef-0001", "tests");
    let twin = session(&pair.desktop, "cdef-0001", "tests");
    let other = session(&pair.desktop, "bcde-0002", "abcd-0001");
    let dir = &pair.laptop.dir;
    let names = || -> Vec<Value> {
        let list = run(dir, &["sessions", "--json"]).ends(0).json();
        list["sessions"].as_array().unwrap().clone()
    };
    eventually("all are seen", || names().iter().filter(|s| s["aliases"] != json!([])).count() == 5);
    let name_of = |id: &str, host: &str| -> String {
        let found = names().into_iter().find(|s| s["sessionId"] == id && s["host"] == host).unwrap();
        found["name"].as_str().unwrap().to_owned()
    };
    let (here_name, there_name) = (name_of("abcd-0001", "laptop"), name_of("bcde-0001", "desktop"));
    let by_fingerprint = format!("{}/build", pair.desktop.fingerprint);
    let reached: &[(&str, &FakeSession)] = &[
        ("abcd-0001", &here), // though a remote alias is equal
        ("abcd", &here),
        ("work", &here),
        (&here_name, &here),
        ("laptop/work", &here),
        ("bcde-0001", &there),
        ("bcde-0002", &other),
        ("build", &there),
        (&there_name, &there),
        ("desktop/bcde-0001", &there),
        ("desktop/build", &there),
        (&by_fingerprint, &there),
        ("cdef-0001", &both),
        ("laptop/tests", &both),
        ("desktop/tests", &twin),
        ("desktop/cdef-0001", &twin),
        ("desktop/abcd-0001", &other),
    ];
    for (round, (word, session)) in reached.iter().enumerate() {
        let message = format!("message {round}");
        run(dir, &["send", word, &message]).ends(0);
        assert_eq!(sent(session).last().unwrap()["message"], *message, "{word}");
    }
    for (word, code) in [
        ("tests", "session_ambiguous"),
        ("bcde", "session_ambiguous"),
        ("desktop/bcde", "session_ambiguous"),
        ("cde", "session_not_found"),
        ("desktop/work", "session_not_found"),
        ("WORK", "session_not_found"),
    ] {
        let failure = run(dir, &["send", word, "nobody", "--json"]).ends(4).json_failure();
        assert_eq!(failure["code"], code, "{word}");
    }
    for (verb, extra) in [("clear", Some("--yes")), ("abort", None)] {
        let words: Vec<&str> = [verb, "abcd"].into_iter().chain(extra).collect();
        let ran = run(dir, &words).ends(4);
        assert!(ran.text_failure().contains("hint: ") && ran.err.contains("abcd-0001"), "{}", ran.err);
        for word in ["abcd-0001", "work", "desktop/build"] {
            let words: Vec<&str> = [verb, word].into_iter().chain(extra).collect();
            run(dir, &words).ends(0);
        }
    }
    for session in [&here, &there, &both, &twin, &other] {
        assert!(sent(session).iter().all(|command| command["message"] != "nobody"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_as_it_was_given() {
    let pair = TestPair::start();
    let there = session(&pair.desktop, "s-1", "work");
    let dir = &pair.laptop.dir;
    eventually("it is seen", || run(dir, &["sessions"]).out.contains("work"));
    let last = || sent(&there).pop().unwrap();
    let mut ids = Vec::new();
    for (words, stdin, message) in [
        (vec!["send", "work", "hi"], "", "hi".to_owned()),
        (vec!["send", "work", "-"], "from stdin\n", "from stdin".into()),
        (vec!["send", "work", "-"], "two\r\nlines\r\n", "two\r\nlines".into()),
        (
            vec!["send", "work", "-", "--wait"],
            "\ttab and \"quotes\" and \u{1f600}\n\n",
            "\ttab and \"quotes\" and \u{1f600}\n".into(),
        ),
        (vec!["send", "work", "--", "-x"], "", "-x".into()),
        (vec!["send", "work", "--", "--wait"], "", "--wait".into()),
        (vec!["send", "work", "-"], &"big ".repeat(1024 * 1024), "big ".repeat(1024 * 1024)),
    ] {
        run_in(dir, &words, stdin).ends(0);
        let command = last();
        assert!(command["message"] == *message, "{words:?}: another message came");
        assert_eq!(command["mode"], "steer");
        let id: Uuid = command["messageId"].as_str().unwrap().parse().unwrap();
        assert_eq!(id.get_version_num(), 4);
        ids.push(id);
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "no id twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_turn_is_steered_or_followed_up() {
    let daemon = TestDaemon::start("laptop");
    let here = session(&daemon, "s-1", "work");
    eventually("it is seen", || run(&daemon.dir, &["sessions"]).out.contains("work"));
    assert!(run(&daemon.dir, &["send", "work", "SLOW 60000"]).ends(0).out.contains("(direct)"));
    assert!(run(&daemon.dir, &["send", "work", "now"]).ends(0).out.contains("(steer)"));
    assert!(run(&daemon.dir, &["send", "work", "later", "--follow-up"]).ends(0).out.contains("(follow_up)"));
    let modes: Vec<Value> = sent(&here).iter().map(|command| command["mode"].clone()).collect();
    assert_eq!(modes, ["steer", "steer", "follow_up"]);
    let busy = run(&daemon.dir, &["clear", "work", "--yes"]).ends(1);
    assert!(busy.text_failure().contains("busy"), "{}", busy.err);
    run(&daemon.dir, &["abort", "work"]).ends(0);
    eventually("the turn ends", || run(&daemon.dir, &["clear", "work", "--yes"]).code == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_prints_the_reply_whole_and_harmless() {
    let pair = TestPair::start();
    let _there = session(&pair.desktop, "s-1", "work");
    let dir = &pair.laptop.dir;
    eventually("it is seen", || run(dir, &["sessions"]).out.contains("work"));
    let big = run(dir, &["send", "work", "BIG 3000000", "--wait", "--timeout", "60s"]).ends(0);
    assert_eq!(big.out.len(), 3_000_001);
    let slow = run(dir, &["send", "work", "SLOW 200 words", "--wait", "--json"]).ends(0).json();
    assert_eq!(slow["reply"], "echo: SLOW 200 words");
    run(dir, &["send", "work", "a\u{1b}]52;c;eA==\u{7}\u{202e}b\nc"]).ends(0);
    assert_eq!(run(dir, &["read", "work"]).ends(0).out, "echo: a\\u{1b}]52;c;eA==\\u{7}\\u{202e}b\nc\n");
    let json = run(dir, &["read", "work", "--json"]).ends(0);
    assert!(!json.out.contains(['\u{1b}', '\u{202e}', '\u{7}']));
    assert_eq!(json.json()["response"]["data"]["message"]["content"], "echo: a\u{1b}]52;c;eA==\u{7}\u{202e}b\nc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_answers_nonsense_or_nothing_has_its_own_words() {
    let daemon = TestDaemon::start("laptop");
    let start = |id: &str, behaviour| FakeSession::start_with(&daemon.dir, &id.parse().unwrap(), behaviour).unwrap();
    let _closing = start("closing", FakeBehaviour::default().close_without_answer());
    let _nonsense = start("nonsense", FakeBehaviour::default().answer_raw("nonsense\n"));
    let silent = start("silent", FakeBehaviour::default().with_delay(Duration::from_secs(60)));
    eventually("all are seen", || daemon.sessions().len() == 3);
    for id in ["closing", "nonsense"] {
        let failure = run(&daemon.dir, &["read", id, "--json"]).ends(1).json_failure();
        assert_eq!(failure["code"], "session_refused", "{failure}");
        run(&daemon.dir, &["read", id]).ends(1).text_failure();
    }
    let waiting = Running::start(&daemon.dir, &["read", "silent", "--json"]);
    silent.until_received(1).await;
    waiting.signal(Signal::SIGHUP);
    assert_eq!(waiting.end().ends(130).json_failure()["code"], "interrupted");
    silent.until_connections(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_end_during_a_call_is_told() {
    let mut pair = TestPair::start();
    let there = session(&pair.desktop, "s-1", "work");
    let dir = pair.laptop.dir.clone();
    eventually("it is seen", || run(&dir, &["sessions"]).out.contains("work"));
    let words = ["send", "work", "SLOW 60000", "--wait", "--json"];
    let waiting = Running::start(&dir, &words);
    there.until_received(2).await;
    pair.desktop.kill();
    let failure = waiting.end().ends(1).json_failure();
    assert_eq!((&failure["code"], &failure["delivered"]), (&json!("peer_disconnected"), &json!(true)), "{failure}");

    let here = session(&pair.laptop, "s-2", "here");
    eventually("it is seen", || run(&dir, &["sessions"]).out.contains("here"));
    let waiting = Running::start(&dir, &["send", "here", "SLOW 60000", "--wait", "--json"]);
    here.until_received(2).await;
    pair.laptop.kill();
    let failure = waiting.end().ends(3).json_failure();
    assert_eq!(failure["delivered"], true, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_asks_on_a_terminal() {
    if !has_program("script") {
        return;
    }
    let daemon = TestDaemon::start("laptop");
    let here = session(&daemon, "s-1", "work");
    eventually("it is seen", || run(&daemon.dir, &["sessions"]).out.contains("work"));
    let cleared = || here.received().iter().filter(|line| line.windows(7).any(|w| w == b"\"clear\"")).count();
    for (answer, code, clears) in [("n\n", 130, 0), ("\n", 130, 0), ("y\n", 0, 1)] {
        let command = format!("{} --dir {} clear work", env!("CARGO_BIN_EXE_pi-remote"), daemon.dir.display());
        let mut terminal = Running::spawn(Command::new("script").args(["-qfec", &command, "/dev/null"]));
        terminal.until("[y/N]");
        terminal.write(answer);
        terminal.until("\n");
        terminal.wait_until_over();
        terminal.end().ends(code);
        assert_eq!(cleared(), clears, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_asks_nothing_about_what_is_no_session_or_several() {
    if !has_program("script") {
        return;
    }
    let daemon = TestDaemon::start("laptop");
    let _sessions = [session(&daemon, "sess-1", "work"), session(&daemon, "sess-2", "other")];
    eventually("both are seen", || daemon.sessions().len() == 2);
    for (named, says) in [("nowhere", "no session answers to"), ("sess", "takes no part of an id")] {
        let mut terminal = Running::on_terminal(&daemon.dir, &format!("clear {named}"));
        let shown = terminal.until("\n");
        let ran = terminal.end().ends(4);
        let shown = shown + &ran.out;
        assert!(shown.contains(says) && !shown.contains("[y/N]"), "{shown}");
    }
}

#[test]
fn the_state_directory_comes_from_the_option_the_environment_or_the_home() {
    let daemon = TestDaemon::start("laptop");
    let home = tempfile::tempdir().unwrap();
    let plain = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
        command.env_remove("PI_REMOTE_DIR").env("HOME", home.path());
        command
    };
    let named = run_command(plain().env("PI_REMOTE_DIR", &daemon.dir).args(["id", "--json"])).ends(0).json();
    assert_eq!(named["name"], "laptop");
    let relative = daemon.dir.file_name().unwrap();
    let mut there = plain();
    there.current_dir(daemon.dir.parent().unwrap()).arg("--dir").arg(relative).args(["id", "--json"]);
    assert_eq!(run_command(&mut there).ends(0).json()["name"], "laptop");
    let wins = run_command(pi_remote(&daemon.dir).env("PI_REMOTE_DIR", "/nowhere").args(["id", "--json"])).ends(0);
    assert_eq!(wins.json()["name"], "laptop");
    for command in [plain().args(["id"]), plain().env("PI_REMOTE_DIR", "").args(["id"])] {
        let ran = run_command(command).ends(3);
        assert!(ran.text_failure().contains(".pi/remote-control"), "{}", ran.err);
    }
    let pid = daemon.pid();
    run(&daemon.dir, &["stop"]).ends(0);
    until_gone(pid);
}
