//! The daemons under test: real processes of the built binary, set up as a user would.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Outcome;
use super::keeper::Keeper;
use super::load::Client;
use super::process::{PATIENCE, Process};

/// The binary that cargo built beside this benchmark, with the same profile.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pi-remote");

/// What `status` is asked with.
pub(crate) const STATUS: &[u8] = b"{\"type\":\"status\"}\n";

/// What `list_sessions` is asked with.
pub(crate) const LIST: &[u8] = b"{\"type\":\"list_sessions\"}\n";

/// Makes a state directory as the daemon wants it.
pub(crate) fn state_dir(keeper: &Keeper, name: &str) -> Outcome<PathBuf> {
    let dir = keeper.dir().join(name);
    DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

/// A `pi-remote` command on the state directory `dir`, away from the user's own files.
pub(crate) fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("--dir").arg(dir).arg("--json").args(arguments);
    command.env("HOME", dir).env_remove("PI_REMOTE_DIR").env_remove("RUST_LOG");
    command
}

/// The command that runs a daemon on `dir`, reachable over the loopback alone.
pub(crate) fn daemon_command(dir: &Path) -> Command {
    command(dir, &["daemon", "--listen", "loopback", "--port", "0"])
}

/// Where a daemon on `dir` takes its clients.
pub(crate) fn control_socket(dir: &Path) -> PathBuf {
    dir.join("daemon.sock")
}

/// A `relay` of `get_message` to `session`.
pub(crate) fn relay(session: &str) -> Vec<u8> {
    let mut line = serde_json::json!({
        "type": "relay", "targetSessionId": session, "rpcCommand": { "type": "get_message" }, "requestId": "r",
    })
    .to_string();
    line.push('\n');
    line.into_bytes()
}

/// `data` of the answer to `request`.
pub(crate) fn data(client: &mut Client, request: &[u8]) -> Outcome<Value> {
    let mut answer: Value = serde_json::from_slice(client.ask(request)?)?;
    match answer.get_mut("data") {
        Some(data) => Ok(data.take()),
        None => Err(format!("refused: {answer}").into()),
    }
}

/// Two paired daemons with a link between them.
pub(crate) struct Pair {
    /// The one whose clients ask.
    pub(crate) a: Process,
    /// The one whose session answers.
    pub(crate) b: Process,
}

/// Starts a daemon on each directory, pairs them by ticket, and waits until `a` knows `session`.
pub(crate) fn pair(keeper: &Arc<Keeper>, a_dir: &Path, b_dir: &Path, session: &str) -> Outcome<Pair> {
    let a = Process::start_talking(keeper, daemon_command(a_dir), "daemon-a", None)?;
    let b = Process::start_talking(keeper, daemon_command(b_dir), "daemon-b", None)?;
    event(&a.line()?, "ready")?;
    event(&b.line()?, "ready")?;

    let offer = command(a_dir, &["pair", "--ticket", "--grant", "full"]);
    let mut offer = Process::start_talking(keeper, offer, "pair-a", None)?;
    let offered = event(&offer.line()?, "offer")?;
    let ticket = offered.get("ticket").and_then(Value::as_str).ok_or("the offer has no ticket")?;
    let ticket_file = keeper.dir().join("ticket");
    fs::write(&ticket_file, format!("{ticket}\n"))?;
    let join = command(b_dir, &["pair", "--ticket", "-", "--grant", "full"]);
    let mut join = Process::start_talking(keeper, join, "pair-b", Some(&ticket_file))?;
    join.succeeded()?;
    offer.succeeded()?;

    let mut client = Client::connect(&control_socket(a_dir))?;
    wait_until("the other daemon's session is not listed", Duration::from_millis(5), || {
        let listed = data(&mut client, LIST)?;
        let sessions = listed.get("sessions").and_then(Value::as_array);
        Ok(sessions.is_some_and(|all| all.iter().any(|one| one.get("sessionId").is_some_and(|id| id == session))))
    })?;
    Ok(Pair { a, b })
}

/// Asks `done` again after each `pause` until it says yes.
pub(crate) fn wait_until(otherwise: &str, pause: Duration, mut done: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            return Err(otherwise.into());
        }
        thread::sleep(pause);
    }
    Ok(())
}

fn event(line: &str, expected: &str) -> Outcome<Value> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("expected {expected}, got {line}: {e}"))?;
    match value.get("event").and_then(Value::as_str) {
        Some(event) if event == expected => Ok(value),
        Some(_) | None => Err(format!("expected {expected}, got {line}").into()),
    }
}
