//! `pair --ssh HOST`: the other machine's half runs there, and its ticket comes back over ssh.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::{Context, Error, pair};
use crate::control::client::Client;
use crate::wire::commands::quoted;
use crate::wire::control::PairTerms;
use crate::wire::lines::LineDecoder;
use crate::wire::{Code, Failure};

/// A person may have to type a password, or confirm the host's key.
const OFFER_DEADLINE: Duration = Duration::from_secs(180);
const RESULT_DEADLINE: Duration = Duration::from_secs(30);
/// How much later than ssh this program may hear of the same Ctrl-C.
const INTERRUPTION: Duration = Duration::from_millis(100);
const LINE_LIMIT: usize = 64 * 1024;
/// Lines that the other machine's shell may print before ours comes.
const MAX_NOISE: usize = 200;
const PROGRAM: &str = "pi-remote";

/// Whether ssh takes this as a host, and not as an option.
pub(crate) fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 255
        && !host.starts_with('-')
        && !host.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Offers there, joins here.
pub(crate) async fn pair(
    cx: &Context,
    mut client: Client,
    host: &str,
    program: Option<&str>,
    terms: PairTerms,
) -> Result<(), Error> {
    let mut remote = Remote::start(host, program.unwrap_or(PROGRAM))?;
    let ticket = match timeout(OFFER_DEADLINE, remote.offer()).await {
        Ok(ticket) => ticket.map_err(|failure| pair::failed(cx, failure))?,
        Err(_) => {
            let failure = Failure::new(Code::Timeout, format!("no ticket came from {host} within 3 minutes"));
            return Err(pair::failed(
                cx,
                failure.hint(format!("see whether this works: ssh {} -- true", quoted(host))),
            ));
        }
    };
    // Dropping the remote half closes its window.
    let paired = pair::by_ticket(&mut client, ticket, terms).await.map_err(|failure| pair::failed(cx, failure))?;
    let said = timeout(RESULT_DEADLINE, remote.result()).await;
    pair::report(cx, &paired, true).await?;
    // The other side had stored this device's pin before the join here could end well.
    match said.unwrap_or_else(|_| Err(Failure::new(Code::Timeout, "no word came for 30 s"))) {
        Ok(name) => {
            cx.out.note(&format!("{host} calls this machine {name}, and lets it do everything there (full)"));
            cx.out.note(&format!("to narrow that, on {host}: pi-remote grant {} read", quoted(&name)));
        }
        Err(failure) => cx.out.note(&format!(
            "paired here; {host} did not confirm ({failure}): if it does not link, unpair and pair again"
        )),
    }
    Ok(())
}

struct Remote {
    host: String,
    child: Child,
    stdout: ChildStdout,
    decoder: LineDecoder,
}

impl Remote {
    fn start(host: &str, program: &str) -> Result<Self, Error> {
        let mut command = Command::new("ssh");
        command.args([host, "--", &as_typed_there(program), "pair", "--ticket", "--grant", "full", "--json"]);
        // Passwords are asked for on the terminal itself; ssh's own words pass through.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let failed = || Failure::new(Code::Io, "starting ssh failed").hint("is ssh installed and on the PATH?");
        let mut child = command.spawn().map_err(|e| Error::caused(failed(), e))?;
        let stdout = child.stdout.take().ok_or_else(failed)?;
        Ok(Self { host: host.to_owned(), child, stdout, decoder: LineDecoder::new(LINE_LIMIT) })
    }

    async fn offer(&mut self) -> Result<Zeroizing<String>, Failure> {
        for _ in 0..MAX_NOISE {
            let Some(line) = self.line().await? else { return Err(self.ended().await) };
            if let Some(failure) = pair::failure_of_line(&line) {
                return Err(from_there(&self.host, failure));
            }
            if let Some(ticket) = line.get("ticket").and_then(Value::as_str) {
                return Ok(Zeroizing::new(ticket.to_owned()));
            }
        }
        Err(Failure::new(Code::Io, format!("{} said much, but no ticket", self.host)))
    }

    async fn result(&mut self) -> Result<String, Failure> {
        for _ in 0..MAX_NOISE {
            let Some(line) = self.line().await? else { return Err(self.ended().await) };
            if let Some(outcome) = pair::outcome_of_line(&line) {
                return outcome;
            }
        }
        Err(Failure::new(Code::Io, "much, but not how it ended"))
    }

    /// The next line that is JSON; what the other machine's shell prints beside it is passed over.
    async fn line(&mut self) -> Result<Option<Value>, Failure> {
        for _ in 0..MAX_NOISE {
            let line = loop {
                let next = self.decoder.next_line().map_err(|e| self.broken(&e))?;
                if let Some(line) = next {
                    break line;
                }
                if self.stdout.read_buf(self.decoder.buffer()).await.map_err(|e| self.broken(&e))? == 0 {
                    return Ok(None);
                }
            };
            if let Ok(value @ Value::Object(_)) = serde_json::from_slice(&line) {
                return Ok(Some(value));
            }
        }
        Err(Failure::new(Code::Io, format!("{} printed {MAX_NOISE} lines that are not pi-remote's", self.host)))
    }

    fn broken(&self, error: &dyn std::error::Error) -> Failure {
        Failure::new(Code::Io, format!("hearing from {} over ssh failed: {error}", self.host))
    }

    /// Why there was nothing more to read.
    async fn ended(&mut self) -> Failure {
        let status = self.child.wait().await.ok().and_then(|status| status.code());
        // A Ctrl-C reaches ssh too: its end must not be told as a failure before this program hears of it.
        sleep(INTERRUPTION).await;
        ending(&self.host, status)
    }
}

/// A failure of the other machine's half. Codes that would be understood as this machine's state are
/// not taken over: a daemon that does not run there may well run here.
fn from_there(host: &str, failure: Failure) -> Failure {
    let about_pairing = matches!(
        failure.code,
        Code::PairingBusy | Code::PairingFailed | Code::PairingExpired | Code::NameTaken | Code::Forbidden
    );
    let code = if about_pairing { failure.code } else { Code::Io };
    let said = Failure::new(code, format!("{host} said: {}", failure.message));
    match failure.hint {
        Some(hint) => said.hint(format!("on {host}: {hint}")),
        None => said,
    }
}

fn ending(host: &str, status: Option<i32>) -> Failure {
    match status {
        Some(127) => Failure::new(Code::Unreachable, format!("{host} has no pi-remote where its shell looks"))
            .hint("install it there, or say where it is: --remote-program PATH"),
        Some(126) => Failure::new(Code::Unreachable, format!("pi-remote on {host} cannot be run"))
            .hint("see its permissions there, or say where it is: --remote-program PATH"),
        Some(255) => Failure::new(Code::Unreachable, format!("ssh did not get to {host}; its own words stand above"))
            .hint(format!("see whether this works: ssh {} -- true", quoted(host))),
        Some(status) => Failure::new(Code::Io, format!("pi-remote on {host} ended with status {status} and no ticket"))
            .hint("it may be of an older version"),
        None => Failure::new(Code::Io, "ssh was ended by a signal"),
    }
}

/// The program's path for the other machine's shell; `~` is left for it to expand.
fn as_typed_there(program: &str) -> String {
    let is_home = |part: &str| part.strip_prefix('~').is_some_and(|user| quoted(user) == user || user.is_empty());
    match program.split_once('/') {
        Some((home, path)) if is_home(home) => format!("{home}/{}", quoted(path)),
        Some(_) | None => quoted(program),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_no_host() {
        for good in ["desk", "me@desk", "192.0.2.1", "ssh://me@desk:22"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "-oProxyCommand=x", "a b", "a\nb"] {
            assert!(!is_host(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_path_reaches_the_other_shell_as_one_word() {
        for (path, word) in [
            ("pi-remote", "pi-remote"),
            ("~/bin/pi-remote", "~/bin/pi-remote"),
            ("~me/b n/x", "~me/'b n/x'"),
            ("~$(x)/y", "'~$(x)/y'"),
            ("/a b/x", "'/a b/x'"),
            ("x;rm -rf /", "'x;rm -rf /'"),
            ("it's", r"'it'\''s'"),
            ("$(x)", "'$(x)'"),
        ] {
            assert_eq!(as_typed_there(path), word);
        }
    }

    #[test]
    fn the_other_machines_state_is_not_taken_for_this_ones() {
        let failure = from_there("desk", Failure::new(Code::DaemonNotRunning, "no daemon").hint("start it"));
        assert_eq!(failure, Failure::new(Code::Io, "desk said: no daemon").hint("on desk: start it"));
        assert_eq!(from_there("desk", Failure::new(Code::PairingBusy, "")).code, Code::PairingBusy);
    }

    #[test]
    fn each_way_for_ssh_to_fail_has_its_own_words() {
        assert!(ending("desk", Some(127)).hint.unwrap().contains("--remote-program"));
        assert!(ending("desk", Some(255)).message.contains("ssh did not get to desk"));
        assert!(ending("desk", Some(3)).message.contains("status 3"));
        assert!(ending("desk", None).message.contains("signal"));
    }
}
