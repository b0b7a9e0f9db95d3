//! The sessions of this machine: how they come, are renamed, crash and go, as clients see it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::process::{Process, daemon_command, state_dir};
use crate::support::{Control, DEADLINE, TestDaemon, eventually};

fn start(daemon: &TestDaemon, id: &str) -> FakeSession {
    FakeSession::start(&daemon.dir, &id.parse().unwrap()).unwrap()
}

fn list(client: &mut Control) -> Vec<Value> {
    client.ask(json!({"type": "list_sessions"}))["data"]["sessions"].as_array().unwrap().clone()
}

fn aliases(daemon: &TestDaemon, id: &str) -> Vec<String> {
    let all = list(&mut daemon.control());
    let session = all.iter().find(|session| session["sessionId"] == id).cloned().unwrap_or_default();
    session["aliases"].as_array().into_iter().flatten().map(|alias| alias.as_str().unwrap().to_owned()).collect()
}

fn refresh(daemon: &TestDaemon) {
    let answer = daemon.ask(json!({"type": "/refresh-daemon"}));
    assert_eq!(answer["data"]["message"], "Refreshed local session and peer state");
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_change_while_the_session_lives() {
    let daemon = TestDaemon::start("a");
    let mut subscriber = daemon.control();
    subscriber.ask(json!({"type": "subscribe"}));
    let (first, second) = (start(&daemon, "s-1"), start(&daemon, "s-2"));
    eventually("both are listed", || daemon.sessions() == ["a/s-1", "a/s-2"]);
    first.set_alias("work").unwrap();
    eventually("the alias shows", || aliases(&daemon, "s-1") == ["work"]);
    first.set_alias("büro ☕").unwrap();
    eventually("both show", || aliases(&daemon, "s-1") == ["büro ☕", "work"]);
    second.set_alias("work").unwrap();
    eventually("it has moved", || aliases(&daemon, "s-2") == ["work"] && aliases(&daemon, "s-1") == ["büro ☕"]);
    second.remove_alias("work").unwrap();
    eventually("it is gone", || aliases(&daemon, "s-2").is_empty());
    refresh(&daemon);
    let mut view: HashMap<String, Value> = HashMap::new();
    subscriber.send(&json!({"type": "status", "id": "end"}));
    loop {
        let line = subscriber.next();
        let data = line["data"].clone();
        let id = data["sessionId"].as_str().unwrap_or_default().to_owned();
        match line["event"].as_str() {
            Some("session_added") => assert!(view.insert(id, data).is_none(), "added twice: {line}"),
            Some("session_renamed") => {
                let before = view.insert(id, data.clone());
                assert!(before.is_some_and(|before| before != data), "renamed to what it was called: {line}");
            }
            Some(other) => panic!("{other}"),
            None => break,
        }
    }
    let mut seen: Vec<Value> = view.into_values().collect();
    seen.sort_by_key(|session| session["sessionId"].to_string());
    assert_eq!(seen, list(&mut daemon.control()), "the events lead to the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_session_is_dropped_when_it_is_asked_or_looked_at_and_listed_when_it_is_back() {
    let daemon = TestDaemon::start("a");
    let mut subscriber = daemon.control();
    subscriber.ask(json!({"type": "subscribe"}));
    let mut told = |event: &str| {
        let line = subscriber.next();
        assert_eq!((&line["event"], &line["data"]["sessionId"]), (&event.into(), &"s".into()), "{line}");
    };
    for looked_at in [false, true] {
        let session = start(&daemon, "s");
        told("session_added");
        session.crash().await;
        if looked_at {
            refresh(&daemon);
        } else {
            let command = json!({"type": "get_message"});
            let answer = daemon.ask(json!({"type": "relay", "targetSessionId": "s", "rpcCommand": command}));
            assert_eq!((&answer["success"], &answer["delivered"]), (&false.into(), &false.into()), "{answer}");
        }
        told("session_removed");
        assert!(daemon.dir.join("s.sock").exists(), "its socket is not the daemon's to remove");
        assert_eq!(daemon.sessions(), [""; 0]);
    }
    let _back = start(&daemon, "s");
    told("session_added");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_told_of_once_when_it_comes_and_once_when_it_goes() {
    let daemon = TestDaemon::start("a");
    let mut subscriber = daemon.control();
    subscriber.ask(json!({"type": "subscribe"}));
    for round in 0..5 {
        let ids: Vec<String> = (0..20).map(|n| format!("s-{round}-{n}")).collect();
        let sessions: Vec<FakeSession> = ids.iter().map(|id| start(&daemon, id)).collect();
        refresh(&daemon);
        assert_eq!(daemon.sessions().len(), ids.len());
        for session in &sessions {
            session.stop().await;
        }
        refresh(&daemon);
        drop(sessions);
    }
    refresh(&daemon);
    subscriber.send(&json!({"type": "/refresh-daemon"}));
    let (mut here, mut been) = (HashSet::new(), HashSet::new());
    loop {
        let line = subscriber.next();
        let id = line["data"]["sessionId"].as_str().map(str::to_owned);
        match line["event"].as_str() {
            Some("session_added") => assert!(here.insert(id.clone()) && been.insert(id), "added twice: {line}"),
            Some("session_removed") => assert!(here.remove(&id), "removed twice or before it came: {line}"),
            Some(other) => panic!("{other}"),
            None => break,
        }
    }
    assert_eq!((here.len(), been.len()), (0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_session_of_this_directory_is_ignored_with_one_warning_each() {
    let (_keep, dir) = state_dir();
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = UnixListener::bind(elsewhere.path().join("out.sock")).unwrap();
    let long = "x".repeat(64);
    let _unsafe: Vec<UnixListener> = ["-dash.sock", ".hidden.sock", "with space.sock", "tab\t.sock"]
        .map(|name| UnixListener::bind(dir.join(name)).unwrap())
        .into();
    std::fs::write(dir.join("plain.sock"), "").unwrap();
    symlink(elsewhere.path().join("out.sock"), dir.join("linked.sock")).unwrap();
    symlink(elsewhere.path().join("out.sock"), dir.join("away.alias")).unwrap();
    symlink("../../../etc/passwd", dir.join("up.alias")).unwrap();
    symlink("good.sock", dir.join("esc\u{1b}[31m.alias")).unwrap();
    symlink("good.sock", dir.join(format!("{long}y.alias"))).unwrap();
    symlink("good.sock", dir.join(format!("{long}.alias"))).unwrap();
    let good = FakeSession::start(&dir, &"good".parse().unwrap()).unwrap();
    symlink("good.sock", dir.join("again.sock")).unwrap();
    let daemon = Process::start(daemon_command(&dir), &dir);
    let mut client = daemon.control();
    for _ in 0..3 {
        client.ask(json!({"type": "/refresh-daemon"}));
    }
    let listed = list(&mut client);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["sessionId"], &listed[0]["aliases"]), (&"good".into(), &json!([long])));
    let log = daemon.log();
    for name in [
        "-dash.sock",
        ".hidden.sock",
        "with space.sock",
        "tab",
        "plain.sock",
        "linked.sock",
        "away.alias",
        "up.alias",
        "again.sock",
        "xxxy.alias",
        "[31m.alias",
    ] {
        let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains(name)).count();
        assert_eq!(warnings, 1, "{name} in {log}");
    }
    assert!(!log.contains('\t') && !log.contains("\u{1b}[31m.alias"), "names are escaped: {log}");
    assert!(!log.contains("daemon.sock\""), "its own socket is no session: {log}");
    // Nobody was connected to outside.
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err());
    for target in ["daemon", "linked", "again", "-dash", "..", "../s/good", ""] {
        let command = json!({"type": "get_message"});
        let answer = client.ask(json!({"type": "relay", "targetSessionId": target, "rpcCommand": command}));
        assert_eq!(
            (&answer["success"], &answer["error"]),
            (&false.into(), &format!("Session {target} not found").into())
        );
    }
    drop(good);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_of_another_name_finds_no_session_by_itself() {
    // `relay` takes ids alone, as the original's does; names are the command line's affair.
    let daemon = TestDaemon::start("a");
    let session = start(&daemon, "s");
    session.set_alias("work").unwrap();
    eventually("the alias shows", || aliases(&daemon, "s") == ["work"]);
    let command = json!({"type": "get_message"});
    let answer = daemon.ask(json!({"type": "relay", "targetSessionId": "work", "rpcCommand": command}));
    assert_eq!(answer["code"], "session_not_found");
    assert_eq!(daemon.cli(&["read", "work"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_held_once_the_socket_has_gone() {
    let daemon = TestDaemon::start("a");
    for (id, members) in
        [("s", json!({"waitUntil": "turn_end"})), ("t", json!({"waitUntil": "turn_end", "fireAndForget": true}))]
    {
        let session = start(&daemon, id);
        eventually("it is listed", || daemon.sessions().contains(&format!("a/{id}")));
        let mut client = daemon.control();
        for n in 0..10 {
            let mut request = json!({
                "type": "relay", "targetSessionId": id, "id": n.to_string(),
                "rpcCommand": {"type": "send", "message": "SLOW 60000 a"},
            });
            request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            client.send(&request);
        }
        client.send(&json!({"type": "status", "id": "all read"}));
        client.until(|line| line["id"] == "all read");
        // Each asks for the end of its turn too.
        session.until_received(20).await;
        let stopped = tokio::time::timeout(Duration::from_secs(1), session.stop()).await;
        assert!(stopped.is_ok(), "{} connections still open", session.open_connections());
        if members.get("fireAndForget").is_none() {
            for _ in 0..10 {
                let answer = client.next();
                assert_eq!(
                    (&answer["success"], &answer["code"]),
                    (&false.into(), &"session_refused".into()),
                    "{answer}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_makes_way_for_another_of_its_id_is_let_go_at_once() {
    let daemon = TestDaemon::start("a");
    let first = start(&daemon, "s");
    eventually("it is listed", || daemon.sessions() == ["a/s"]);
    let mut client = daemon.control();
    let send = json!({"type": "send", "message": "SLOW 60000 a"});
    client.send(&json!({"type": "relay", "targetSessionId": "s", "rpcCommand": send, "waitUntil": "turn_end"}));
    // Its command and the wish to hear of the end of its turn; a connection alone may be a look at the socket.
    first.until_received(2).await;
    std::fs::remove_file(first.socket()).unwrap();
    let second = start(&daemon, "s");
    tokio::time::timeout(Duration::from_secs(1), first.until_connections(0)).await.expect("let go");
    assert_eq!(client.next()["success"], false);
    let command = json!({"type": "get_message"});
    eventually("the new one is asked", || {
        daemon.ask(json!({"type": "relay", "targetSessionId": "s", "rpcCommand": command}))["success"] == true
    });
    assert_eq!(second.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_were_there_before_the_daemon_are_listed_as_soon_as_it_is_ready() {
    let (_keep, dir) = state_dir();
    let session = FakeSession::start(&dir, &"early".parse().unwrap()).unwrap();
    session.set_alias("bird").unwrap();
    let daemon = Process::start(daemon_command(&dir), &dir);
    let listed = list(&mut daemon.control());
    assert_eq!((listed.len(), &listed[0]["aliases"]), (1, &json!(["bird"])));
    let name = listed[0]["name"].as_str().unwrap().to_owned();
    assert!(name.split('-').count() == 2, "adjective and noun: {name}");
    // The name stays while the session lives, also over a restart of the daemon.
    eventually("it is written down", || {
        std::fs::read_to_string(dir.join("names/early")).is_ok_and(|n| n.trim() == name)
    });
    drop(daemon);
    let daemon = Process::start(daemon_command(&dir), &dir);
    assert_eq!(list(&mut daemon.control())[0]["name"], name.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_are_listed() {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    if hard < 4096 {
        eprintln!("SKIPPED, needs more descriptors: a thousand sessions");
        return;
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft.max(4096), hard).unwrap();
    let daemon = TestDaemon::start("a");
    let mut subscriber = daemon.control();
    subscriber.ask(json!({"type": "subscribe"}));
    let socket = |n| daemon.dir.join(format!("s-{n:04}.sock"));
    let sessions: Vec<UnixListener> = (0..1000).map(|n| UnixListener::bind(socket(n)).unwrap()).collect();
    eventually("all are listed", || daemon.sessions().len() == 1000);
    let listed = daemon.sessions();
    assert_eq!((listed[0].as_str(), listed[999].as_str()), ("a/s-0000", "a/s-0999"));
    let names: HashSet<Value> = list(&mut daemon.control()).iter().map(|session| session["name"].clone()).collect();
    assert!(names.len() > 500, "{} names", names.len());
    let added: HashSet<String> = (0..1000).map(|_| subscriber.next()["data"]["sessionId"].to_string()).collect();
    assert_eq!(added.len(), 1000);
    drop(sessions);
    for n in 0..1000 {
        std::fs::remove_file(socket(n)).unwrap();
    }
    eventually("none is listed", || daemon.sessions().is_empty());
    let begun = std::time::Instant::now();
    refresh(&daemon);
    assert!(begun.elapsed() < DEADLINE);
}
