//! Daemons as processes that a test starts in a way of its own, ends itself and whose log it reads.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Control, eventually, pi_remote, set_mode};

/// A state directory, 0700, in a temporary directory of its own.
pub fn state_dir() -> (TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("s");
    std::fs::create_dir(&dir).unwrap();
    set_mode(&dir, 0o700);
    (keep, dir)
}

/// The command that runs a daemon on the loopback.
pub fn daemon_command(dir: &Path) -> Command {
    let mut command = pi_remote(dir);
    command.args(["--json", "daemon", "--listen", "loopback", "--port", "0"]);
    command
}

/// The same command line behind another program, `unshare` or `sh`, say.
pub fn behind(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped.args(&wrapper[1..]).arg(command.get_program()).args(command.get_args()).env("NO_COLOR", "1");
    wrapped
}

/// What a daemon that refuses to start says: code, message and hint.
pub fn refusal(dir: &Path) -> (String, String, String) {
    let output = daemon_command(dir).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "it started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no failure: {said}"));
    let error = serde_json::from_str::<Value>(line).unwrap()["error"].clone();
    let text = |member: &str| error[member].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"), text("hint"))
}

/// A running daemon; killed when dropped.
pub struct Process {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    _log_dir: TempDir,
}

impl Process {
    /// Starts a daemon with a command and waits until it is ready; `root` is where the process sees
    /// its files, `/` unless it has mounts of its own.
    pub fn start(mut command: Command, dir: &Path) -> Self {
        let log_dir = tempfile::tempdir().unwrap();
        let log = log_dir.path().join("log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = Self { child, socket: dir.join("daemon.sock"), log, _log_dir: log_dir };
        assert!(line.contains("ready"), "not started: {line}{}", process.log());
        process
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.socket)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal, by number.
    pub fn signal(&self, signal: i32) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn until_ended(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the daemon ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let status = ended.unwrap();
        assert_eq!(status.signal(), None, "{}", self.log());
        status
    }

    /// Memory in use, in KiB.
    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process's memory in use (VmRSS), in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether this is root; if not, says what is not tested.
pub fn is_root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED, needs root: {what}");
    }
    root
}
