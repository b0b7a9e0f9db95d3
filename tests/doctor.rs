//! Set-ups that are broken for real: `doctor` names each where it is, and nothing else; the command
//! that it prints, pasted into a shell, mends it.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{Ran, run_command};
use crate::support::netns::Host;
use crate::support::original::Original;
use crate::support::peer::HandPeer;
use crate::support::process::is_root;
use crate::support::{Control, TestDaemon, eventually, pi_remote, run_with, set_mode};

/// Three times the longest that `doctor` may take, whatever is broken: these machines are busy.
const PROMISED: Duration = Duration::from_secs(30);

#[test]
fn a_lock_is_no_fault_and_is_named_with_its_end_whether_or_not_the_daemon_runs() {
    let machine = Machine::start("laptop");
    let lock = || {
        let checks = machine.run(&["doctor", "--json"]).json()["checks"].take();
        checks.as_array().unwrap().iter().find(|check| check["name"] == "lock").cloned()
    };
    assert_eq!(lock(), None);
    machine.run(&["lock"]).ends(0);
    for running in [true, false] {
        let check = lock().unwrap();
        assert_eq!((&check["ok"], &check["state"]), (&json!(true), &json!("note")), "{running}: {check}");
        assert!(check["detail"].as_str().unwrap().starts_with("LOCKED: "), "{running}: {check}");
        assert!(check["fix"].as_str().unwrap().ends_with(" unlock"), "{running}: {check}");
        machine.run(&["stop"]);
    }
}

/// A machine whose daemon runs in the background, set by its `config.json` alone, so that it comes
/// back as it was however it is started.
struct Machine {
    dir: PathBuf,
    port: u16,
    /// What stands before each command: the way into a namespace, or a clock that is off.
    before: Vec<String>,
    keep: TempDir,
}

impl Machine {
    /// A machine on the loopback whose daemon runs.
    fn start(name: &str) -> Self {
        let machine = Self::new(name, &[], "loopback");
        machine.run_daemon();
        machine
    }

    fn new(name: &str, before: &[&str], listen: &str) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("s");
        std::fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o700);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = json!({"name": name, "listen": listen, "port": port, "heartbeatInterval": 1});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        Self { dir, port, before: before.iter().map(ToString::to_string).collect(), keep }
    }

    fn run_daemon(&self) {
        self.run(&["daemon", "--background"]).ends(0);
    }

    fn run(&self, words: &[&str]) -> Ran {
        run_command(&mut self.behind(pi_remote(&self.dir).args(words)))
    }

    fn behind(&self, command: &Command) -> Command {
        let mut words: Vec<OsString> = self.before.iter().map(OsString::from).collect();
        words.push(command.get_program().into());
        words.extend(command.get_args().map(OsString::from));
        let mut wrapped = Command::new(&words[0]);
        wrapped.args(&words[1..]).env("NO_COLOR", "1");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PI_REMOTE")) {
            wrapped.env_remove(name);
        }
        wrapped
    }

    fn control(&self) -> Control {
        Control::connect(&self.dir.join("daemon.sock"))
    }

    fn fingerprint(&self) -> String {
        self.run(&["id", "--json"]).ends(0).json()["fingerprint"].as_str().unwrap().to_owned()
    }

    fn until_linked(&self, peer: &str) {
        eventually(&format!("a link to {peer}"), || {
            let status = self.control().ask(json!({"type": "status"}));
            let peers = status["data"]["peers"].as_array().unwrap();
            peers.iter().any(|known| known["name"] == peer && known["connected"] == true)
        });
    }

    fn doctor(&self) -> Report {
        let begun = Instant::now();
        let ran = self.run(&["doctor", "--json"]);
        assert!(begun.elapsed() < PROMISED, "it took {:?}", begun.elapsed());
        Report::new(&ran)
    }

    /// Runs a command as it was printed.
    fn paste(&self, command: &str) {
        self.paste_with(command, "");
    }

    /// As [`Machine::paste`], with something typed.
    fn paste_with(&self, command: &str, typed: &str) {
        println!("$ {command}");
        let program = Path::new(env!("CARGO_BIN_EXE_pi-remote"));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        let shell = &mut self.behind(&shell);
        // What is printed for another machine names no directory, and is then that one's.
        shell.env("PATH", path).env("HOME", self.keep.path()).env("PI_REMOTE_DIR", &self.dir);
        let output = run_with(shell, &format!("{typed}\n"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut stop = self.behind(pi_remote(&self.dir).arg("stop"));
        let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// What `doctor --json` said.
#[derive(Debug)]
struct Report {
    code: i32,
    checks: Vec<Value>,
}

impl Report {
    #[track_caller]
    fn new(ran: &Ran) -> Self {
        let said = ran.json();
        assert_eq!(said.as_object().unwrap().len(), 1, "{said}");
        let checks = said["checks"].as_array().unwrap().clone();
        for check in &checks {
            assert!(check["name"].is_string() && check["detail"].is_string() && check["ok"].is_boolean(), "{check}");
            assert!(check["fix"].is_string() || check["fix"].is_null(), "{check}");
            assert!(check["ok"] == true || check["state"].is_null(), "{check}");
        }
        Self { code: ran.code, checks }
    }

    #[track_caller]
    fn get(&self, name: &str) -> &Value {
        self.checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {self:#?}"))
    }

    /// Asserts that exactly these checks failed, and the exit code.
    #[track_caller]
    fn fails(self, names: &[&str], code: i32) -> Self {
        let failed: Vec<&str> =
            self.checks.iter().filter(|check| check["ok"] == false).map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(failed, names, "{self:#?}");
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    fn all_green(self) {
        self.fails(&[], 0);
    }

    #[track_caller]
    fn fix(&self, name: &str) -> &str {
        let check = self.get(name);
        check["fix"].as_str().unwrap_or_else(|| panic!("no fix: {check}"))
    }

    #[track_caller]
    fn says(&self, name: &str, words: &str) {
        let check = self.get(name);
        assert!(check["detail"].as_str().unwrap().contains(words), "{check}");
    }
}

/// Pairs two machines by ticket; both are linked then.
fn pair(offerer: &Machine, joiner: &Machine, names: (&str, &str)) {
    let mut offering = offerer.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full"}));
    let ticket = offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("{offer}"));
    let joined = joiner.control().ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    offering.until(|line| line["event"] == "paired");
    joiner.until_linked(names.0);
    offerer.until_linked(names.1);
}

/// `laptop` and `desktop`, paired and linked.
fn two() -> (Machine, Machine) {
    let (laptop, desktop) = (Machine::start("laptop"), Machine::start("desktop"));
    pair(&desktop, &laptop, ("desktop", "laptop"));
    (laptop, desktop)
}

#[test]
fn two_machines_in_order_are_green_both_ways() {
    let (laptop, desktop) = two();
    for (machine, peer) in [(&laptop, "desktop"), (&desktop, "laptop")] {
        let report = machine.doctor();
        for step in ["resolve", "connect", "TLS", "trusted there", "version", "round trip", "way back"] {
            assert_eq!(report.get(&format!("{peer}: {step}"))["state"], Value::Null, "{report:#?}");
        }
        report.all_green();
    }
    let ran = laptop.run(&["doctor"]).ends(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("ok    state directory"), "{}", ran.out);
    assert!(lines.last().unwrap().ends_with("checks: all is well"), "{}", ran.out);
}

#[test]
fn a_machine_on_which_nothing_was_ever_done_needs_a_daemon_and_nothing_else() {
    let machine = Machine::new("laptop", &[], "loopback");
    std::fs::remove_dir_all(&machine.dir).unwrap();
    let report = machine.doctor().fails(&["daemon"], 1);
    assert!(!machine.dir.exists(), "nothing is made by looking");
    report.says("state directory", "not there yet");
    for name in ["device key", "port", "listen", "disk"] {
        report.says(name, "no state directory yet: `pi-remote --dir ");
    }
}

#[test]
fn a_key_that_others_may_read() {
    let laptop = Machine::start("laptop");
    set_mode(&laptop.dir.join("device.key"), 0o644);
    let report = laptop.doctor().fails(&["device key"], 1);
    report.says("device key", "mode 0644");
    laptop.paste(report.fix("device key"));
    laptop.doctor().all_green();
    // With the daemon down, which would not start: the fixes in the order in which they are printed.
    laptop.run(&["stop"]).ends(0);
    set_mode(&laptop.dir.join("device.key"), 0o644);
    let report = laptop.doctor().fails(&["device key", "daemon"], 1);
    laptop.paste(report.fix("device key"));
    laptop.paste(report.fix("daemon"));
    laptop.doctor().all_green();
}

#[test]
fn a_directory_that_others_may_enter() {
    let laptop = Machine::start("laptop");
    set_mode(&laptop.dir, 0o755);
    let report = laptop.doctor().fails(&["state directory"], 1);
    report.says("state directory", "mode 0755");
    assert_eq!(report.get("device key")["state"], "skipped", "said, not left out");
    laptop.paste(report.fix("state directory"));
    laptop.doctor().all_green();
}

#[test]
fn a_port_that_is_taken() {
    let laptop = Machine::new("laptop", &[], "loopback");
    let _taken = TcpListener::bind(("127.0.0.1", laptop.port)).unwrap();
    let report = laptop.doctor().fails(&["port"], 1);
    report.says("port", &laptop.port.to_string());
    laptop.paste(report.fix("port"));
    laptop.doctor().all_green();
}

#[test]
fn a_port_that_an_address_of_its_own_names_is_taken() {
    let laptop = Machine::new("laptop", &[], "loopback");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let config = json!({"name": "laptop", "listen": at, "heartbeatInterval": 1});
    std::fs::write(laptop.dir.join("config.json"), config.to_string()).unwrap();
    let report = laptop.doctor().fails(&["port"], 1);
    report.says("port", &at);
    laptop.paste(report.fix("port"));
    laptop.doctor().all_green();
}

#[test]
fn a_port_of_all_addresses_that_is_taken_at_one_of_ipv6() {
    let laptop = Machine::new("laptop", &[], "all");
    let Ok(_taken) = TcpListener::bind(("::1", laptop.port)) else {
        eprintln!("SKIPPED: no IPv6: a port that is taken at one of its addresses");
        return;
    };
    let report = laptop.doctor().fails(&["port"], 1);
    report.says("port", &format!("[::]:{}", laptop.port));
    laptop.paste(report.fix("port"));
    laptop.doctor().all_green();
}

#[test]
fn the_originals_daemon_in_place_of_this_one() {
    let laptop = Machine::new("laptop", &[], "loopback");
    let original = Original::start(&laptop.dir);
    let report = laptop.doctor().fails(&["daemon"], 1);
    report.says("daemon", "the original remote-control daemon");
    laptop.paste(report.fix("daemon"));
    assert!(original.was_stopped());
    laptop.doctor().all_green();
}

/// Where the library is that makes a process see another time.
fn faketime() -> Option<String> {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().ok()?;
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned()).filter(|library| !library.is_empty())
}

#[test]
fn a_clock_that_is_off_by_a_day() {
    let Some(library) = faketime() else {
        eprintln!("SKIPPED: faketime is not installed: a clock that is off by a day");
        return;
    };
    let laptop = Machine::start("laptop");
    for (off, word) in [("-1d", "behind"), ("+1d", "ahead")] {
        let (library, off) = (format!("LD_PRELOAD={library}"), format!("FAKETIME={off}"));
        let off = ["env", &library, &off, "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        let mut desktop = Machine::new("desktop", &off, "loopback");
        desktop.run_daemon();
        pair(&desktop, &laptop, ("desktop", "laptop"));
        // From either machine; which of the two is wrong cannot be told from here.
        let report = laptop.doctor().fails(&["clock"], 1);
        report.says("clock", &format!("1day {word}"));
        assert!(report.fix("clock").starts_with("sudo "), "{report:?}");
        desktop.doctor().fails(&["clock"], 1);
        desktop.run(&["stop"]).ends(0);
        desktop.before.clear();
        desktop.run_daemon();
        laptop.until_linked("desktop");
        laptop.doctor().all_green();
        desktop.doctor().all_green();
        laptop.run(&["unpair", "desktop"]).ends(0);
    }
}

#[test]
fn a_clock_that_is_behind_what_it_has_seen() {
    let laptop = Machine::start("laptop");
    let peer = HandPeer::new();
    laptop.run(&["stop"]).ends(0);
    let tomorrow = pi_remote::clock::rfc3339(std::time::SystemTime::now() + Duration::from_secs(86_400));
    let pinned = json!({"version": 1, "peers": [{
        "name": "desktop", "fingerprint": peer.fingerprint().to_string(), "addresses": [],
        "pairedAt": "2026-01-01T00:00:00.000Z", "pairedVia": "code", "lastSeen": tomorrow,
    }]});
    std::fs::write(laptop.dir.join("peers.json"), pinned.to_string()).unwrap();
    set_mode(&laptop.dir.join("peers.json"), 0o600);
    laptop.doctor().fails(&["daemon", "clock"], 1).says("clock", &tomorrow[..19]);
}

#[test]
fn a_peer_that_is_down() {
    let (laptop, desktop) = two();
    desktop.run(&["stop"]).ends(0);
    let report = laptop.doctor().fails(&["desktop: connect"], 1);
    report.says("desktop: connect", "connection refused");
    assert_eq!(report.get("desktop: connect")["on"], "desktop");
    desktop.paste(report.fix("desktop: connect"));
    laptop.doctor().all_green();
}

#[test]
fn a_peer_that_was_unpaired_on_one_side_only() {
    for third in [false, true] {
        let (laptop, desktop) = two();
        let tablet = third.then(|| Machine::start("tablet"));
        if let Some(tablet) = &tablet {
            // With another pin its port stays open, and TLS itself refuses.
            pair(&desktop, tablet, ("desktop", "tablet"));
        }
        desktop.run(&["unpair", "laptop"]).ends(0);
        let report = laptop.doctor().fails(&["desktop: trusted there"], 1);
        report.says("desktop: trusted there", "does not trust this device");
        assert_eq!(report.get("desktop: connect")["state"] == "note", !third);
        laptop.paste(report.fix("desktop: trusted there"));
        laptop.doctor().all_green();
    }
}

#[test]
fn a_peer_that_has_another_key() {
    let (laptop, desktop) = two();
    desktop.run(&["stop"]).ends(0);
    for file in ["device.key", "device.crt"] {
        std::fs::remove_file(desktop.dir.join(file)).unwrap();
    }
    desktop.run_daemon();
    let report = laptop.doctor().fails(&["desktop: TLS"], 7);
    report.says("desktop: TLS", &desktop.fingerprint());
    let mut offering = desktop.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "code", "grant": "full"}));
    let code = offer["data"]["pairingCode"].as_str().unwrap_or_else(|| panic!("{offer}"));
    laptop.paste_with(report.fix("desktop: TLS"), code);
    laptop.until_linked("desktop");
    laptop.doctor().all_green();
}

#[test]
fn a_name_that_does_not_resolve_any_more() {
    let (laptop, _desktop) = two();
    laptop.run(&["peers", "address", "desktop", "--add", "gone.invalid:7433"]).ends(0);
    let report = laptop.doctor().fails(&["desktop: resolve"], 1);
    report.says("desktop: resolve", "gone.invalid:7433");
    laptop.paste(report.fix("desktop: resolve"));
    laptop.doctor().all_green();
}

#[test]
fn a_path_that_is_too_long_for_a_socket() {
    let mut laptop = Machine::start("laptop");
    let fingerprint = laptop.fingerprint();
    laptop.run(&["stop"]).ends(0);
    let long = laptop.keep.path().join("l".repeat(100));
    std::fs::rename(&laptop.dir, &long).unwrap();
    laptop.dir = long;
    let report = laptop.doctor().fails(&["socket path"], 1);
    assert_eq!(report.get("daemon")["state"], "skipped");
    laptop.paste(report.fix("socket path"));
    laptop.dir = laptop.keep.path().join(".pr");
    laptop.doctor().all_green();
    assert_eq!(laptop.fingerprint(), fingerprint, "the same device as before");
}

/// A process that keeps a namespace; ended when dropped.
struct Keeper(Child);

impl Keeper {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_disk_that_is_full() {
    if !is_root("a full disk") {
        return;
    }
    let mut laptop = Machine::new("laptop", &[], "loopback");
    let dir = laptop.dir.display().to_string();
    let config = std::fs::read_to_string(laptop.dir.join("config.json")).unwrap();
    // A file system of its own for the directory, which no other process sees.
    let script =
        format!("mount -t tmpfs -o size=1m,mode=0700 tmpfs '{dir}' && echo ready > /dev/null && exec sleep 120");
    let keeper = Keeper::start(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let inside = ["nsenter", "-t", &keeper.0.id().to_string(), "-m", "--"].map(str::to_owned);
    laptop.before = inside.to_vec();
    let sh = |script: &str| {
        let output = Command::new(&inside[0]).args(&inside[1..]).args(["sh", "-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("the disk is mounted", || sh(&format!("stat -f -c %T '{dir}'")).trim() == "tmpfs");
    sh(&format!("printf '%s' '{config}' > '{dir}/config.json'"));
    laptop.run_daemon();
    laptop.doctor().all_green();
    sh(&format!("cat /dev/zero > '{dir}/filler'"));
    let report = laptop.doctor().fails(&["disk"], 1);
    report.says("disk", &dir);
    assert!(report.fix("disk").ends_with(&dir), "{report:?}");
    laptop.paste(report.fix("disk"));
    sh(&format!("rm '{dir}/filler'"));
    laptop.doctor().all_green();
    laptop.run(&["stop"]).ends(0);
}

#[test]
fn a_listener_bound_to_the_loopback_only_and_a_firewall_that_swallows_everything() {
    let Some((near, far)) = Host::new("laptop").zip(Host::new("desktop")) else { return };
    near.cable(("eth0", "10.99.0.1/24"), &far, ("eth0", "10.99.0.2/24"));
    let on = |host: &Host, name: &str, listen: &str| {
        let way = host.way_in();
        Machine::new(name, &way.iter().map(String::as_str).collect::<Vec<_>>(), listen)
    };
    let (laptop, desktop) = (on(&near, "laptop", "loopback"), on(&far, "desktop", "all"));
    laptop.run_daemon();
    desktop.run_daemon();
    pair(&desktop, &laptop, ("desktop", "laptop"));
    let report = laptop.doctor().fails(&["listen"], 1);
    report.says("listen", "config.json");
    laptop.paste(report.fix("listen"));
    laptop.until_linked("desktop");
    laptop.doctor().all_green();
    // Nothing comes in to the desktop any more, from either side.
    far.sh("nft add table inet p");
    far.sh("nft 'add chain inet p i { type filter hook input priority 0; policy drop; }'");
    eventually("the link is dead", || laptop.control().ask(json!({"type": "status"}))["data"]["remotePeerCount"] == 0);
    let report = laptop.doctor().fails(&["desktop: connect"], 1);
    report.says("desktop: connect", "firewall");
    // The machine that drops it says so, and how to mend it.
    let there = desktop.doctor();
    there.says("firewall", "nftables (inet p i) may drop what comes to TCP port");
    assert!(
        there.get("firewall")["fix"].as_str().unwrap().starts_with("sudo nft insert rule inet p i tcp dport"),
        "{there:#?}"
    );
    report.says("desktop: connect", "nftables: `sudo nft insert rule inet filter input tcp dport");
    far.sh("nft delete table inet p");
    laptop.doctor().all_green();
}

#[test]
fn a_daemon_that_hangs_is_named_in_time() {
    let laptop = Machine::start("laptop");
    let pid = std::fs::read_to_string(laptop.dir.join("daemon.pid")).unwrap();
    let stop = Command::new("kill").args(["-STOP", pid.trim()]).status().unwrap();
    assert!(stop.success());
    let report = laptop.doctor().fails(&["daemon"], 1);
    report.says("daemon", "does not answer");
    laptop.paste(report.fix("daemon"));
    laptop.doctor().all_green();
}

#[test]
fn a_daemon_stuck_before_its_socket_is_named_and_never_who_has_an_earlier_ones_pid() {
    let laptop = Machine::new("laptop", &[], "loopback");
    let stranger = Keeper::start(Command::new("sleep").arg("600"));
    // What a power cut leaves.
    for file in ["daemon.pid", "daemon.lock"] {
        std::fs::write(laptop.dir.join(file), format!("{}\n", stranger.0.id())).unwrap();
    }
    let silent = TcpListener::bind(("127.0.0.1", laptop.port)).unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut daemon = Keeper::start(pi_remote(&laptop.dir).arg("daemon").stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("it finds out who has its port", || silent.accept().is_ok());
    let pid = daemon.0.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    assert!(daemon.0.try_wait().unwrap().is_none());
    for words in [["doctor"].as_slice(), &["doctor", "--json"], &["status"], &["stop"], &["daemon"]] {
        let ran = laptop.run(words);
        let said = ran.out + &ran.err;
        let names = |pid: &str| said.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid);
        assert!(names(&pid) && !names(&stranger.0.id().to_string()), "{words:?}: {said}");
    }
    let report = laptop.doctor().fails(&["daemon"], 1);
    assert!(report.fix("daemon").starts_with(&format!("kill -9 {pid};")), "{report:?}");
}

#[test]
fn broken_files_are_named_with_their_line_and_moved_away_by_the_fix() {
    let laptop = Machine::start("laptop");
    let write = |file: &str, text: &str| std::fs::write(laptop.dir.join(file), text).unwrap();
    write("peers.json", "{\n \"version\": 1,\n \"peers\": nonsense\n}");
    set_mode(&laptop.dir.join("peers.json"), 0o600);
    let report = laptop.doctor().fails(&["peers.json"], 1);
    report.says("peers.json", "line 3");
    laptop.paste(report.fix("peers.json"));
    let config = std::fs::read_to_string(laptop.dir.join("config.json")).unwrap();
    write("config.json", "{\n \"port\": \"x\"\n}");
    let report = laptop.doctor().fails(&["config.json"], 1);
    report.says("config.json", "line 2");
    laptop.paste(report.fix("config.json"));
    write("config.json", &config.replace("\"port\"", "\"prot\":1,\"port\""));
    let report = laptop.doctor();
    report.says("config.json", "prot");
    report.all_green();
    let (_other, other) = crate::support::process::state_dir();
    run_command(pi_remote(&other).args(["daemon", "--background", "--listen", "loopback", "--port", "0"])).ends(0);
    run_command(pi_remote(&other).arg("stop")).ends(0);
    std::fs::copy(other.join("device.crt"), laptop.dir.join("device.crt")).unwrap();
    // Another key than the one expected has an exit code of its own.
    let report = laptop.doctor().fails(&["device key"], 7);
    laptop.paste(report.fix("device key"));
    laptop.doctor().all_green();
    assert!(!laptop.dir.join("device.crt").exists(), "looking writes nothing");
}

/// A daemon and a peer that it has pinned as `mallory`, which listens.
fn victim() -> (TestDaemon, HandPeer, TcpListener) {
    let daemon = TestDaemon::start("desktop");
    let mut peer = HandPeer::new();
    let listener = peer.listen();
    peer.pair(&daemon, "mallory");
    (daemon, peer, listener)
}

#[test]
fn a_peer_has_ways_to_itself_alone_tried_and_a_flood_of_that_is_bounded() {
    let (daemon, peer, listener) = victim();
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let stranger = elsewhere.local_addr().unwrap().to_string();
    let mut link = peer.dial(&daemon);
    let mut hello = peer.hello(&[]);
    hello["addresses"] = json!([stranger, "127.0.0.3:1", "127.0.0.1:1"]);
    link.send(&hello);
    link.until("hello");
    // Kept as one of its own, where it would be dialled once the link is gone.
    eventually("the address to be known", || daemon.ask(json!({"type": "peers"})).to_string().contains(&stranger));
    let begun = Instant::now();
    for id in 0..2000 {
        link.send(&json!({"type": "check", "id": id, "address": stranger, "addresses": [stranger]}));
    }
    link.ping();
    let mut answered = Vec::new();
    while answered.last() != Some(&1999) {
        let checked = link.until("checked");
        answered.push(checked["id"].as_u64().unwrap());
        for tried in checked["results"].as_array().unwrap() {
            let told: Vec<&str> = tried.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(told, ["address", "found"], "{tried}");
            assert!(tried["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{tried}");
            assert_eq!(tried["found"], "not_reached", "whose key answers there is all that is told: {tried}");
        }
    }
    let seconds = begun.elapsed().as_secs() as usize;
    assert!(answered.len() <= seconds + 2, "{answered:?} within {seconds} s");
    assert!(elsewhere.accept().is_err(), "it was made to connect elsewhere");
    // Its own port was tried, as often as it was answered and a few times for the link itself.
    listener.set_nonblocking(true).unwrap();
    let tried = std::iter::from_fn(|| listener.accept().ok()).count();
    assert!((1..=answered.len() + 3).contains(&tried), "{tried} for {answered:?}");
    assert_eq!(daemon.peer("mallory")["connected"], true);
}

#[test]
fn what_a_peer_found_counts_only_when_it_was_asked_and_is_told_in_own_words() {
    let (daemon, peer, _listener) = victim();
    let mut hello = peer.hello(&[]);
    hello["features"] = json!(["check"]);
    let mut link = peer.dial(&daemon);
    link.send(&hello);
    link.until("hello");
    let evil = "\u{1b}]52;c;evil\u{7}\u{202e}\n".repeat(100);
    let checked = |id: &Value| {
        let tried = json!({"address": "192.0.2.1:1", "found": "silent", "detail": evil});
        let nowhere = json!({"address": evil, "found": evil, "detail": evil});
        json!({"type": "checked", "id": id, "time": evil, "version": evil, "results": [nowhere, tried]})
    };
    for id in 0..50 {
        link.send(&checked(&json!(id)));
    }
    link.ping();
    let dir = daemon.dir.clone();
    let asking = std::thread::spawn(move || run_command(pi_remote(&dir).args(["doctor", "--json"])));
    let mut asked = None;
    while asked.is_none() {
        let message = link.next().unwrap();
        match message["type"].as_str().unwrap() {
            "check" => asked = Some(message["id"].clone()),
            "heartbeat" if message["ping"].is_u64() => {
                link.send(&json!({"type": "heartbeat", "pong": message["ping"]}));
            }
            _ => {}
        }
    }
    link.send(&checked(&json!(7_000_000)));
    link.send(&checked(&asked.unwrap()));
    link.send(&json!({"type": "checked", "id": 0, "results": []}));
    link.ping();
    let ran = asking.join().unwrap();
    let report = Report::new(&ran);
    let back = report.get("mallory: way back")["detail"].as_str().unwrap();
    let other = "192.0.2.1:1: it found something that this version does not know";
    assert!(back.contains(other) && !ran.out.contains("evil"), "{}", ran.out);
    assert!(!ran.out.contains('\u{1b}') && !ran.out.contains('\u{202e}'));
    assert_eq!(report.get("mallory: way back")["state"], "note");
}

#[test]
fn a_peer_of_an_earlier_version_is_not_asked_what_it_does_not_know() {
    let (daemon, peer, _listener) = victim();
    let mut link = peer.link(&daemon, &[]);
    link.read_timeout(PROMISED);
    let answering = std::thread::spawn(move || {
        let mut kinds = Vec::new();
        while let Some(message) = link.next() {
            if message["ping"].is_u64() {
                link.send(&json!({"type": "heartbeat", "pong": message["ping"]}));
            }
            kinds.push(message["type"].clone());
        }
        kinds
    });
    let report = Report::new(&run_command(pi_remote(&daemon.dir).args(["doctor", "--json"])));
    drop(daemon);
    let kinds = answering.join().unwrap();
    assert!(!kinds.contains(&json!("check")), "{kinds:?}");
    report.says("mallory: way back", "runs a version that cannot check it");
    assert_eq!(report.get("mallory: way back")["state"], "skipped");
}
