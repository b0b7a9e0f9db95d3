//! `demo`: two machines on this one. Every step is a command that a user would type, run as its own
//! process, shown with its output, and checked.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::output::Style;
use super::{Context, Error};
use crate::config;
use crate::control::client::{Client, OWN_DEADLINE};
use crate::session::fake::FakeSession;
use crate::state_dir::StateDir;
use crate::wire::commands::quoted_words;
use crate::wire::control::{PeerList, SessionList, Status};
use crate::wire::{Code, Failure, PeerName, SessionId};

/// How long one step may take; each takes milliseconds.
const STEP_DEADLINE: Duration = Duration::from_secs(20);
const LOG_FILE: &str = "daemon.log";
const LOG_LIMIT: usize = 1024 * 1024;
const QUESTION: &str = "how do the tests look?";
const REFUSED: &str = "are you still there?";

pub(crate) async fn run(cx: Context) -> Result<(), Error> {
    let stage = Stage::set(&cx)?;
    stage.say(&format!(
        "Two machines, laptop and desktop, in {}: one daemon each, and one small session each that repeats \
         what it is told. The option that tells the two directories apart, --dir, is left out below.",
        stage.place.0.display()
    ))?;
    let mut laptop = stage.machine("laptop")?;
    let mut desktop = stage.machine("desktop")?;
    for machine in [&mut laptop, &mut desktop] {
        stage.start_daemon(machine).await?;
    }
    let notes = session(&laptop, "notes")?;
    let tests = session(&desktop, "tests")?;

    stage.title("Pair them: one shows a code, and it is typed at the other")?;
    pair(&stage, &laptop, &desktop).await?;

    stage.title("Each sees the other's sessions")?;
    for machine in [&laptop, &desktop] {
        until("the link", || async {
            let list: SessionList = machine.ask("list_sessions").await?;
            let aliased = list.sessions.iter().filter(|session| !session.aliases.is_empty());
            Ok(aliased.count() == 2 && list.sessions.iter().any(|session| session.is_remote))
        })
        .await?;
    }
    let ran = stage.run(&laptop, &["sessions"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| out.contains(notes.id().as_str()) && out.contains(tests.id().as_str()))?;

    stage.title("Send to the other machine's session, and wait for its reply")?;
    let ran = stage.run(&laptop, &["send", "desktop/tests", QUESTION, "--wait"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| out.trim_end() == format!("echo: {QUESTION}"))?;

    stage.title("Who may do what")?;
    let ran = stage.run(&desktop, &["peers"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| out.contains("laptop") && !out.contains("not connected"))?;

    stage.title("From now on laptop may only read there")?;
    let ran = stage.run(&desktop, &["grant", "laptop", "read"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| out.contains("laptop"))?;
    let ran = stage.run(&laptop, &["send", "desktop/tests", REFUSED], How::ToItsEnd).await?;
    if was_told(&tests, REFUSED) || ran.status.code() != Some(5) {
        return Err(ran.wrong("it was not refused"));
    }
    stage.run(&laptop, &["read", "desktop/tests"], How::ToItsEnd).await?.must_succeed()?;

    stage.title("The audit has what was done and what was refused, and shows if anybody changes it")?;
    let ran = stage.run(&desktop, &["audit"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| ["send", "forbidden", "grant"].iter().all(|word| out.contains(word)))?;
    stage.run(&desktop, &["audit", "--verify"], How::ToItsEnd).await?.must_succeed()?;

    stage.title("Trust ends: unpair, and the other is refused")?;
    let ran = stage.run(&laptop, &["unpair", "desktop"], How::ToItsEnd).await?;
    ran.must_succeed()?.must(|out| out.contains("desktop"))?;
    until("the cut link", || async {
        let list: PeerList = desktop.ask("peers").await?;
        Ok(list.peers.iter().all(|peer| !peer.connected))
    })
    .await?;
    let ran = stage.run(&desktop, &["send", "laptop/notes", REFUSED], How::ToItsEnd).await?;
    if was_told(&notes, REFUSED) || !matches!(ran.status.code(), Some(4 | 5 | 8)) {
        return Err(ran.wrong("it was not refused"));
    }

    stage.title("Stop")?;
    for machine in [&mut laptop, &mut desktop] {
        stage.run(machine, &["stop"], How::ToItsEnd).await?.must_succeed()?;
        machine.ended().await?;
    }
    stage.title("Every step did what it says.")
}

/// Whether a session was told this.
fn was_told(session: &FakeSession, text: &str) -> bool {
    session.received().iter().any(|line| String::from_utf8_lossy(line).contains(text))
}

/// `laptop` shows a code, and it is typed at `desktop`.
async fn pair(stage: &Stage<'_>, laptop: &Machine, desktop: &Machine) -> Result<(), Error> {
    let status: Status = laptop.ask("status").await?;
    let address = status.listen.into_iter().next().unwrap_or_default();
    let offer = ["pair", "--grant", "full"];
    let mut offering = stage.command(laptop, &offer).stdin(Stdio::null()).spawn().map_err(cannot_run)?;
    let mut stdout = BufReader::new(offering.stdout.take().ok_or_else(no_output)?);
    let code = first_line(&mut stdout).await?;
    stage.show(laptop, &offer, How::InTheBackground, &code, "", None)?;
    let prompt = &format!("The code that {address} shows:");
    let typing = How::Typing { prompt, text: &code };
    let ran = stage.run(desktop, &["pair", &address, "--grant", "full"], typing).await?;
    ran.must_succeed()?.must(|out| out.contains("paired with laptop"))?;
    let offered = timeout(STEP_DEADLINE, offering.wait_with_output()).await.map_err(|_| too_slow("the offer"))?;
    let offered = offered.map_err(cannot_run)?;
    let ran = Ran::new(&offer, offered.status, offered.stdout, offered.stderr);
    let end = ran.stderr.lines().find(|line| line.starts_with("paired with")).unwrap_or_default();
    stage.say(&format!("  (laptop says: {end})"))?;
    ran.must_succeed()?;
    if end.contains("desktop") { Ok(()) } else { Err(ran.wrong("it did not say that it paired with desktop")) }
}

fn session(machine: &Machine, alias: &str) -> Result<FakeSession, Error> {
    let failed = |e| Error::caused(Failure::new(Code::Io, format!("starting a session on {}", machine.name)), e);
    let id: SessionId = Uuid::new_v4().to_string().parse().map_err(|e| Error::caused(internal(), e))?;
    let session = FakeSession::start(machine.dir.path(), &id).map_err(failed)?;
    session.set_alias(alias).map_err(failed)?;
    Ok(session)
}

/// Where it is played, and how it is shown.
struct Stage<'a> {
    cx: &'a Context,
    program: PathBuf,
    place: Place,
}

impl<'a> Stage<'a> {
    fn set(cx: &'a Context) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(cannot_run)?;
        let name = Uuid::new_v4().simple().to_string();
        // Short, because the sockets in it have paths of about 100 bytes at most.
        let place = Place(std::env::temp_dir().join(format!("pi-remote-demo-{}", name.get(..8).unwrap_or(&name))));
        Ok(Self { cx, program, place })
    }

    fn machine(&self, name: &'static str) -> Result<Machine, Error> {
        let dir = StateDir::open(&self.place.0.join(name))?;
        let petname: PeerName = name.parse().map_err(|e| Error::caused(internal(), e))?;
        config::set_name(&dir, &petname)?;
        Ok(Machine { name, dir, daemon: None })
    }

    async fn start_daemon(&self, machine: &mut Machine) -> Result<(), Error> {
        let words = ["daemon", "--listen", "loopback", "--port", "0"];
        let log = machine.dir.open_log(LOG_FILE)?;
        let mut command = self.command(machine, &words);
        let mut child = command.stdin(Stdio::null()).stderr(log).spawn().map_err(cannot_run)?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or_else(no_output)?);
        let ready = first_line(&mut stdout).await?;
        machine.daemon = Some(child);
        let log = if ready.is_empty() { machine.log() } else { String::new() };
        let how = if ready.is_empty() { How::ToItsEnd } else { How::InTheBackground };
        self.show(machine, &words, how, &ready, &log, None)?;
        if ready.is_empty() { Err(Failure::new(Code::Io, "the daemon did not start").into()) } else { Ok(()) }
    }

    /// Runs one command to its end and shows it.
    async fn run(&self, machine: &Machine, words: &[&str], how: How<'_>) -> Result<Ran, Error> {
        let mut command = self.command(machine, words);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(cannot_run)?;
        let mut input = child.stdin.take();
        if let (Some(input), How::Typing { text, .. }) = (&mut input, how) {
            input.write_all(format!("{text}\n").as_bytes()).await.map_err(cannot_run)?;
        }
        drop(input);
        let output =
            timeout(STEP_DEADLINE, child.wait_with_output()).await.map_err(|_| too_slow(&quoted_words(words)))?;
        let output = output.map_err(cannot_run)?;
        let ran = Ran::new(words, output.status, output.stdout, output.stderr);
        self.show(machine, words, how, &ran.stdout, &ran.stderr, output.status.code())?;
        Ok(ran)
    }

    fn command(&self, machine: &Machine, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--dir").arg(machine.dir.path()).args(words);
        command.env_remove("PI_REMOTE_PORT").env_remove("PI_REMOTE_LISTEN");
        // Ctrl-C is for the demo, which ends its steps: one that dies of it first would seem to have failed.
        command.process_group(0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn show(
        &self,
        machine: &Machine,
        words: &[&str],
        how: How<'_>,
        stdout: &str,
        stderr: &str,
        exit: Option<i32>,
    ) -> Result<(), Error> {
        let out = self.cx.out;
        let behind = if how == How::InTheBackground { " &" } else { "" };
        let command = format!("pi-remote {}{behind}", quoted_words(words));
        if out.json {
            return out.json(&json!({
                "machine": machine.name, "command": command, "stdout": stdout, "stderr": stderr, "exitCode": exit,
            }));
        }
        out.styled(Style::Bold, &format!("{}$ {command}", machine.name))?;
        if let How::Typing { prompt, text } = how {
            out.line(&format!("{prompt} {text}"))?;
        }
        for text in [stdout, stderr].into_iter().filter(|text| !text.is_empty()) {
            out.text(text)?;
        }
        match exit.filter(|code| *code != 0) {
            Some(code) => out.styled(Style::Faint, &format!("(exit code {code})")),
            None => Ok(()),
        }
    }

    fn title(&self, text: &str) -> Result<(), Error> {
        if self.cx.out.json {
            return Ok(());
        }
        self.cx.out.line("")?;
        self.cx.out.styled(Style::Good, text)
    }

    fn say(&self, text: &str) -> Result<(), Error> {
        if self.cx.out.json { Ok(()) } else { self.cx.out.line(text) }
    }
}

/// How a command is run, and so shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How<'a> {
    ToItsEnd,
    InTheBackground,
    /// With a line typed at a question, which it asks on a terminal only.
    Typing {
        prompt: &'a str,
        text: &'a str,
    },
}

/// One of the two machines. Its daemon is killed when this is dropped.
struct Machine {
    name: &'static str,
    dir: StateDir,
    daemon: Option<Child>,
}

impl Machine {
    async fn ask<T: DeserializeOwned>(&self, kind: &str) -> Result<T, Failure> {
        Client::connect(self.dir.path()).await?.ask(kind, Map::new(), OWN_DEADLINE).await
    }

    async fn ended(&mut self) -> Result<(), Error> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let status = timeout(STEP_DEADLINE, daemon.wait()).await.map_err(|_| too_slow("the daemon's end"))?;
        let status = status.map_err(cannot_run)?;
        if status.success() {
            return Ok(());
        }
        let message = format!("the daemon of {} ended with {status}: {}", self.name, self.log());
        Err(Failure::new(Code::Internal, message).into())
    }

    fn log(&self) -> String {
        let log = self.dir.read(LOG_FILE, LOG_LIMIT).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

/// A command that has run.
struct Ran {
    command: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(words: &[&str], status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { command: quoted_words(words), status, stdout: text(stdout), stderr: text(stderr) }
    }

    fn must_succeed(&self) -> Result<&Self, Error> {
        if self.status.success() {
            Ok(self)
        } else {
            Err(self.wrong(&format!("{}: {}", self.status, self.stderr.trim())))
        }
    }

    fn must(&self, holds: impl FnOnce(&str) -> bool) -> Result<&Self, Error> {
        if holds(&self.stdout) { Ok(self) } else { Err(self.wrong("it did not print what it should")) }
    }

    fn wrong(&self, what: &str) -> Error {
        Failure::new(Code::Internal, format!("`pi-remote {}` did not do what it says: {what}", self.command)).into()
    }
}

/// The directory of both machines, removed when dropped.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        for _ in 0..20 {
            match std::fs::remove_dir_all(&self.0) {
                // A daemon that has just been killed may still have been writing.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(20)),
                Ok(()) | Err(_) => return,
            }
        }
    }
}

async fn first_line(stdout: &mut BufReader<ChildStdout>) -> Result<String, Error> {
    let mut line = String::new();
    let mut limited = stdout.take(64 * 1024);
    let read = timeout(STEP_DEADLINE, limited.read_line(&mut line)).await.map_err(|_| too_slow("the first line"))?;
    read.map_err(cannot_run)?;
    Ok(line.trim_end().to_owned())
}

async fn until<F: Future<Output = Result<bool, Failure>>>(what: &str, holds: impl Fn() -> F) -> Result<(), Error> {
    let latest = Instant::now() + STEP_DEADLINE;
    while !holds().await? {
        if Instant::now() > latest {
            return Err(too_slow(what));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn cannot_run(error: std::io::Error) -> Error {
    Error::caused(Failure::new(Code::Io, "running a step of the demo failed"), error)
}

fn too_slow(what: &str) -> Error {
    Failure::new(Code::Timeout, format!("{what} took longer than {} s", STEP_DEADLINE.as_secs())).into()
}

fn no_output() -> Error {
    internal().into()
}

fn internal() -> Failure {
    Failure::new(Code::Internal, "setting the demo's stage failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_would_be_typed() {
        assert_eq!(quoted_words(&["send", "desktop/tests", QUESTION]), "send desktop/tests 'how do the tests look?'");
    }

    #[test]
    fn the_place_is_gone_when_the_demo_ends() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x");
        let place = Place(path.clone());
        StateDir::open(&path.join("laptop")).unwrap().write_atomic("config.json", b"{}").unwrap();
        drop(place);
        assert!(!path.exists());
    }
}
