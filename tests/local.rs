//! The local side: who may use the state directory, and what happens when it is not as it must be.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pi_remote::session::fake::FakeSession;
use serde_json::{Value, json};

use crate::support::disk::OnSmallDisk;
use crate::support::process::{Process, behind, daemon_command, is_root, refusal, state_dir};
use crate::support::{Control, TestDaemon, eventually, pair, pi_remote, set_mode};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs a hint as a user would.
fn run_hint(hint: &str) {
    assert!(hint.starts_with("chmod "), "{hint}");
    assert!(Command::new("sh").args(["-c", hint]).status().unwrap().success(), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_umask_of_zero_leaves_nothing_open() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("deep").join("s");
    let command = behind(&["sh", "-c", "umask 0; exec \"$@\"", "x"], &daemon_command(&dir));
    let daemon = Process::start(command, &dir);
    let _session = FakeSession::start(&dir, &"s".parse().unwrap()).unwrap();
    eventually("the session's name is written", || dir.join("names/s").exists());
    let other = TestDaemon::start("other");
    let mut offering = other.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let mut client = daemon.control();
    let joined = client.ask(json!({"type": "pair_join", "ticket": offer["data"]["ticket"], "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    assert_eq!(client.ask(json!({"type": "identity", "name": "x"}))["success"], true);
    let mut seen = Vec::new();
    for directory in [keep.path().join("deep"), dir.clone(), dir.join("names")] {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                assert_eq!(mode(&path) & 0o177, 0, "{} is {:o}", path.display(), mode(&path));
                seen.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let state = ["daemon.sock", "daemon.pid", "daemon.lock", "device.key", "peers.json", "config.json"];
    for name in state.into_iter().chain(["audit.log", "audit.head", "trust.log", "trust.head"]) {
        assert!(seen.iter().any(|file| file == name), "{name} among {seen:?}");
    }
    assert_eq!(mode(&dir.join("daemon.sock")), 0o600);
}

/// Says what a client gets at a socket, for the test that runs itself as another user.
fn try_as_a_client(socket: &str) {
    let outcome = UnixStream::connect(socket).map(|mut stream| {
        let _ = stream.write_all(b"{\"type\":\"status\"}\n{\"type\":\"/kill-daemon\"}\n");
        let mut answer = String::new();
        // A reset is an end too: what was sent had not been read.
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    match outcome {
        Ok(answer) => println!("OUTCOME connected, {} bytes", answer.len()),
        Err(e) => println!("OUTCOME {:?}", e.kind()),
    }
}

#[test]
fn a_process_of_another_user_gets_no_answer() {
    if let Ok(socket) = std::env::var("SOCKET_TO_TRY") {
        return try_as_a_client(&socket);
    }
    if !is_root("another user at the control socket") {
        return;
    }
    let (keep, dir) = state_dir();
    let daemon = Process::start(daemon_command(&dir), &dir);
    let program = keep.path().join("client");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(keep.path(), 0o755);
    let try_it = || {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "local::a_process_of_another_user_gets_no_answer", "--nocapture"])
            .env("SOCKET_TO_TRY", dir.join("daemon.sock"))
            .current_dir("/")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().find_map(|line| line.split_once("OUTCOME ")).unwrap_or_else(|| panic!("{output:?}")).1.to_owned()
    };
    assert_eq!(try_it(), "PermissionDenied", "the directory is closed");
    set_mode(&dir, 0o711);
    assert_eq!(try_it(), "PermissionDenied", "the socket is closed");
    set_mode(&dir.join("daemon.sock"), 0o666);
    assert_eq!(try_it(), "connected, 0 bytes", "the peer's credentials are looked at");
    assert!(daemon.log().contains("another user"), "{}", daemon.log());
    assert_eq!(daemon.control().ask(json!({"type": "status"}))["success"], true);
}

#[test]
fn what_is_no_socket_in_its_place_stops_the_start_and_is_left_untouched() {
    let (keep, dir) = state_dir();
    let socket = dir.join("daemon.sock");

    std::fs::write(&socket, "mine").unwrap();
    let (code, message, hint) = refusal(&dir);
    assert!(code == "io" && message.contains("daemon.sock") && message.contains("untouched"), "{message}");
    assert!(!hint.is_empty());
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "mine");
    std::fs::remove_file(&socket).unwrap();

    let target = keep.path().join("target");
    for exists in [false, true] {
        if exists {
            std::fs::write(&target, "theirs").unwrap();
        }
        symlink(&target, &socket).unwrap();
        let (_, message, _) = refusal(&dir);
        assert!(message.contains("a symlink"), "{message}");
        assert_eq!(std::fs::read_link(&socket).unwrap(), target);
        assert_eq!(target.exists(), exists);
        std::fs::remove_file(&socket).unwrap();
    }

    std::fs::create_dir(&socket).unwrap();
    refusal(&dir);
    assert!(socket.is_dir());
    std::fs::remove_dir(&socket).unwrap();
    drop(Process::start(daemon_command(&dir), &dir));
}

#[test]
fn a_socket_that_somebody_else_answers_on_is_left_to_them() {
    let (_keep, dir) = state_dir();
    let _original = std::os::unix::net::UnixListener::bind(dir.join("daemon.sock")).unwrap();
    let (_, message, hint) = refusal(&dir);
    assert!(message.contains("another daemon answers"), "{message}");
    assert!(hint.contains("original"), "{hint}");
}

#[test]
fn the_socket_of_a_daemon_that_was_killed_is_replaced() {
    let mut daemon = TestDaemon::start("a");
    let socket = daemon.dir.join("daemon.sock");
    for _ in 0..3 {
        daemon.kill();
        assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket(), "kill -9 leaves it");
        daemon.run(&[]);
        assert_eq!(daemon.ask(json!({"type": "status"}))["data"]["pid"], daemon.pid());
        assert_eq!(std::fs::read_to_string(daemon.dir.join("daemon.pid")).unwrap().trim(), daemon.pid().to_string());
    }
}

#[test]
fn a_second_daemon_is_refused_and_told_who_the_first_is() {
    let daemon = TestDaemon::start("a");
    let (code, message, hint) = refusal(&daemon.dir);
    assert_eq!(code, "io");
    assert!(message.contains(&format!("pid {}", daemon.pid())), "{message}");
    assert!(hint.contains(&format!("pi-remote --dir {} stop", daemon.dir.display())), "{hint}");
    assert_eq!(daemon.ask(json!({"type": "status"}))["data"]["pid"], daemon.pid(), "the first goes on");
}

#[test]
fn of_many_daemons_started_at_once_exactly_one_runs() {
    let (_keep, dir) = state_dir();
    let start =
        || daemon_command(&dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut children: Vec<_> = (0..8).map(|_| start()).collect();
    let mut running = 0;
    eventually("all but one have ended", || {
        running = children.iter_mut().filter_map(|child| child.try_wait().unwrap().is_none().then_some(())).count();
        running <= 1
    });
    assert_eq!(running, 1);
    eventually("it answers", || UnixStream::connect(dir.join("daemon.sock")).is_ok());
    let pid =
        Control::connect(&dir.join("daemon.sock")).ask(json!({"type": "status"}))["data"]["pid"].as_u64().unwrap();
    let mut survivor =
        children.into_iter().find(|child| u64::from(child.id()) == pid).expect("the one that runs answers");
    assert!(survivor.try_wait().unwrap().is_none());
    survivor.kill().unwrap();
    survivor.wait().unwrap();
}

#[test]
fn loose_modes_are_refused_with_the_command_that_mends_them() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("it's a \"state\" dir");
    std::fs::create_dir(&dir).unwrap();
    for loose in [0o755, 0o750, 0o701, 0o777] {
        set_mode(&dir, loose);
        let (_, message, hint) = refusal(&dir);
        assert!(message.contains("open to others") && message.contains(&format!("{loose:04o}")), "{message}");
        assert_eq!(mode(&dir), loose, "nothing is mended in silence");
        run_hint(&hint);
        assert_eq!(mode(&dir), 0o700);
    }
    drop(Process::start(daemon_command(&dir), &dir));

    let key = dir.join("device.key");
    for loose in [0o644, 0o640, 0o604] {
        set_mode(&key, loose);
        let (_, message, hint) = refusal(&dir);
        assert!(message.contains("device.key") && message.contains("open to others"), "{message}");
        run_hint(&hint);
        assert_eq!(mode(&key), 0o600);
    }
    drop(Process::start(daemon_command(&dir), &dir));

    let link = keep.path().join("link");
    symlink(&dir, &link).unwrap();
    let (_, message, _) = refusal(&link);
    assert!(message.contains("symlink"), "{message}");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    if !is_root("a state directory of another user") {
        return;
    }
    let (_keep, dir) = state_dir();
    std::os::unix::fs::chown(&dir, Some(65534), Some(65534)).unwrap();
    let (_, message, hint) = refusal(&dir);
    assert!(message.contains("belongs to user 65534"), "{message}");
    assert!(!hint.is_empty());
}

#[test]
fn a_path_too_long_for_a_socket_is_named_with_its_length_and_the_limit() {
    let keep = tempfile::tempdir().unwrap();
    let base = keep.path().as_os_str().len();
    let socket = "/daemon.sock".len();
    // One byte too long, and then exactly as long as can be.
    for (length, fits) in [(108, false), (107, true)] {
        let dir = keep.path().join("d".repeat(length - base - 1 - socket));
        if fits {
            drop(Process::start(daemon_command(&dir), &dir));
        } else {
            let (_, message, hint) = refusal(&dir);
            assert!(message.contains("has 108 bytes") && message.contains("at most 107"), "{message}");
            assert!(hint.contains("--dir"), "{hint}");
            let client = pi_remote(&dir).arg("status").output().unwrap();
            assert!(!client.status.success(), "nothing runs there");
        }
    }
}

#[test]
fn a_full_disk_leaves_the_old_pins_and_is_said() {
    let Some(mut disk) = OnSmallDisk::start() else { return };
    let inside = disk.inside.clone();
    let control = || Control::connect(&inside.join("daemon.sock"));
    let (first, second) = (TestDaemon::start("first"), TestDaemon::start("second"));
    let offer = |daemon: &TestDaemon| {
        let mut client = daemon.control();
        let answer = client.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "id": "o"}));
        (client, answer["data"]["ticket"].clone())
    };
    let join =
        |client: &mut Control, ticket| client.ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    let (_offering, ticket) = offer(&first);
    let joined = join(&mut control(), ticket);
    assert_eq!(joined["success"], true, "{joined}");
    // Whom it trusts; beside that the file says where a peer was last seen.
    let pins = || {
        let file: Value = serde_json::from_slice(&std::fs::read(inside.join("peers.json")).unwrap()).unwrap();
        let peers = file["peers"].as_array().unwrap();
        peers.iter().map(|peer| (peer["name"].clone(), peer["fingerprint"].clone())).collect::<Vec<_>>()
    };
    let before = vec![(json!("first"), json!(first.fingerprint))];
    assert_eq!(pins(), before);

    // Where the first one's link came from is noted by itself: a change of the pins is what is tried here.
    eventually("what its link told is written", || {
        std::fs::read_to_string(inside.join("peers.json")).unwrap().contains("\"seenFrom\"")
    });
    let full = disk.fill();

    // It joins: the other side has stored its pin, and it says that this side has not.
    let (mut offering, ticket) = offer(&second);
    let refused = join(&mut control(), ticket);
    assert_eq!((&refused["success"], &refused["code"]), (&false.into(), &"io".into()), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("No space left"), "{refused}");
    let there = offering.until(|line| line["type"] == "event");
    assert!(there["event"] == "pair_failed" || there["data"]["confirmed"] == false, "{there}");
    assert_eq!(pins(), before, "the old pins stay");

    // It offers: nobody stores anything.
    let mut offering = control();
    let ticket =
        offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}))["data"]["ticket"].clone();
    let third = TestDaemon::start("third");
    let refused = join(&mut third.control(), ticket);
    assert_eq!(refused["success"], false, "{refused}");
    let failed = offering.until(|line| line["type"] == "event");
    assert_eq!(failed["event"], "pair_failed", "{failed}");
    assert!(failed["data"]["error"]["message"].as_str().unwrap().contains("No space left"), "{failed}");
    assert_eq!(third.ask(json!({"type": "peers"}))["data"]["peers"], json!([]));
    assert_eq!(pins(), before, "the old pins stay");

    // A petname and an unpairing are changes of the pins too.
    let renamed = control().ask(json!({"type": "peer_rename", "peer": "first", "name": "other"}));
    assert_eq!((&renamed["success"], &renamed["code"]), (&false.into(), &"io".into()), "{renamed}");
    let peers = control().ask(json!({"type": "peers"}));
    assert_eq!((&peers["data"]["peers"][0]["name"], &peers["data"]["peers"][1]), (&"first".into(), &json!(null)));
    assert_eq!(pins(), before, "the old pins stay");
    let leftovers = || std::fs::read_dir(&inside).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!leftovers().iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{:?}", leftovers());

    drop(full);
    let (_offering, ticket) = offer(&third);
    assert_eq!(join(&mut control(), ticket)["success"], true, "with room again it goes on");
    assert_eq!(control().ask(json!({"type": "peers"}))["data"]["peers"].as_array().unwrap().len(), 2);
    disk.daemon.signal(15);
    disk.daemon.until_ended();
}

#[test]
fn the_signals_that_ask_to_end_stop_it_and_remove_its_socket() {
    for signal in [1, 2, 15] {
        let (_keep, dir) = state_dir();
        let mut daemon = Process::start(daemon_command(&dir), &dir);
        let mut client = daemon.control();
        client.ask(json!({"type": "subscribe"}));
        let asked = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.until_ended().code(), Some(0), "signal {signal}");
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert_eq!(client.line(), None);
        for file in ["daemon.sock", "daemon.pid"] {
            assert!(!dir.join(file).exists(), "{file} after signal {signal}");
        }
        assert!(dir.join("device.key").exists());
    }
}

#[test]
fn a_client_that_does_not_read_does_not_keep_the_daemon_from_ending() {
    let (_keep, dir) = state_dir();
    let mut daemon = Process::start(daemon_command(&dir), &dir);
    let deaf = daemon.control();
    for _ in 0..2000 {
        deaf.stream().set_nonblocking(true).unwrap();
        let _ = deaf.stream().write(b"{\"type\":\"status\"}\n");
    }
    assert_eq!(daemon.control().ask(json!({"type": "kill"}))["success"], true);
    assert_eq!(daemon.until_ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_ends_only_where_that_is_configured_and_nothing_is_paired() {
    let (_keep, dir) = state_dir();
    std::fs::write(dir.join("config.json"), r#"{"autoShutdownTimeout":1}"#).unwrap();
    let mut idle = Process::start(daemon_command(&dir), &dir);
    assert_eq!(idle.until_ended().code(), Some(0));
    assert!(!dir.join("daemon.sock").exists());

    let (mut laptop, mut desktop) = (TestDaemon::start("laptop"), TestDaemon::start("desktop"));
    pair(&desktop, &laptop);
    for daemon in [&mut laptop, &mut desktop] {
        daemon.kill();
        std::fs::write(daemon.dir.join("config.json"), r#"{"autoShutdownTimeout":1}"#).unwrap();
        daemon.run(&[]);
    }
    let (_keep2, unset_dir) = state_dir();
    let unset = Process::start(daemon_command(&unset_dir), &unset_dir);
    let (_keep3, busy_dir) = state_dir();
    std::fs::write(busy_dir.join("config.json"), r#"{"autoShutdownTimeout":1}"#).unwrap();
    let session = FakeSession::start(&busy_dir, &"s".parse().unwrap()).unwrap();
    let mut busy = Process::start(daemon_command(&busy_dir), &busy_dir);
    let begun = Instant::now();
    // Two and a half times what an idle one took; there is nothing to wait for but the time.
    eventually("time has passed", || begun.elapsed() > Duration::from_millis(2500));
    for (what, socket) in [
        ("paired", laptop.dir.join("daemon.sock")),
        ("paired", desktop.dir.join("daemon.sock")),
        ("not configured", unset_dir.join("daemon.sock")),
        ("with a session", busy_dir.join("daemon.sock")),
    ] {
        assert_eq!(Control::connect(&socket).ask(json!({"type": "status"}))["success"], true, "{what}");
    }
    drop(unset);
    session.stop().await;
    assert_eq!(busy.until_ended().code(), Some(0), "the last session has ended");
}
