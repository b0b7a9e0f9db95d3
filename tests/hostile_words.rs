//! What a paired peer says, made to mislead whoever reads it or to break what reads it: in events, in
//! the log and in messages of every kind.

use std::sync::atomic::{AtomicBool, Ordering};

use pi_remote::wire::ids::is_unsafe_to_show;
use serde_json::{Value, json};

use crate::support::cli::Running;
use crate::support::peer::{HandPeer, announced};
use crate::support::{TestDaemon, eventually};

/// Clears a screen, sets a clipboard, turns the text round, and begins lines of its own.
const EVIL: &str =
    "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{202e}live\u{9b}31m\r\n2026-01-01T00:00:00Z  INFO pi_remote: forged\u{2028}";

fn assert_harmless(line: &str) {
    assert_eq!(line.chars().find(|c| is_unsafe_to_show(*c)), None, "{line:?}");
    assert!(line.len() < 20_000, "{} bytes", line.len());
}

#[test]
fn a_peers_words_forge_no_line_and_drive_no_terminal_in_events() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, EVIL);
    let mut link = peer.link(&daemon, &[]);
    let streams = [&["events"] as &[&str], &["events", "--json"]].map(|words| Running::start(&daemon.dir, words));
    let long = EVIL.repeat(100);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Again and again, until both have subscribed and seen it.
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                for name in [EVIL, &long] {
                    for kind in ["session_added", "session_renamed"] {
                        let session = json!({"sessionId": "s-1", "name": format!("{name}{kind}"), "aliases": [name]});
                        link.send(&json!({"type": kind, "session": session}));
                    }
                }
                link.send(&json!({"type": "session_removed", "sessionId": "s-1"}));
                link.ping();
            }
        });
        for mut stream in streams {
            for kind in ["session_added", "session_renamed", "session_removed"] {
                let mut line = String::new();
                while !line.contains(kind) {
                    line = stream.line();
                    assert!(line.starts_with("session_") || line.starts_with('{'), "{line:?}");
                    assert_harmless(line.trim_end_matches('\n'));
                }
                if kind != "session_removed" {
                    // It is there, and can be seen.
                    let escaped =
                        [r"\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{202e}live\u{9b}31m", r"aGk=\u0007\u001b[2J\u202elive"];
                    assert!(escaped.iter().any(|escaped| line.contains(escaped)), "{line}");
                }
            }
        }
        ended.store(true, Ordering::Release);
    });
}

#[test]
fn a_peers_words_forge_no_line_and_drive_no_terminal_in_the_log() {
    for format in ["text", "json"] {
        let daemon = TestDaemon::start_with("desktop", &["-v", "--log-format", format], json!({}));
        let peer = HandPeer::paired(&daemon, EVIL);
        let word = Value::from(EVIL);
        for broken in [
            json!({"type": "cancel", "id": word}),
            json!({"type": "session_added", "session": {"sessionId": word, "name": "x", "aliases": word}}),
            json!({"type": "rpc", "id": 1, "targetSessionId": word, "command": word}),
            json!({"type": "rpc_response", "id": 1, "error": {"code": word, "message": word}, "response": word}),
            json!({"type": "bye", "reason": word}),
            json!({"type": word}),
            word.clone(),
        ] {
            let mut link = peer.link(&daemon, &[]);
            link.send(&broken);
            link.send(&json!({"type": "bye", "reason": "check"}));
            link.rest();
        }
        let mut hello = peer.hello(&[]);
        hello["heartbeatInterval"] = word.clone();
        let mut link = peer.dial(&daemon);
        link.send(&hello);
        link.rest();
        daemon.ask(json!({"type": "unpair", "peer": peer.fingerprint().to_string()}));
        eventually("all of it is in the log", || daemon.log().contains("unpaired"));
        let log = daemon.log();
        assert!(log.matches("broke the protocol").count() >= 3, "{log}");
        for line in log.lines() {
            assert_harmless(line);
            assert!(!line.starts_with("2026-01-01") && !line.starts_with("live"), "a forged line: {log}");
        }
    }
}

#[test]
fn an_id_that_is_no_text_is_left_out() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let hello = peer.hello(&["good", "PLACE"]).to_string();
    for half in [r"\ud800", r"x\udc00", r"\u0000", r"\u002e\u002e\u002fx"] {
        let mut link = peer.dial(&daemon);
        link.send_bytes(hello.replace(r#""sessionId":"PLACE""#, &format!(r#""sessionId":"{half}""#)).as_bytes());
        link.until("hello");
        link.ping();
        assert_eq!(daemon.sessions(), ["mallory/good"], "{half}");
    }
}

#[test]
fn deep_nesting_in_any_message_costs_its_link_at_most() {
    let daemon = TestDaemon::start("desktop");
    let peer = HandPeer::paired(&daemon, "mallory");
    let mut hello = peer.hello(&[]);
    hello["allows"] = "DEEP".into();
    let mut features = peer.hello(&[]);
    features["features"] = json!(["DEEP"]);
    let mut sessions = peer.hello(&[]);
    sessions["sessions"] = json!([announced("s-1"), {"sessionId": "s-2", "name": "x", "aliases": "DEEP"}, "DEEP"]);
    let first = [hello, features, sessions];
    let later = [
        json!({"type": "session_added", "session": {"sessionId": "s-3", "name": "x", "aliases": ["DEEP"]}}),
        json!({"type": "session_removed", "sessionId": "DEEP"}),
        json!({"type": "heartbeat", "ping": 1, "more": "DEEP"}),
        json!({"type": "rpc", "id": 1, "targetSessionId": "s-1", "waitUntil": "DEEP", "command": {"type": "abort"}}),
        json!({"type": "rpc", "id": 2, "targetSessionId": "DEEP", "command": {"type": "abort"}}),
        json!({"type": "rpc_progress", "id": 1, "code": "DEEP"}),
        json!({"type": "rpc_response", "id": 1, "error": {"code": "DEEP", "message": "DEEP"}}),
        json!({"type": "rpc_response", "id": 1, "response": {}, "event": "DEEP"}),
        json!({"type": "checked", "id": 1, "results": ["DEEP"]}),
        json!({"type": "bye", "reason": "DEEP"}),
        json!({"type": "later", "more": "DEEP"}),
        json!({"type": "DEEP"}),
    ];
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        for (greeting, message) in first.iter().map(|m| (true, m)).chain(later.iter().map(|m| (false, m))) {
            let mut link = if greeting { peer.dial(&daemon) } else { peer.link(&daemon, &["s-1"]) };
            link.send_bytes(message.to_string().replace("\"DEEP\"", &deep).as_bytes());
            link.send(&json!({"type": "bye", "reason": "check"}));
            // It ends, one way or the other; a daemon whose stack had run over would be gone.
            link.rest();
        }
    }
    assert_eq!(daemon.ask(json!({"type": "status"}))["success"], true);
    peer.link(&daemon, &[]).ping();
}
