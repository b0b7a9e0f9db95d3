//! Who did what, from outside: what is on record, what is not, and that nobody changes it unseen.

use std::io::Write;
use std::path::Path;

use nix::sys::signal::Signal;
use pi_remote::audit::Rotation;
use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::cli::{Running, run};
use crate::support::disk::OnSmallDisk;
use crate::support::instant::{Machine, Stop};
use crate::support::peer::HandPeer;
use crate::support::process::{Process, daemon_command, state_dir};
use crate::support::{Control, TestDaemon, TestPair, eventually};

/// The log's lines, everything written before.
fn log(dir: &Path) -> Vec<Value> {
    run(dir, &["audit", "--json", "-n", "100000"]).ends(0).lines()
}

/// What `audit --verify` says of a log that is whole.
#[track_caller]
fn is_whole(dir: &Path) -> Value {
    let report = run(dir, &["audit", "--verify", "--json"]).ends(0).json();
    assert_eq!((&report["ok"], &report["broken"]), (&json!(true), &Value::Null), "{report}");
    report
}

/// A call to a session that is nowhere; each has a line of its own.
fn call(control: &mut Control, session: &str) -> Value {
    control.ask(json!({"type": "relay", "targetSessionId": session, "rpcCommand": {"type": "get_message"}}))
}

fn sessions_of(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter(|line| line["action"] == "relay").map(|line| line["session"].as_str().unwrap()).collect()
}

fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if path.is_file() && String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(text) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_on_record_at_both_ends_and_what_was_said_is_nowhere() {
    let pair = TestPair::start();
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let _session = FakeSession::start(&desktop.dir, &"s-1".parse().unwrap()).unwrap();
    eventually("the session is seen", || laptop.sessions() == ["desktop/s-1"]);
    let sent = laptop.ask(json!({
        "type": "relay", "targetSessionId": "s-1",
        "rpcCommand": {"type": "send", "message": "words-of-nobodys-business"}, "waitUntil": "turn_end",
    }));
    assert_eq!(sent["success"], true, "{sent}");
    let is_call = |line: &&Value| line["action"] == "relay";
    for (daemon, direction, peer) in [(laptop, "out", desktop), (desktop, "in", laptop)] {
        let lines = log(&daemon.dir);
        let calls: Vec<&Value> = lines.iter().filter(is_call).collect();
        assert_eq!(calls.len(), 1, "{lines:?}");
        let expected = json!(["send", "s-1", "ok", direction, peer.fingerprint]);
        let line = calls[0];
        assert_eq!(
            json!([line["verb"], line["session"], line["result"], line["direction"], line["fingerprint"]]),
            expected
        );
        assert_eq!(lines[0]["action"], "start");
        assert!(lines.iter().any(|line| line["action"] == "link_up"), "{lines:?}");
        assert_eq!(files_with(&daemon.dir, "words-of-nobodys"), Vec::<String>::new());
        is_whole(&daemon.dir);
    }
    let by_fingerprint = run(&desktop.dir, &["audit", "--peer", &laptop.fingerprint]).ends(0).out;
    let row = by_fingerprint.lines().find(|line| line.contains(" send ")).unwrap();
    assert!(row.contains("  laptop  ") && !row.contains("s-1") && row.len() <= 80, "by its name: {row}");
    desktop.ask(json!({"type": "peer_rename", "peer": "laptop", "name": "kims"}));
    let renamed = run(&desktop.dir, &["audit", "--json", "--peer", "kims"]).ends(0).lines();
    assert!(renamed.iter().any(|line| line["verb"] == "send"), "a rename hides nothing: {renamed:?}");
    let unknown = run(&desktop.dir, &["audit", "--peer", "nobody"]).ends(4);
    assert!(unknown.err.contains("the peers: kims"), "{}", unknown.err);
}

#[test]
fn what_a_peer_was_refused_is_on_record_with_its_code() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let mut link = peer.link(&daemon, &[]);
    let outcome = link.call(1, "s-\u{1b}[31m", json!({"type": "rm\u{202e}", "message": "secret-words"}));
    assert!(outcome["error"]["code"].is_string(), "{outcome}");
    let lines = log(&daemon.dir);
    let refused = lines.iter().find(|line| line["action"] == "relay").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(refused["peer"], "mallory");
    assert_eq!(refused["fingerprint"], peer.fingerprint().to_string());
    assert_eq!((&refused["result"], &refused["direction"]), (&json!("fail"), &json!("in")));
    assert_eq!(refused["code"], outcome["error"]["code"]);
    let text = std::fs::read_to_string(daemon.dir.join("audit.log")).unwrap();
    assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}') && !text.contains("secret-words"), "{text}");
}

#[test]
fn a_peer_that_is_refused_again_and_again_does_not_grow_the_log() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let mut link = peer.link(&daemon, &[]);
    let calls = 3000;
    for id in 0..calls {
        let verb = if id % 2 == 0 { "get_message".to_owned() } else { format!("verb-{id}") };
        link.send(&json!({"type": "rpc", "id": id, "targetSessionId": format!("s-{id}"), "command": {"type": verb}}));
        link.until("rpc_response");
    }
    let lines = log(&daemon.dir);
    let of_calls: Vec<&Value> = lines.iter().filter(|line| line["action"] == "relay").collect();
    // Windows end while it goes on; each has 8 lines of a kind and its count.
    assert!(of_calls.len() < 200, "{} lines", of_calls.len());
    let all: u64 = of_calls.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(all, calls, "every call is counted");
    is_whole(&daemon.dir);
}

#[test]
fn whoever_changes_the_log_is_found_out_whether_the_daemon_runs_or_not() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change, u64); 5] = [
        ("edited", |lines| lines[3] = lines[3].replace("s-2", "s-9"), 4),
        ("missing", |lines| drop(lines.remove(3)), 4),
        ("out of order", |lines| lines.swap(3, 4), 4),
        ("cut off", |lines| lines.truncate(6), 7),
        ("does not have", |lines| lines.insert(3, r#"{"timestamp":"x","peer":"a","action":"relay"}"#.into()), 4),
    ];
    for (what, change, place) in changes {
        let mut daemon = TestDaemon::start("desktop");
        let mut control = daemon.control();
        (0..8).for_each(|n| drop(call(&mut control, &format!("s-{n}"))));
        is_whole(&daemon.dir);
        let path = daemon.dir.join("audit.log");
        let before = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = before.lines().map(str::to_owned).collect();
        change(&mut lines);
        let found = |daemon: &TestDaemon, when: &str| {
            let report = run(&daemon.dir, &["audit", "--verify", "--json"]).ends(7).json();
            let broken = &report["broken"];
            assert_eq!(
                (&report["ok"], &broken["file"]),
                (&json!(false), &json!("audit.log")),
                "{what}, {when}: {report}"
            );
            assert_eq!(broken["line"], place, "{what}, {when}: {report}");
            let said = run(&daemon.dir, &["audit", "--verify"]).ends(7);
            assert!(said.text_failure().contains(&format!("audit.log:{place}: ")), "{}", said.err);
            broken["what"].as_str().unwrap().to_owned()
        };
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let said = found(&daemon, "running");
        assert!(said.contains(what), "{what}: {said}");
        call(&mut control, "s-more");
        found(&daemon, "running on");
        daemon.kill();
        found(&daemon, "stopped");
        daemon.run(&[]);
        found(&daemon, "started again");
    }
}

#[test]
fn a_kill_loses_nothing_that_was_written_and_a_stop_nothing_at_all() {
    let mut daemon = TestDaemon::start("desktop");
    let mut control = daemon.control();
    (0..20).for_each(|n| drop(call(&mut control, &format!("s-{n}"))));
    assert_eq!(control.ask(json!({"type": "audit_sync"}))["success"], true);
    (20..40).for_each(|n| drop(call(&mut control, &format!("s-{n}"))));
    daemon.kill();
    is_whole(&daemon.dir);
    daemon.run(&[]);
    let lines = log(&daemon.dir);
    let sessions = sessions_of(&lines);
    assert!((0..20).all(|n| sessions.contains(&format!("s-{n}").as_str())), "{sessions:?}");
    assert_eq!(is_whole(&daemon.dir)["unsealed"], 0);

    let mut control = daemon.control();
    (40..60).for_each(|n| drop(call(&mut control, &format!("s-{n}"))));
    control.ask(json!({"type": "kill"}));
    assert_eq!(control.line(), None);
    eventually("it has ended", || !daemon.dir.join("daemon.pid").exists());
    let lines = log(&daemon.dir);
    let sessions = sessions_of(&lines);
    assert!((40..60).all(|n| sessions.contains(&format!("s-{n}").as_str())), "{sessions:?}");
    assert_eq!(lines.last().unwrap()["action"], "stop");
    assert_eq!(is_whole(&daemon.dir)["unsealed"], 0);
}

#[test]
fn a_rotated_log_is_read_followed_and_checked_as_one() {
    let mut machine = Machine::start("desktop");
    machine.stop(Stop::Politely);
    machine.rotation = Rotation { size: 2500, keep: 4 };
    machine.run();
    let mut following = Running::start(&machine.dir, &["--json", "audit", "--follow", "-n", "1"]);
    let first: Value = serde_json::from_str(&following.line()).unwrap();
    assert_eq!(first["action"], "start");
    let mut control = machine.control();
    for n in 0..60 {
        call(&mut control, &format!("s-{n}"));
        control.ask(json!({"type": "audit_sync"}));
        let line: Value = serde_json::from_str(&following.line()).unwrap();
        assert_eq!(line["session"], format!("s-{n}"), "each comes once and in its turn: {line}");
    }
    following.signal(Signal::SIGINT);
    assert_eq!(following.end().code, 130);
    let names: Vec<String> = (1..=4).rev().map(|n| format!("audit.log.{n}")).chain(["audit.log".into()]).collect();
    let report = is_whole(&machine.dir);
    assert_eq!(report["files"], json!([names.clone(), vec!["trust.log".into()]].concat()));
    assert!(!machine.dir.join("audit.log.5").exists());
    let lines = log(&machine.dir);
    let numbers: Vec<u64> = lines.iter().map(|line| line["n"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "{numbers:?}");
    assert!(numbers[0] > 1, "the oldest have gone");
    let last = run(&machine.dir, &["audit", "--json", "-n", "30"]).ends(0).lines();
    assert_eq!(last.len(), 30, "over more than one file");

    std::fs::remove_file(machine.dir.join("audit.log.4")).unwrap();
    let report = run(&machine.dir, &["audit", "--verify", "--json"]).ends(7).json();
    assert_eq!((&report["broken"]["file"], &report["broken"]["line"]), (&json!("audit.log.3"), &json!(1)), "{report}");
}

#[test]
fn the_originals_lines_are_read_and_become_part_of_the_chain() {
    let (_keep, dir) = state_dir();
    let line =
        r#"{"timestamp":"2025-06-01T08:00:00.000Z","peer":"beta","action":"relay","data":{"a":1},"result":"ok"}"#;
    std::fs::write(dir.join("audit.log"), format!("{line}\n")).unwrap();
    assert_eq!(is_whole(&dir)["unsealed"], 1, "no daemon of this program has run yet");
    assert_eq!(log(&dir)[0]["peer"], "beta");
    let daemon = Process::start(daemon_command(&dir), &dir);
    let lines = log(&dir);
    let actions: Vec<&str> = lines.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["relay", "adopt", "start"]);
    assert_eq!((&lines[1]["data"]["kind"], &lines[1]["data"]["lines"]), (&json!("original"), &json!(1)));
    assert_eq!(is_whole(&dir)["unsealed"], 0);
    let shown = run(&dir, &["audit"]).ends(0).out;
    assert!(shown.contains("2025-06-01 08:00:00") && shown.contains("beta"), "{shown}");
    drop(daemon);
}

#[test]
fn without_a_log_there_is_nothing_to_show_and_nothing_wrong() {
    let (_keep, dir) = state_dir();
    assert!(log(&dir).is_empty());
    assert_eq!(
        is_whole(&dir),
        json!({
            "ok": true, "files": [], "lines": 0, "broken": null, "faults": [], "unsealed": 0, "doubts": []
        })
    );
    let missing = dir.join("nowhere");
    assert_eq!(run(&missing, &["audit", "--json"]).ends(1).json_failure()["code"], "io");
    assert!(!missing.exists(), "it makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_nothing_changes_a_session_and_afterwards_it_goes_on_by_itself() {
    let Some(mut disk) = OnSmallDisk::start() else { return };
    let inside = disk.inside.clone();
    let session = FakeSession::start(&inside, &"s".parse().unwrap()).unwrap();
    let mut control = Control::connect(&inside.join("daemon.sock"));
    let relay = |control: &mut Control, command: Value| {
        control.ask(json!({"type": "relay", "targetSessionId": "s", "rpcCommand": command, "timeoutMs": 5000}))
    };
    let reads = |control: &mut Control| relay(control, json!({"type": "get_message"}))["success"] == true;
    eventually("the session is there", || reads(&mut control));
    eventually("its name is written", || inside.join("names/s").exists());
    assert_eq!(control.ask(json!({"type": "audit_sync"}))["success"], true);

    let full = disk.fill();
    // What is in the last page of the log has room still.
    let mut n = 0;
    eventually("the log is full", || {
        n += 1;
        call(&mut control, &format!("{n}-{}", "x".repeat(100)));
        control.ask(json!({"type": "audit_sync"}))["code"] == "audit_failed"
    });
    let status = control.ask(json!({"type": "status"}));
    assert!(status["data"]["auditFailure"].as_str().unwrap().contains("No space left"), "{status}");
    let before = session.received().len();
    let refused = relay(&mut control, json!({"type": "send", "message": "x"}));
    assert_eq!((&refused["success"], &refused["code"]), (&json!(false), &json!("audit_failed")), "{refused}");
    assert_eq!(session.received().len(), before, "nothing reached it");
    assert!(reads(&mut control), "reading goes on");
    let text = std::fs::read_to_string(inside.join("audit.log")).unwrap();
    assert!(text.ends_with("}\n"), "nothing half-written stays");
    assert_eq!(disk.daemon.log().matches("the audit log cannot be written").count(), 1, "{}", disk.daemon.log());

    drop(full);
    eventually("it is written again", || {
        control.ask(json!({"type": "status"}))["data"].get("auditFailure").is_none_or(Value::is_null)
    });
    let sent = relay(&mut control, json!({"type": "send", "message": "x"}));
    assert_eq!(sent["success"], true, "{sent}");
    assert_eq!(control.ask(json!({"type": "audit_sync"}))["success"], true);
    let lines = log(&inside);
    assert!(lines.iter().any(|line| line["code"] == "audit_failed"), "the refusal itself is on record");
    assert_eq!(is_whole(&inside)["unsealed"], 0);
    session.stop().await;
    disk.daemon.signal(15);
    disk.daemon.until_ended();
}

/// A line that fits behind the last one of a log, as anybody can compute it.
fn forge(dir: &Path) -> u64 {
    use sha2::{Digest, Sha256};
    let path = dir.join("audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    let last = text.lines().last().unwrap();
    let n = serde_json::from_str::<Value>(last).unwrap()["n"].as_u64().unwrap() + 1;
    let prev: String = Sha256::digest(last).iter().map(|byte| format!("{byte:02x}")).collect();
    let line = json!({"timestamp": "2026-01-01T00:00:00.000Z", "peer": "kim", "action": "relay", "result": "ok",
        "n": n, "prev": prev});
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    n
}

#[test]
fn a_line_forged_while_the_daemon_runs_is_told_and_one_forged_before_is_named() {
    let mut daemon = TestDaemon::start("desktop");
    is_whole(&daemon.dir);
    daemon.kill();
    let n = forge(&daemon.dir);
    let what = "1 line is not sealed: written by a crash or by somebody else";
    assert_eq!(is_whole(&daemon.dir)["doubts"][0]["what"], what);
    daemon.run(&[]);
    let report = is_whole(&daemon.dir);
    assert_eq!((&report["unsealed"], &report["doubts"][0]["line"]), (&json!(0), &json!(n)), "{report}");
    let mut control = daemon.control();
    assert_eq!(control.ask(json!({"type": "status"}))["data"]["auditBroken"], Value::Null);

    let n = forge(&daemon.dir);
    let report = run(&daemon.dir, &["audit", "--verify", "--json"]).ends(7).json();
    assert_eq!((&report["broken"]["file"], &report["broken"]["line"]), (&json!("audit.log"), &json!(n)), "{report}");
    let status = control.ask(json!({"type": "status"}));
    let said = status["data"]["auditBroken"].as_str().unwrap();
    assert!(said.contains("not written by this daemon"), "{said}");
    assert!(run(&daemon.dir, &["status"]).ends(0).out.contains("not written by this daemon"));
}

#[test]
fn what_is_no_file_where_a_log_should_be_fails_the_check_with_words() {
    let (_keep, dir) = state_dir();
    nix::unistd::mkfifo(&dir.join("audit.log"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let said = run(&dir, &["audit", "--verify"]).ends(7);
    assert!(said.text_failure().contains("audit.log:1: it is a pipe"), "{}", said.err);
}

#[test]
fn a_line_in_no_chain_put_there_while_no_daemon_ran_is_told_at_the_start_and_for_good() {
    for file in ["audit.log", "trust.log"] {
        let mut daemon = TestDaemon::start("desktop");
        is_whole(&daemon.dir);
        daemon.kill();
        let line = r#"{"timestamp":"2026-01-01T00:00:00.000Z","peer":"kim","action":"grant","result":"ok"}"#;
        let mut log = std::fs::OpenOptions::new().append(true).open(daemon.dir.join(file)).unwrap();
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
        let broken = |daemon: &TestDaemon| {
            let report = run(&daemon.dir, &["audit", "--verify", "--json"]).ends(7).json();
            assert_eq!(report["broken"]["file"], file, "{report}");
            report["broken"]["line"].clone()
        };
        let place = broken(&daemon);
        daemon.run(&[]);
        assert_eq!(broken(&daemon), place, "it is named where it stands");
        let status = daemon.control().ask(json!({"type": "status"}));
        assert!(status["data"]["auditBroken"].as_str().is_some_and(|said| said.starts_with(file)), "{status}");
    }
}

#[test]
fn no_lines_are_shown_where_none_are_asked_for_and_what_is_no_number_is_refused() {
    let daemon = TestDaemon::start("desktop");
    let none = run(&daemon.dir, &["audit", "-n", "0"]).ends(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", ""), "as `tail` does");
    for number in ["x", "-1", "1.5", ""] {
        let said = run(&daemon.dir, &["audit", &format!("-n={number}")]).ends(2);
        assert!(said.out.is_empty() && said.err.contains("-n"), "{number}: {}", said.err);
    }
}

#[test]
fn an_answer_that_comes_after_the_time_out_is_on_record_as_none() {
    let daemon = TestDaemon::start("desktop");
    let friend = HandPeer::paired(&daemon, "friend");
    let mut link = friend.link(&daemon, &["theirs"]);
    let mut control = daemon.control();
    let read = |timeout: u64| {
        json!({
            "type": "relay", "targetSessionId": "theirs", "rpcCommand": {"type": "get_message"}, "timeoutMs": timeout
        })
    };
    control.send(&read(50));
    let call = link.until("rpc");
    assert_eq!(control.next()["code"], "timeout");
    assert_eq!(link.until("cancel")["id"], call["id"]);
    link.answer(&call, json!({"success": true}));
    link.ping();
    // What comes behind it is answered, so that was taken in.
    control.send(&read(60_000));
    let call = link.until("rpc");
    link.answer(&call, json!({"success": true}));
    assert_eq!(control.next()["success"], true);
    let lines = log(&daemon.dir);
    let calls = lines.iter().filter(|line| line["action"] == "relay");
    let said: Vec<Value> = calls.map(|line| json!([line["peer"], line["result"], line["code"]])).collect();
    assert_eq!(said, [json!(["friend", "fail", "timeout"]), json!(["friend", "ok", null])], "{lines:?}");
    is_whole(&daemon.dir);
}
