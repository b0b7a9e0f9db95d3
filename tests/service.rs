//! The daemon as a service: what is written and run for it, what the service manager is told, and a
//! real systemd user manager that runs it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pi_remote::config::{Flags, ListenAddr};
use pi_remote::service::{Daemon, Manager, Service, Step, launchd, systemd};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::{Ran, Running, has_program, run, run_command};
use crate::support::original::Original;
use crate::support::process::{Process, daemon_command, state_dir};
use crate::support::user_manager::UserManager;
use crate::support::{DEADLINE, TestDaemon, eventually, pi_remote, set_mode};

/// What a path may hold, and a unit's command line must not trip over.
const ODD: &str = "h o$me %h \"q's\\x ${y} ü";

/// A home directory, and programs of the system's that are the test's own.
struct Home {
    keep: TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { keep: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(home.path()).unwrap();
        std::fs::create_dir(home.bin()).unwrap();
        home
    }

    fn path(&self) -> PathBuf {
        self.keep.path().join(ODD)
    }

    fn bin(&self) -> PathBuf {
        self.keep.path().join("bin")
    }

    fn unit(&self) -> PathBuf {
        self.path().join(".config/systemd/user/pi-remote.service")
    }

    /// Puts a program in place that runs these lines of a shell's.
    fn program(&self, name: &str, lines: &str) {
        let path = self.bin().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        set_mode(&path, 0o755);
    }

    /// A `systemctl` that writes down what it is asked, and says that nothing runs.
    fn systemctl(&self) {
        let log = self.keep.path().join("asked");
        let show = "echo ActiveState=inactive; echo SubState=dead; echo UnitFileState=disabled; echo MainPID=0";
        self.program("systemctl", &format!("echo \"$@\" >>'{}'\ncase \"$*\" in *show*) {show};; esac", log.display()));
    }

    /// What `systemctl` was asked to change.
    fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.keep.path().join("asked")).unwrap_or_default();
        let changes = |line: &&str| !line.contains(" show ") && !line.contains("--version");
        asked.lines().filter(changes).map(Into::into).collect()
    }

    fn run(&self, words: &[&str]) -> Ran {
        run_command(&mut self.command(words))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pi-remote"));
        command.env_clear().env("HOME", self.path()).env("PATH", self.bin()).args(words);
        command
    }

    /// Everything in the home directory.
    fn tree(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                found.push(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(), &mut found);
        found
    }
}

fn odd_daemon() -> Daemon {
    let flags = Flags { port: Some(7000), listen: vec![ListenAddr::Tailscale, "[::1]:99".parse().unwrap()] };
    Daemon::new(Path::new(env!("CARGO_BIN_EXE_pi-remote")), &Path::new("/state").join(ODD), flags).unwrap()
}

#[test]
fn a_dry_run_shows_what_would_be_done_and_does_nothing() {
    let home = Home::new();
    home.systemctl();
    let words = ["service", "install", "--dry-run", "--port", "7000", "--listen", "tailscale", "--dir", "/s t"];
    let json = home.run(&[&words[..], &["--json"]].concat()).ends(0).json();
    assert_eq!((&json["manager"], &json["file"]["mode"]), (&json!("systemd"), &json!("0644")));
    assert_eq!(json["file"]["path"], home.unit().to_str().unwrap());
    let contents = json["file"]["contents"].as_str().unwrap();
    let start =
        format!("ExecStart={} --dir \"/s t\" daemon --port=7000 --listen=tailscale\n", env!("CARGO_BIN_EXE_pi-remote"));
    assert!(contents.contains(&start), "{contents}");
    assert_eq!(
        json["commands"],
        json!([
            ["systemctl", "--user", "daemon-reload"],
            ["systemctl", "--user", "enable", "--now", "pi-remote.service"]
        ])
    );
    let text = home.run(&words).ends(0);
    assert!(text.out.contains(contents) && text.out.contains("\n  systemctl --user enable --now pi-remote.service\n"));
    assert!(text.err.contains("warning: ") && text.err.contains("target directory"), "{}", text.err);
    for action in ["start", "stop", "uninstall"] {
        let ran = home.run(&["service", action, "--dry-run"]).ends(0);
        assert!(ran.out.contains("  systemctl --user "), "{}", ran.out);
    }
    assert_eq!((home.tree(), home.asked()), (vec![], vec![]));
}

#[test]
fn what_the_environment_says_reaches_the_unit_since_the_service_does_not_see_it() {
    let home = Home::new();
    let mut command = home.command(&["service", "install", "--dry-run", "--json"]);
    command.env("PI_REMOTE_DIR", "/a/b").env("PI_REMOTE_PORT", "7001").env("PI_REMOTE_LISTEN", "loopback,192.0.2.1");
    let json = run_command(command.env("XDG_CONFIG_HOME", "/c")).ends(0).json();
    assert_eq!(json["file"]["path"], "/c/systemd/user/pi-remote.service");
    let contents = json["file"]["contents"].as_str().unwrap();
    let wanted = " --dir /a/b daemon --port=7001 --listen=loopback --listen=192.0.2.1\n";
    assert!(contents.contains(wanted), "{contents}");
    let mut bad = home.command(&["service", "install", "--dry-run", "--json"]);
    let failure = run_command(bad.env("PI_REMOTE_PORT", "many")).ends(2).json_failure();
    assert!(failure["message"].as_str().unwrap().contains("PI_REMOTE_PORT"), "{failure}");
}

#[test]
fn systemd_finds_no_fault_with_the_unit_and_rates_it_hardened() {
    if !has_program("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(systemd::UNIT);
    std::fs::write(&file, systemd::unit(&odd_daemon(), 0).unwrap()).unwrap();
    let analyze = |words: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.arg("--user").args(words).arg(&file).env("XDG_RUNTIME_DIR", dir.path()).env("HOME", dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let verified = analyze(&["verify"]);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
    // In tenths. What is left of it are mounts, namespaces and capabilities, which a user's manager has none to give of.
    let rated = analyze(&["security", "--offline=yes", "--threshold=65", "--no-pager"]);
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}

#[test]
fn the_agent_is_a_property_list_that_means_what_was_asked_for() {
    if !has_program("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(launchd::FILE);
    std::fs::write(&file, launchd::agent(&odd_daemon())).unwrap();
    let script = "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new("python3").args(["-c", script]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let agent: Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = format!("/state/{ODD}");
    assert_eq!(
        agent["ProgramArguments"],
        json!([
            env!("CARGO_BIN_EXE_pi-remote"),
            "--dir",
            state,
            "daemon",
            "--port=7000",
            "--listen=tailscale",
            "--listen=[::1]:99"
        ])
    );
    assert_eq!((&agent["Label"], &agent["RunAtLoad"]), (&json!("pi-remote"), &json!(true)));
    assert_eq!((&agent["KeepAlive"], &agent["Umask"]), (&json!({"SuccessfulExit": false}), &json!(0o077)));
    assert_eq!(agent["StandardErrorPath"], format!("{state}/daemon.log"));
    let service = Service::new(Manager::Launchd, Path::new("/Users/a"), None, 501);
    let commands: Vec<String> = service.commands(Step::Install).iter().map(|command| command.words.join(" ")).collect();
    assert_eq!(
        commands,
        [
            "launchctl bootout gui/501/pi-remote",
            "launchctl enable gui/501/pi-remote",
            "launchctl bootstrap gui/501 /Users/a/Library/LaunchAgents/pi-remote.plist"
        ]
    );
}

#[test]
fn without_a_service_manager_it_says_what_to_do_instead() {
    let home = Home::new();
    let refused = |said: &str| {
        for words in [&["install"][..], &["start"], &["stop"], &["status"]] {
            let ran = home.run(&[&["service"], words].concat()).ends(1);
            let failure = ran.err.lines().filter(|line| !line.starts_with("warning: ")).collect::<Vec<_>>();
            assert!(failure[0].starts_with("error: ") && failure[0].contains(said), "{}", ran.err);
            assert!(failure[1].contains("login script: pi-remote daemon --background"), "{}", ran.err);
        }
        let ran = home.run(&["service", "uninstall"]).ends(1);
        assert!(ran.err.contains("the service is not installed"), "{}", ran.err);
        assert_eq!(home.tree(), Vec::<PathBuf>::new());
    };
    refused("`systemctl` is not on the PATH");
    home.program("systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1");
    refused("no systemd user manager answers: Failed to connect to bus");
}

#[test]
fn a_service_whose_manager_cannot_be_asked_is_removed_by_force_alone() {
    let home = Home::new();
    home.program("systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1");
    std::fs::create_dir_all(home.unit().parent().unwrap()).unwrap();
    std::fs::write(home.unit(), systemd::unit(&odd_daemon(), 0).unwrap()).unwrap();
    let here = format!("/run/user/{}", nix::unistd::geteuid());
    for (runtime, way) in [("/nonexistent", true), (here.as_str(), false)] {
        let ran = run_command(home.command(&["service", "uninstall"]).env("XDG_RUNTIME_DIR", runtime)).ends(1);
        assert!(ran.err.contains("could not be asked") && ran.err.contains("uninstall --force"), "{}", ran.err);
        assert_eq!(ran.err.contains(&format!("export XDG_RUNTIME_DIR={here}")), way, "{}", ran.err);
        assert!(!ran.err.contains("login script"), "{}", ran.err);
        assert!(home.unit().exists());
    }
    let ran = home.run(&["service", "uninstall", "--force"]).ends(0);
    assert!(ran.out.contains("remains: ") && ran.out.contains("pi-remote stop"), "{}", ran.out);
    assert!(!home.unit().exists());
}

#[test]
fn a_file_that_is_not_ours_is_neither_overwritten_nor_removed() {
    let home = Home::new();
    home.systemctl();
    std::fs::create_dir_all(home.unit().parent().unwrap()).unwrap();
    let foreign = "[Service]\nExecStart=/usr/bin/mine\n";
    let ours = systemd::unit(&odd_daemon(), 0).unwrap();
    let changed = ours.replace("RestartSec=5", "RestartSec=7");
    for (there, shown) in [(foreign, "- ExecStart=/usr/bin/mine"), (&changed, "- RestartSec=7")] {
        std::fs::write(home.unit(), there).unwrap();
        let ran = home.run(&["service", "install"]).ends(1);
        assert!(ran.err.contains(shown) && ran.err.contains("install --force"), "{}", ran.err);
        home.run(&["service", "uninstall"]).ends(1);
        assert_eq!(std::fs::read_to_string(home.unit()).unwrap(), there);
    }
    std::fs::remove_file(home.unit()).unwrap();
    std::os::unix::fs::symlink("/dev/null", home.unit()).unwrap();
    assert!(home.run(&["service", "install"]).ends(1).err.contains("is a symlink to /dev/null"));
    std::fs::remove_file(home.unit()).unwrap();
    // One for another state directory is in use there.
    std::fs::write(home.unit(), ours).unwrap();
    assert!(home.run(&["service", "install"]).ends(1).err.contains("there is one for each user"));
    assert_eq!(home.asked(), Vec::<String>::new());
    home.run(&["service", "uninstall"]).ends(0);
    assert!(!home.unit().exists());
    assert_eq!(
        home.asked(),
        ["--user disable --now pi-remote.service", "--user daemon-reload", "--user reset-failed pi-remote.service"]
    );
}

#[test]
fn lingering_is_explained_where_it_is_off() {
    let home = Home::new();
    home.systemctl();
    std::fs::create_dir_all(home.unit().parent().unwrap()).unwrap();
    std::fs::write(home.unit(), systemd::unit(&odd_daemon(), 0).unwrap()).unwrap();
    for (answer, linger, explained) in [
        ("echo Linger=yes", json!(true), false),
        ("echo Linger=no", json!(false), true),
        ("exit 1", Value::Null, false),
    ] {
        home.program("loginctl", answer);
        let status = home.run(&["service", "status", "--json"]).ends(3).json();
        assert_eq!(
            status,
            json!({"installed": true, "enabled": false, "active": false, "unit": home.unit(),
                   "program": env!("CARGO_BIN_EXE_pi-remote"), "linger": linger})
        );
        let text = home.run(&["service", "status"]).ends(3);
        assert_eq!(text.err.contains("sudo loginctl enable-linger "), explained, "{}", text.err);
    }
}

#[test]
fn the_log_is_the_journals_and_where_there_is_none_it_says_where_else() {
    let home = Home::new();
    let log = home.keep.path().join("asked");
    let asks = format!("echo \"$@\" >>'{}'", log.display());
    home.program("journalctl", &format!("{asks}; printf 'one\\n\\033[31mtwo\\n'; echo a remark >&2"));
    let ran = home.run(&["service", "logs"]).ends(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("one\n\\u{1b}[31mtwo\n", "a remark\n"));
    let ran = home.run(&["service", "logs", "--follow", "--json"]).ends(0);
    assert_eq!(ran.lines(), [json!({"line": "one"}), json!({"line": "\u{1b}[31mtwo"})]);
    let asked = "--user --unit pi-remote.service --lines 100 --no-pager";
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{asked}\n{asked} --follow\n"));
    for silent in ["echo '-- No entries --'", "echo 'No journal files were found.' >&2", "exit 1"] {
        home.program("journalctl", silent);
        let ran = home.run(&["service", "logs"]).ends(1);
        assert!(ran.err.contains("hint: ") && ran.err.contains("_SYSTEMD_USER_UNIT=pi-remote.service"), "{}", ran.err);
        assert!(!ran.err.contains("No journal files"), "{}", ran.err);
    }
    std::fs::remove_file(home.bin().join("journalctl")).unwrap();
    assert!(home.run(&["service", "logs"]).ends(1).text_failure().contains("starting `journalctl` failed"));
}

#[test]
fn a_log_that_is_followed_ends_with_its_reader() {
    let home = Home::new();
    home.program("journalctl", "echo one; exec /bin/sleep 600");
    let mut following = Running::spawn(&mut home.command(&["service", "logs", "--follow"]));
    assert_eq!(following.line(), "one");
    following.signal(nix::sys::signal::Signal::SIGINT);
    following.end().ends(130);
    let mut command = home.command(&["service", "logs", "--follow"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    eventually("it ends", || child.try_wait().unwrap().is_some());
}

#[test]
fn what_is_not_installed_is_said_to_be() {
    let home = Home::new();
    home.systemctl();
    for action in ["start", "stop", "uninstall"] {
        let ran = home.run(&["service", action]).ends(1);
        assert!(ran.text_failure().contains("hint: pi-remote service install"), "{}", ran.err);
    }
    let status = home.run(&["service", "status", "--json"]).ends(3).json();
    assert_eq!((&status["installed"], &status["unit"]), (&json!(false), &Value::Null));
    assert_eq!(home.asked(), Vec::<String>::new());
}

#[test]
fn the_originals_daemon_is_named_before_anything_is_changed() {
    let home = Home::new();
    home.systemctl();
    let (_keep, dir) = state_dir();
    let original = Original::start(&dir);
    let ran = home.run(&["--dir", dir.to_str().unwrap(), "service", "install"]).ends(3);
    assert!(ran.err.contains("the original remote-control daemon"), "{}", ran.err);
    assert!(!home.unit().exists() && home.asked().is_empty() && !original.was_stopped());
}

#[test]
fn a_daemon_that_made_room_for_a_service_that_failed_is_not_lost_in_silence() {
    let home = Home::new();
    let daemon = TestDaemon::start("laptop");
    let dir = daemon.dir.to_str().unwrap();
    let show = "echo ActiveState=inactive; echo SubState=dead";
    home.program("systemctl", &format!("case \"$*\" in *show*) {show};; *enable*) echo no >&2; exit 5;; esac"));
    // On another port, peers would look for it in vain.
    let ran = home.run(&["--dir", dir, "service", "install"]).ends(1);
    assert!(ran.err.contains(" service install --port 0 --listen loopback\n"), "{}", ran.err);
    daemon.ask(json!({"type": "status"}));
    assert!(!home.unit().exists());
    let ran = home.run(&["--dir", dir, "service", "install", "--port", "0", "--listen", "loopback"]).ends(1);
    let note = format!("a daemon (pid {}) runs outside the service: stopping it", daemon.pid());
    assert!(
        ran.err.contains(&note)
            && ran.err.contains("`systemctl --user enable --now pi-remote.service` ended with status 5: no"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("until it runs, nothing does: pi-remote --dir "), "{}", ran.err);
}

/// The socket of a service manager that the test plays.
struct Listener {
    socket: UnixDatagram,
    path: PathBuf,
    _keep: TempDir,
}

impl Listener {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let path = keep.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path, _keep: keep }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("told in time");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

#[test]
fn the_manager_is_told_when_it_answers_and_when_it_goes_down() {
    let (listener, (_keep, dir)) = (Listener::new(), state_dir());
    let mut command = daemon_command(&dir);
    let mut child =
        command.env("NOTIFY_SOCKET", &listener.path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let told = listener.next();
    assert!(told.starts_with("READY=1\nSTATUS=for peers at 127.0.0.1:"), "{told}");
    // At once: nothing is waited for.
    let status = run(&dir, &["status", "--json"]).ends(0).json();
    assert_eq!(status["pid"], child.id());
    run(&dir, &["stop"]).ends(0);
    assert_eq!(listener.next(), "STOPPING=1\nSTATUS=going down\n");
    assert!(child.wait().unwrap().success(), "so that Restart=on-failure leaves it stopped");
}

#[test]
fn a_signal_too_is_told_as_going_down() {
    let (listener, (_keep, dir)) = (Listener::new(), state_dir());
    let mut command = daemon_command(&dir);
    command.env("NOTIFY_SOCKET", &listener.path);
    let mut process = Process::start(command, &dir);
    assert!(listener.next().starts_with("READY=1\n"));
    process.signal(nix::sys::signal::Signal::SIGTERM as i32);
    assert!(listener.next().starts_with("STOPPING=1\n"));
    assert!(process.until_ended().success());
}

#[test]
fn no_child_of_the_daemon_can_speak_for_it() {
    let (listener, (_keep, dir)) = (Listener::new(), state_dir());
    let bin = tempfile::tempdir().unwrap();
    let (tailscale, seen) = (bin.path().join("tailscale"), bin.path().join("seen"));
    std::fs::write(
        &tailscale,
        format!("#!/bin/sh\n/usr/bin/env >'{0}.new'; /bin/mv '{0}.new' '{0}'\n", seen.display()),
    )
    .unwrap();
    set_mode(&tailscale, 0o755);
    let mut command = daemon_command(&dir);
    command.env("NOTIFY_SOCKET", &listener.path).env("WATCHDOG_USEC", "1").env("PATH", bin.path()).env("STAYS", "here");
    let process = Process::start(command, &dir);
    process.control().ask(json!({"type": "list_tailscale"}));
    eventually("the program ran", || seen.exists());
    let environment = std::fs::read_to_string(&seen).unwrap();
    assert!(environment.contains("STAYS=here"), "{environment}");
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
}

#[test]
fn what_trying_again_cannot_mend_ends_with_its_own_code_under_a_manager() {
    let (listener, (_keep, dir)) = (Listener::new(), state_dir());
    let supervised = |words: &[&str]| {
        let mut command = pi_remote(&dir);
        command
            .args(["daemon", "--listen", "loopback", "--port", "0"])
            .args(words)
            .env("NOTIFY_SOCKET", &listener.path);
        run_command(&mut command)
    };
    std::fs::write(dir.join("config.json"), "{\n\"port\": \"x\"}").unwrap();
    assert!(supervised(&[]).ends(i32::from(systemd::NOT_AGAIN)).err.contains("config.json, line 2"));
    let told = listener.next();
    assert!(told.starts_with("STATUS=") && told.contains("config.json, line 2"), "{told}");
    std::fs::write(dir.join("config.json"), "{}").unwrap();
    set_mode(&dir, 0o755);
    supervised(&[]).ends(78);
    listener.next();
    set_mode(&dir, 0o700);

    let first = Process::start(daemon_command(&dir), &dir);
    supervised(&[]).ends(78);
    let told = listener.next();
    assert!(told.contains(&format!("(pid {})", first.pid())), "{told}");
    drop(first);
    // Killed, it has left its socket.
    std::fs::remove_file(dir.join("daemon.sock")).unwrap();
    let original = Original::start(&dir);
    supervised(&[]).ends(78);
    let told = listener.next();
    assert!(told.contains("the original remote-control daemon") && told.ends_with('\n') && told.lines().count() == 1);
    drop(original);
    // A port that is taken may be free soon.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    supervised(&["--listen", &taken.local_addr().unwrap().to_string()]).ends(1);
    assert!(listener.next().contains(&taken.local_addr().unwrap().port().to_string()));
}

/// What a failure says to do.
fn hint(err: &str) -> &str {
    err.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_else(|| panic!("no hint: {err}"))
}

/// The real thing: a user manager runs the unit that `install` wrote.
#[test]
fn a_real_user_manager_runs_restarts_and_forgets_it() {
    let keep = tempfile::tempdir().unwrap();
    set_mode(keep.path(), 0o755);
    // systemd takes no program with quotes in its path, and any state directory.
    let program = keep.path().join("o$me 50% ${x} ü").join("pi-remote");
    std::fs::create_dir(program.parent().unwrap()).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_pi-remote"), &program).unwrap();
    let home = keep.path().join(ODD);
    std::fs::create_dir(&home).unwrap();
    let dir = home.join("st%h");
    let environment = [("P", program.to_str().unwrap()), ("PI_REMOTE_DIR", dir.to_str().unwrap())];
    let Some(mut manager) = UserManager::start(&home, &environment) else { return };
    let unit = home.join(".config/systemd/user/pi-remote.service");
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let pid = |manager: &mut UserManager| json(manager.ends("\"$P\" status --json", 0).0)["pid"].clone();

    let (out, err) = manager.ends("\"$P\" service install --listen loopback --port 0", 0);
    assert!(out.starts_with(&format!("installed {}\nrunning (pid ", unit.display())), "{out}{err}");
    assert!(err.contains("warning: ") && err.contains("enable-linger"), "it lies in a temporary place: {err}");
    assert_eq!(std::fs::metadata(&unit).unwrap().permissions().mode() & 0o777, 0o644);
    let state = json(manager.ends("\"$P\" service status --json", 0).0);
    assert_eq!(
        state,
        json!({"installed": true, "enabled": true, "active": true, "unit": unit, "program": program, "linger": null})
    );
    let first = pid(&mut manager);
    let (words, _) = manager.ends(&format!("tr '\\000' '\\n' </proc/{first}/cmdline"), 0);
    let wanted = [program.to_str().unwrap(), "--dir", dir.to_str().unwrap(), "daemon", "--port=0", "--listen=loopback"];
    // What the process calls itself is not what was started: a `$` in it is systemd's to expand.
    assert_eq!(words.lines().skip(1).collect::<Vec<_>>(), wanted[1..]);
    assert_eq!(manager.ends(&format!("readlink /proc/{first}/exe"), 0).0.trim_end(), wanted[0]);
    let (held, _) = manager.ends(&format!("cat /proc/{first}/status"), 0);
    assert!(held.contains("NoNewPrivs:\t1") && held.contains("Seccomp:\t2"), "{held}");
    let (again, _) = manager.ends("\"$P\" service install --listen loopback --port 0 --json", 0);
    assert_eq!((json(again)["active"].clone(), pid(&mut manager)), (json!(true), first.clone()), "nothing has changed");

    // As behind `su`, where nothing says where the manager is.
    let (_, err) = manager.ends("unset XDG_RUNTIME_DIR; \"$P\" service status", 1);
    manager.ends(&format!("unset XDG_RUNTIME_DIR; {}; \"$P\" service status", hint(&err)), 0);

    // Killed, it comes back; stopped, it does not.
    manager.ends(&format!("kill -9 {first}"), 0);
    eventually("it is started again", || manager.sh("\"$P\" status").0 == 0);
    let second = pid(&mut manager);
    assert_ne!(second, first);
    let (_, err) = manager.ends("\"$P\" stop", 0);
    assert!(err.contains("it ran as the service"), "{err}");
    eventually("it rests", || manager.sh("systemctl --user is-active pi-remote").1 == "inactive\n");
    manager.ends("\"$P\" service status", 3);
    manager.ends("\"$P\" service stop", 3);
    manager.ends("\"$P\" service start", 0);
    manager.ends("\"$P\" service stop", 0);
    manager.ends("\"$P\" status", 3);

    // A command that needs a daemon starts the service, no other.
    let (out, err) = manager.ends("\"$P\" pair --ticket --grant full --json | head -n 1", 0);
    assert!(out.contains("\"event\":\"offer\"") && err.contains("starting the service"), "{out}{err}");
    manager.ends("\"$P\" service status", 0);

    // What went wrong is said in the daemon's words.
    manager.ends("\"$P\" service stop; printf '{\\n\"port\": \"x\"}' >\"$PI_REMOTE_DIR/config.json\"", 0);
    let (_, err) = manager.ends("\"$P\" service start", 1);
    assert!(err.contains("config.json, line 2") && err.contains("\nhint: mend line 2 of "), "{err}");
    assert_eq!(manager.ends("systemctl --user show -P NRestarts pi-remote", 0).0, "0\n", "it would fail again");
    manager.ends("rm \"$PI_REMOTE_DIR/config.json\"", 0);

    // One outside the service is in its way, until `install` puts the service in its place.
    let (_, err) = manager.ends("\"$P\" daemon --background --listen loopback --port 0", 0);
    assert!(err.contains("the service is installed, and this daemon runs outside it"), "{err}");
    let (_, err) = manager.ends("\"$P\" service start", 1);
    assert!(err.contains(" stop && pi-remote ") && err.contains(" service start\n"), "{err}");
    let (_, err) = manager.ends("\"$P\" service install", 1);
    assert!(err.contains(" service install --port 0 --listen loopback\n"), "{err}");
    manager.ends("\"$P\" status", 0);
    let pasted = hint(&err).replace("pi-remote ", "\"$P\" ");
    let (_, err) = manager.ends(&pasted, 0);
    assert!(err.contains("runs outside the service: stopping it"), "{err}");
    manager.ends("\"$P\" service status", 0);

    let (out, _) = manager.ends("\"$P\" service uninstall", 0);
    assert!(out.contains(&format!("removed {}", unit.display())) && out.contains("kept: "), "{out}");
    manager.ends("\"$P\" status", 3);
    assert_eq!(manager.ends("find .config -not -type d", 0).0, "", "nothing of it is left");
    assert!(dir.join("device.key").exists());
    manager.ends("\"$P\" service start", 1);
}
