//! Command lines run from outside: what they print, how they end, and how they are interrupted.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{pi_remote, run_with, within};

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
    words: String,
}

impl Ran {
    fn new(words: &[&str], output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        // A signal has no code; 1000 equals no exit code.
        let code = output.status.code().unwrap_or(1000);
        Self { code, out: text(output.stdout), err: text(output.stderr), words: words.join(" ") }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "pi-remote {}\nstdout: {}\nstderr: {}", self.words, self.out, self.err);
        self
    }

    /// The JSON objects on stdout, which must hold nothing else.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str::<Value>(line) {
            Ok(value) if value.is_object() => value,
            other => panic!("pi-remote {}: stdout is not JSON: {line}: {other:?}", self.words),
        };
        self.out.lines().map(parse).collect()
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let mut lines = self.lines();
        assert_eq!(lines.len(), 1, "pi-remote {}\nstdout: {}\nstderr: {}", self.words, self.out, self.err);
        lines.remove(0)
    }

    /// Asserts that stdout is one failure in its JSON shape, and gives its members.
    #[track_caller]
    pub fn json_failure(&self) -> Value {
        let line = self.json();
        let error = &line["error"];
        assert!(error["code"].is_string() && error["message"].is_string(), "{line}");
        assert!(error.as_object().unwrap().contains_key("hint"), "hint is there, if only as null: {line}");
        error.clone()
    }

    /// Asserts that stderr says why in its form, and that stdout has nothing.
    #[track_caller]
    pub fn text_failure(&self) -> &str {
        assert_eq!(self.out, "", "pi-remote {}", self.words);
        let mut lines = self.err.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("error: ")), "{}", self.err);
        for line in lines {
            assert!(line.starts_with("caused by: ") || line.starts_with("hint: "), "{}", self.err);
        }
        &self.err
    }
}

/// Runs `pi-remote` for a state directory.
pub fn run(dir: &Path, words: &[&str]) -> Ran {
    run_in(dir, words, "")
}

/// As [`run`], with something on stdin.
pub fn run_in(dir: &Path, words: &[&str], stdin: &str) -> Ran {
    Ran::new(words, run_with(pi_remote(dir).args(words), stdin))
}

/// Runs a command that was made by hand.
pub fn run_command(command: &mut Command) -> Ran {
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = run_with(command, "");
    Ran::new(&words, output)
}

/// A command that still runs; killed when dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: Option<ChildStderr>,
    words: String,
}

impl Running {
    /// Starts `pi-remote` for a state directory.
    pub fn start(dir: &Path, words: &[&str]) -> Self {
        Self::spawn(pi_remote(dir).args(words))
    }

    /// Starts a command that was made by hand.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        Self { child, stdin, stdout, stderr, words: format!("{command:?}") }
    }

    /// Starts `pi-remote` on a terminal of its own; needs `script`.
    pub fn on_terminal(dir: &Path, words: &str) -> Self {
        let command = format!("{} --dir {} {words}", env!("CARGO_BIN_EXE_pi-remote"), dir.display());
        let mut script = Command::new("script");
        Self::spawn(script.args(["-qfec", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR"))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of stdout; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next line of stdout as JSON.
    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {line}: {e}", self.words))
    }

    /// Reads until stdout holds `text`, which may be a prompt without a line's end.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut byte = [0];
            let read = self.stdout.read(&mut byte).unwrap_or(0);
            assert!(read > 0, "{}: ended without `{text}`: {}", self.words, String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Types something on stdin.
    pub fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits until it has ended by itself, its stdin still open.
    pub fn wait_until_over(&mut self) {
        within(Duration::from_secs(20), &self.words.clone(), || self.child.try_wait().unwrap().is_some());
    }

    /// Waits for its end, its stdin closed; what it had printed before is not in it again.
    pub fn end(mut self) -> Ran {
        drop(self.stdin.take());
        let mut stderr = self.stderr.take().unwrap();
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            bytes
        });
        let mut stdout = Vec::new();
        let _ = self.stdout.read_to_end(&mut stdout);
        let status = self.child.wait().unwrap();
        let words = self.words.clone();
        Ran::new(&[&words], Output { status, stdout, stderr: reading.join().unwrap() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control socket whose answers the test makes up.
pub struct MadeUpDaemon {
    pub dir: tempfile::TempDir,
    received: Arc<Mutex<Vec<Value>>>,
    _serving: JoinHandle<()>,
}

impl MadeUpDaemon {
    /// Answers each request with this data.
    pub fn start(mut answer: impl FnMut(&Value) -> Value + Send + 'static) -> Self {
        Self::saying(move |request| vec![answered(answer(request))])
    }

    /// Says these lines to each request, its id filled in.
    pub fn saying(say: impl FnMut(&Value) -> Vec<Value> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        super::set_mode(dir.path(), 0o700);
        let listener = UnixListener::bind(dir.path().join("daemon.sock")).unwrap();
        let (say, received) = (Arc::new(Mutex::new(say)), Arc::<Mutex<Vec<Value>>>::default());
        let seen = Arc::clone(&received);
        let serving = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (say, seen) = (Arc::clone(&say), Arc::clone(&seen));
                std::thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let request: Value = serde_json::from_str(&line).unwrap();
                        seen.lock().unwrap().push(request.clone());
                        let lines = (say.lock().unwrap())(&request);
                        for mut line in lines {
                            line["id"] = request["id"].clone();
                            if writer.write_all(format!("{line}\n").as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { dir, received, _serving: serving }
    }

    /// The requests of one type that have come, in their order.
    pub fn received(&self, kind: &str) -> Vec<Value> {
        self.received.lock().unwrap().iter().filter(|request| request["type"] == kind).cloned().collect()
    }
}

/// The answer of a request that was done.
pub fn answered(data: Value) -> Value {
    json!({ "type": "response", "success": true, "data": data })
}

/// An event that belongs to a request.
pub fn event(name: &str, data: Value) -> Value {
    json!({ "type": "event", "event": name, "data": data })
}

/// Looks at the command line and the environment of every process again and again for a secret.
pub struct Watchman {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<(usize, Vec<String>)>,
}

impl Watchman {
    pub fn start(secret: &str) -> Self {
        let (stop, secret) = (Arc::new(AtomicBool::new(false)), secret.as_bytes().to_vec());
        let stopped = Arc::clone(&stop);
        let looking = std::thread::spawn(move || {
            let (mut rounds, mut found) = (0, Vec::new());
            while !stopped.load(Ordering::Acquire) {
                for (pid, words) in processes().chain(environments()) {
                    if words.windows(secret.len()).any(|part| part == secret) {
                        found.push(format!("{pid}: {}", String::from_utf8_lossy(&words)));
                    }
                }
                rounds += 1;
            }
            (rounds, found)
        });
        Self { stop, looking }
    }

    /// Asserts that the secret was nowhere.
    pub fn found_nothing(self) {
        self.found_nothing_but("\0");
    }

    /// As [`Watchman::found_nothing`], beside what another test types in the wrong place.
    pub fn found_nothing_but(self, typed: &str) {
        self.stop.store(true, Ordering::Release);
        let (rounds, mut found) = self.looking.join().unwrap();
        found.retain(|words| typed == "\0" || !words.contains(typed));
        assert!(rounds > 0);
        assert_eq!(found, Vec::<String>::new());
    }
}

/// Every process and its command line, words ended by NUL.
pub fn processes() -> impl Iterator<Item = (u32, Vec<u8>)> {
    of_processes("cmdline")
}

fn environments() -> impl Iterator<Item = (u32, Vec<u8>)> {
    of_processes("environ")
}

fn of_processes(file: &'static str) -> impl Iterator<Item = (u32, Vec<u8>)> {
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(move |entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, std::fs::read(entry.path().join(file)).ok()?))
    })
}

/// Whether a process lives: a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Asserts that a process ends soon.
pub fn until_gone(pid: u32) {
    within(Duration::from_secs(10), &format!("process {pid} has gone"), || !is_alive(pid));
}

/// Says that a test, or a part of one, is skipped: past the harness, which keeps what passing tests print.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes());
}

/// Whether a program is on the PATH; when not, says that a test is skipped.
pub fn has_program(program: &str) -> bool {
    let found = is_installed(program);
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Whether a program is there.
pub fn is_installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
