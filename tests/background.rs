//! The daemon as a process: in the foreground, in the background, stopped, and the demo that plays
//! with two of them.

use std::io::Read;
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{Ran, Running, is_alive, processes, run, run_command, skipped, until_gone};
use crate::support::{eventually, pi_remote, within};

const LOOPBACK: [&str; 4] = ["--listen", "loopback", "--port", "0"];

/// A state directory in whose name daemons are stopped when the test ends, however it ends.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn daemon(&self, words: &[&str]) -> Ran {
        run(&self.dir(), &[&["daemon"], words, &LOOPBACK].concat())
    }

    fn pid(&self) -> u32 {
        let status = run(&self.dir(), &["status", "--json"]).ends(0).json();
        status["pid"].as_u64().unwrap().try_into().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in running_in(self.0.path()) {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
        }
    }
}

/// The processes whose command line names a directory.
fn running_in(dir: &Path) -> Vec<u32> {
    let dir = dir.to_str().unwrap().as_bytes().to_vec();
    let names_it = |words: &[u8]| words.windows(dir.len()).any(|part| part == dir);
    processes().filter(|(pid, words)| names_it(words) && is_alive(*pid)).map(|(pid, _)| pid).collect()
}

/// A field of `/proc/PID/stat` behind the name: 1 is the parent, 3 the session.
fn stat(pid: u32, field: usize) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split_whitespace().nth(field).unwrap().parse().unwrap()
}

#[test]
fn in_the_background_it_outlives_its_parent_in_a_session_of_its_own() {
    let home = Home::new();
    // To the end of both pipes: the daemon holds neither of them.
    let ready = home.daemon(&["--background", "--json"]).ends(0).json();
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["socket"], home.dir().join("daemon.sock").to_str().unwrap());
    assert!(ready["listen"][0].as_str().unwrap().starts_with("127.0.0.1:"), "{ready}");
    let pid = home.pid();
    assert_eq!(run(&home.dir(), &["id", "--json"]).ends(0).json()["fingerprint"], ready["fingerprint"]);
    assert_eq!(stat(pid, 3), pid, "a session of its own");
    assert_ne!(stat(pid, 1), std::process::id());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let mode = |name: &str| std::fs::metadata(home.dir().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("daemon.log"), mode("daemon.sock"), mode("device.key")), (0o600, 0o600, 0o600));
    assert_eq!(std::fs::metadata(home.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGHUP).unwrap();
    assert_eq!(home.pid(), pid, "a terminal that goes does not end it");
    run(&home.dir(), &["stop"]).ends(0);
    until_gone(pid);
    assert!(!home.dir().join("daemon.sock").exists() && !home.dir().join("daemon.pid").exists());
    run(&home.dir(), &["stop"]).ends(3).text_failure();
}

#[test]
fn in_text_it_says_when_it_is_ready_and_starts_again_after_a_stop() {
    let home = Home::new();
    for _ in 0..2 {
        let ran = home.daemon(&["--background"]).ends(0);
        assert!(
            ran.out.starts_with("ready: sha256:") && ran.out.contains("daemon.sock") && ran.out.lines().count() == 1
        );
        run(&home.dir(), &["stop"]).ends(0);
    }
}

#[test]
fn a_second_daemon_is_refused_and_names_the_pid_of_the_first() {
    let home = Home::new();
    home.daemon(&["--background"]).ends(0);
    let pid = home.pid();
    for words in [&[][..], &["--background"]] {
        let ran = home.daemon(words).ends(1);
        assert!(ran.text_failure().contains(&pid.to_string()) && ran.err.contains("is running already"), "{}", ran.err);
        assert!(ran.err.contains("hint: "), "{}", ran.err);
        let failure = home.daemon(&[words, &["--json"]].concat()).ends(1).json_failure();
        assert!(failure["message"].as_str().unwrap().contains(&pid.to_string()), "{failure}");
    }
    assert_eq!(home.pid(), pid);
    run(&home.dir(), &["stop"]).ends(0);
}

#[test]
fn two_started_at_once_leave_one() {
    let home = Home::new();
    let words = [&["daemon", "--background", "--json"], &LOOPBACK[..]].concat();
    let all: Vec<Running> = (0..4).map(|_| Running::start(&home.dir(), &words)).collect();
    let codes: Vec<i32> = all.into_iter().map(|start| start.end().code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    let pid = home.pid();
    within(std::time::Duration::from_secs(10), "one process is left", || running_in(&home.dir()) == [pid]);
    run(&home.dir(), &["stop"]).ends(0);
}

#[test]
fn the_log_is_lines_of_json_where_that_is_asked_for_and_debug_with_v() {
    let home = Home::new();
    home.daemon(&["--background", "--log-format", "json", "-v"]).ends(0);
    run(&home.dir(), &["status", "-v"]).ends(0);
    run(&home.dir(), &["stop"]).ends(0);
    let log = std::fs::read_to_string(home.dir().join("daemon.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    assert_eq!(lines[0]["fields"]["message"], "ready", "{log}");

    let home = Home::new();
    let mut daemon = Running::start(&home.dir(), &[&["daemon", "-v"], &LOOPBACK[..]].concat());
    daemon.line();
    daemon.signal(Signal::SIGINT);
    assert!(daemon.end().ends(0).err.contains("DEBUG"));
    for (words, is_json) in [(&["--log-format", "json"][..], true), (&["--log-format", "text"], false), (&[], false)] {
        let mut daemon = Running::start(&home.dir(), &[&["daemon"], words, &LOOPBACK[..]].concat());
        daemon.line();
        daemon.signal(Signal::SIGINT);
        let ran = daemon.end().ends(0);
        assert_eq!(ran.out, "");
        assert!(ran.err.lines().all(|line| serde_json::from_str::<Value>(line).is_ok() == is_json), "{}", ran.err);
        assert!(!ran.err.contains("DEBUG"), "{}", ran.err);
    }
}

#[test]
fn in_the_foreground_a_signal_stops_it_cleanly() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let home = Home::new();
        let mut text = Running::start(&home.dir(), &[&["daemon"], &LOOPBACK[..]].concat());
        let line = text.line();
        assert!(line.starts_with("ready: sha256:") && line.contains("127.0.0.1:"), "{line}");
        text.signal(signal);
        assert_eq!(text.end().ends(0).out, "");
        assert!(!home.dir().join("daemon.sock").exists() && !home.dir().join("daemon.pid").exists());
        let mut json = Running::start(&home.dir(), &[&["daemon", "--json"], &LOOPBACK[..]].concat());
        let ready = json.json();
        assert_eq!(ready["event"], "ready");
        let members: Vec<&String> = ready.as_object().unwrap().keys().collect();
        assert_eq!(members, ["event", "fingerprint", "listen", "socket"]);
        json.signal(signal);
        assert_eq!(json.end().ends(0).out, "");
    }
}

#[test]
fn it_goes_on_when_nobody_reads_its_lines() {
    let home = Home::new();
    let mut command = pi_remote(&home.dir());
    command.arg("daemon").args(LOOPBACK).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    eventually("it answers", || run(&home.dir(), &["status"]).code == 0);
    run(&home.dir(), &["stop"]).ends(0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_listens_where_it_is_told_to() {
    for (listen, port, expected) in [
        (&["127.0.0.1"][..], "0", vec!["127.0.0.1:"]),
        (&["127.0.0.1:0"], "1", vec!["127.0.0.1:"]),
        (&["loopback"], "0", vec!["127.0.0.1:"]),
        (&["127.0.0.1", "127.0.0.2"], "0", vec!["127.0.0.1:", "127.0.0.2:"]),
        (&["[::1]:0"], "0", vec!["[::1]:"]),
        (&["::1"], "0", vec!["[::1]:"]),
    ] {
        if expected == ["[::1]:"] && TcpListener::bind("[::1]:0").is_err() {
            skipped("this machine has no IPv6 loopback");
            continue;
        }
        let home = Home::new();
        let mut words = vec!["daemon", "--json", "--port", port];
        listen.iter().for_each(|address| words.extend(["--listen", address]));
        let mut daemon = Running::start(&home.dir(), &words);
        let ready = daemon.json();
        let addresses: Vec<&str> = ready["listen"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert_eq!(addresses.len(), expected.len(), "{listen:?}: {ready}");
        for (address, start) in addresses.iter().zip(&expected) {
            assert!(address.starts_with(start) && !address.ends_with(":0"), "{listen:?}: {ready}");
        }
        let status = run(&home.dir(), &["status", "--json"]).ends(0).json();
        assert_eq!((&status["listen"], &status["listening"]), (&ready["listen"], &json!(false)), "nothing is paired");
        daemon.signal(Signal::SIGTERM);
        daemon.end().ends(0);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let home = Home::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let (listen, port) = (address.to_string(), address.port().to_string());
    // It hangs up, so that nobody waits to hear what it is.
    let taking = other.try_clone().unwrap();
    let hanging_up = std::thread::spawn(move || while taking.accept().is_ok() {});
    for words in [
        vec!["daemon", "--listen", &listen],
        vec!["daemon", "--listen", "127.0.0.1", "--port", &port],
        vec!["daemon", "--listen", &listen, "--background"],
    ] {
        let ran = run(&home.dir(), &words).ends(1);
        assert!(ran.text_failure().contains(&port) && ran.err.contains("hint: "), "{}", ran.err);
        let failure = run(&home.dir(), &[&words[..], &["--json"]].concat()).ends(1).json_failure();
        assert!(failure["message"].as_str().unwrap().contains(&port), "{failure}");
        assert!(!home.dir().join("daemon.sock").exists());
    }
    socket2::SockRef::from(&other).shutdown(Shutdown::Both).unwrap();
    hanging_up.join().unwrap();
    drop(other);
    run(&home.dir(), &["daemon", "--background", "--listen", &listen]).ends(0);
    run(&home.dir(), &["stop"]).ends(0);
}

#[test]
fn without_a_tailnet_listening_there_is_refused_in_words() {
    let home = Home::new();
    let no_path = tempfile::tempdir().unwrap();
    let mut command = pi_remote(&home.dir());
    let daemon =
        command.env("PATH", no_path.path()).args(["daemon", "--background", "--listen", "tailscale", "--port", "0"]);
    let ran = run_command(daemon);
    if ran.code != 0 {
        assert!(ran.text_failure().to_lowercase().contains("tail"), "{}", ran.err);
    }
}

#[test]
fn the_environment_sets_what_no_option_says() {
    let home = Home::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
    command.env("PI_REMOTE_DIR", home.dir()).env("PI_REMOTE_LISTEN", "127.0.0.1").env("PI_REMOTE_PORT", "0");
    let ready = run_command(command.args(["daemon", "--background", "--json"])).ends(0).json();
    assert!(ready["socket"].as_str().unwrap().starts_with(home.dir().to_str().unwrap()), "{ready}");
    assert_eq!(ready["listen"].as_array().unwrap().len(), 1, "{ready}");
    let settings = run(&home.dir(), &["status", "--json"]).ends(0).json()["settings"].clone();
    let listen = settings.as_array().unwrap().iter().find(|setting| setting["name"] == "listen").unwrap();
    assert_eq!((&listen["value"], &listen["source"]), (&json!("127.0.0.1"), &json!("environment")));
    run(&home.dir(), &["stop"]).ends(0);
    let bad = run_command(pi_remote(&home.dir()).env("PI_REMOTE_PORT", "many").args(["daemon", "--json"])).ends(2);
    assert!(bad.json_failure()["message"].as_str().unwrap().contains("PI_REMOTE_PORT"));
}

#[test]
fn a_broken_setting_is_told_from_the_background_too() {
    let home = Home::new();
    home.daemon(&["--background"]).ends(0);
    run(&home.dir(), &["stop"]).ends(0);
    std::fs::write(home.dir().join("config.json"), "{\n\"port\": \"x\"}").unwrap();
    for words in [&[][..], &["--background"]] {
        let ran = home.daemon(words).ends(1);
        assert!(ran.text_failure().contains("config.json, line 2"), "{}", ran.err);
    }
    std::fs::write(home.dir().join("config.json"), "{}").unwrap();
    std::fs::set_permissions(home.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for words in [&[][..], &["--background"]] {
        let ran = home.daemon(words).ends(1);
        assert!(ran.text_failure().contains("chmod 700"), "{}", ran.err);
    }
}

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing() {
    let place = Home::new();
    let text = run_command(pi_remote(&place.dir()).env("TMPDIR", place.0.path()).arg("demo")).ends(0);
    assert!(
        text.out.contains("laptop$ pi-remote send desktop/tests") && text.out.contains("Every step did what it says")
    );
    let json = run_command(pi_remote(&place.dir()).env("TMPDIR", place.0.path()).args(["demo", "--json"])).ends(0);
    assert!(json.lines().iter().all(|line| line["command"].as_str().unwrap().starts_with("pi-remote ")));
    assert!(json.lines().iter().any(|line| line["stdout"] == "echo: how do the tests look?\n"));
    nothing_is_left(place.0.path());
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    for (signal, after) in [
        (Signal::SIGINT, "Two machines"),
        (Signal::SIGINT, "desktop$ pi-remote daemon"),
        (Signal::SIGINT, "laptop$ pi-remote pair --grant full"),
        (Signal::SIGTERM, "pi-remote sessions"),
        (Signal::SIGHUP, "Trust ends"),
    ] {
        let place = Home::new();
        let mut demo = Running::spawn(pi_remote(&place.dir()).env("TMPDIR", place.0.path()).arg("demo"));
        demo.until(after);
        demo.signal(signal);
        demo.end().ends(130);
        nothing_is_left(place.0.path());
    }
}

#[test]
fn a_demo_ended_by_ctrl_c_which_reaches_its_children_too_leaves_nothing() {
    let place = Home::new();
    let mut command = pi_remote(&place.dir());
    let mut demo = Running::spawn(command.env("TMPDIR", place.0.path()).arg("demo").process_group(0));
    demo.until("Each sees");
    kill(Pid::from_raw(-i32::try_from(demo.pid()).unwrap()), Signal::SIGINT).unwrap();
    demo.end().ends(130);
    nothing_is_left(place.0.path());
}

#[test]
fn a_demo_whose_reader_goes_leaves_nothing() {
    let place = Home::new();
    let mut command = pi_remote(&place.dir());
    command.env("TMPDIR", place.0.path()).arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut some = [0; 20];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
    nothing_is_left(place.0.path());
}

fn nothing_is_left(place: &Path) {
    let left: Vec<_> = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    within(std::time::Duration::from_secs(5), "no process is left", || running_in(place).is_empty());
}

#[test]
fn a_daemon_starts_right_after_the_one_before_was_killed() {
    let home = Home::new();
    home.daemon(&["--background"]).ends(0);
    for _ in 0..5 {
        let start = format!("'{}' daemon --background {}", env!("CARGO_BIN_EXE_pi-remote"), LOOPBACK.join(" "));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("kill -9 {}; {start}", home.pid())]).env("PI_REMOTE_DIR", home.dir());
        run_command(&mut shell).ends(0);
    }
}
