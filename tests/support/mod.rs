//! What the themes share: daemons as real processes, a client of their control socket, pairing.

pub mod cli;
pub mod code;
pub mod disk;
pub mod instant;
pub mod netns;
pub mod original;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod scripted;
pub mod source;
pub mod sshd;
pub mod tailscaled;
pub mod user_manager;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest that anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A daemon in a directory of its own, on the loopback; stopped when dropped.
pub struct TestDaemon {
    pub dir: PathBuf,
    pub fingerprint: String,
    pub listen: Vec<String>,
    name: String,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    _keep: Option<TempDir>,
}

impl TestDaemon {
    /// A daemon called `name` on a free port.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[], json!({}))
    }

    /// A daemon with more options and a `config.json`.
    pub fn start_with(name: &str, options: &[&str], config: Value) -> Self {
        let mut daemon = Self::prepared(name, config);
        daemon.run(options);
        daemon
    }

    /// A daemon that may have no more than so many descriptors.
    pub fn start_with_descriptors(name: &str, number: u32) -> Self {
        let mut daemon = Self::prepared(name, json!({}));
        let limited = format!("ulimit -n {number} && exec \"$0\" \"$@\"");
        daemon.spawn(process::behind(&["sh", "-c", &limited], &daemon.command(&[])));
        daemon
    }

    fn prepared(name: &str, mut config: Value) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("s");
        std::fs::DirBuilder::new().create(&dir).unwrap();
        set_mode(&dir, 0o700);
        config["name"] = name.into();
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let (fingerprint, listen, log) = (String::new(), vec![], Arc::default());
        Self { dir, fingerprint, listen, name: name.into(), child: None, log, _keep: Some(keep) }
    }

    /// Starts the process in the same directory, on the port that it had if it had one.
    pub fn run(&mut self, options: &[&str]) {
        self.spawn(self.command(options));
    }

    fn command(&self, options: &[&str]) -> Command {
        let port = self.port().map_or("0".to_owned(), |port| port.to_string());
        let mut command = pi_remote(&self.dir);
        command.args(["--json", "daemon", "--listen", "loopback", "--port", &port]).args(options);
        command
    }

    fn spawn(&mut self, mut command: Command) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let output = child.wait_with_output().unwrap();
            panic!("the daemon {} did not start: {line}{}", self.name, String::from_utf8_lossy(&output.stderr));
        };
        drain(child.stderr.take().unwrap(), Arc::clone(&self.log));
        self.fingerprint = ready["fingerprint"].as_str().unwrap().into();
        self.listen = ready["listen"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().into()).collect();
        self.child = Some(child);
    }

    /// The port for peers.
    pub fn port(&self) -> Option<u16> {
        self.listen.first()?.rsplit_once(':')?.1.parse().ok()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Kills the process as nothing can be caught (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// A connection to the control socket.
    pub fn control(&self) -> Control {
        Control::connect(&self.dir.join("daemon.sock"))
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: Value) -> Value {
        self.control().ask(request)
    }

    /// A command line run against this daemon to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with(arguments, "")
    }

    /// As [`TestDaemon::cli`], with something on stdin.
    pub fn cli_with(&self, arguments: &[&str], stdin: &str) -> Output {
        run_with(pi_remote(&self.dir).args(arguments), stdin)
    }

    /// What `list_sessions` lists, as `host/sessionId`.
    pub fn sessions(&self) -> Vec<String> {
        let list = self.ask(json!({"type": "list_sessions"}));
        let name = |s: &Value| format!("{}/{}", s["host"].as_str().unwrap(), s["sessionId"].as_str().unwrap());
        list["data"]["sessions"].as_array().unwrap().iter().map(name).collect()
    }

    /// The entry of a peer in `status`, by petname.
    pub fn peer(&self, name: &str) -> Value {
        let status = self.ask(json!({"type": "status"}));
        let peers = status["data"]["peers"].as_array().unwrap();
        peers.iter().find(|peer| peer["name"] == name).cloned().unwrap_or(Value::Null)
    }

    /// Waits until the link to a peer is up.
    pub fn until_linked(&self, name: &str) {
        eventually(&format!("{} is linked to {name}", self.name), || self.peer(name)["connected"] == true);
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A daemon that a peer written by hand can pair with and dial.
pub trait Reachable {
    /// Its port for peers.
    fn peer_port(&self) -> u16;
    /// A client of it.
    fn client(&self) -> Control;
}

impl Reachable for TestDaemon {
    fn peer_port(&self) -> u16 {
        self.port().unwrap()
    }

    fn client(&self) -> Control {
        self.control()
    }
}

impl Reachable for instant::Machine {
    fn peer_port(&self) -> u16 {
        self.port
    }

    fn client(&self) -> Control {
        self.control()
    }
}

/// Two daemons, `laptop` and `desktop`, paired by ticket and linked.
pub struct TestPair {
    pub laptop: TestDaemon,
    pub desktop: TestDaemon,
}

impl TestPair {
    pub fn start() -> Self {
        Self::start_with(json!({}))
    }

    pub fn start_with(config: Value) -> Self {
        let laptop = TestDaemon::start_with("laptop", &[], config.clone());
        let desktop = TestDaemon::start_with("desktop", &[], config);
        pair(&desktop, &laptop);
        laptop.until_linked("desktop");
        desktop.until_linked("laptop");
        Self { laptop, desktop }
    }
}

/// Pairs two daemons by ticket over their control sockets; `joiner` joins `offerer`.
pub fn pair(offerer: &TestDaemon, joiner: &TestDaemon) {
    let mut offering = offerer.control();
    let offer = offering.ask(json!({"type": "pair_offer", "kind": "ticket", "grant": "full", "id": "o"}));
    let ticket = offer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("no ticket: {offer}"));
    let joined = joiner.ask(json!({"type": "pair_join", "ticket": ticket, "grant": "full"}));
    assert_eq!(joined["success"], true, "{joined}");
    let paired = offering.until(|line| line["type"] == "event");
    assert_eq!(paired["event"], "paired", "{paired}");
}

/// The fingerprints that a daemon has on disk.
pub fn pinned(daemon: &TestDaemon) -> Vec<String> {
    let Ok(file) = std::fs::read(daemon.dir.join("peers.json")) else { return Vec::new() };
    let file: Value = serde_json::from_slice(&file).expect("a whole file, the old one or the new one");
    file["peers"].as_array().unwrap().iter().map(|peer| peer["fingerprint"].as_str().unwrap().into()).collect()
}

/// A client of a control socket that reads and writes lines.
pub struct Control {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Control {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// Sends a request and returns the next response, events skipped.
    pub fn ask(&mut self, request: Value) -> Value {
        self.send(&request);
        self.until(|line| line["type"] == "response")
    }

    pub fn send(&mut self, request: &Value) {
        self.send_raw(format!("{request}\n").as_bytes());
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line, `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).expect("a line in time");
        (read > 0).then_some(line)
    }

    /// The next line as JSON.
    pub fn next(&mut self) -> Value {
        serde_json::from_str(&self.line().expect("a line, not the end")).unwrap()
    }

    /// The next line that is `wanted`, others skipped.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next();
            if wanted(&line) {
                return line;
            }
        }
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// A `pi-remote` command for a state directory, free of this environment's settings.
pub fn pi_remote(dir: &Path) -> Command {
    let built_with_the_tests = || env!("CARGO_BIN_EXE_pi-remote").into();
    let mut command = Command::new(std::env::var_os("TESTED_BINARY").unwrap_or_else(built_with_the_tests));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PI_REMOTE") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").arg("--dir").arg(dir);
    command
}

/// Runs a command with `stdin` to its end.
pub fn run_with(command: &mut Command, stdin: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that wants no input may have gone by now.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// Waits until something holds; it is asked again and again, and fails after the deadline.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(DEADLINE, what, &mut holds);
}

/// As [`eventually`], within a time that the product promises.
pub fn within(time: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < time, "not within {time:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Sets a file's mode.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn drain(stderr: std::process::ChildStderr, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            *log.lock().unwrap() += &format!("{line}\n");
            // Shown by the test harness only when the test fails.
            println!("{line}");
        }
    });
}
