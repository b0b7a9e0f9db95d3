//! The systemd user unit, and what `systemctl --user` is asked.

use std::collections::HashMap;
use std::time::Duration;

use sd_notify::NotifyState;

use super::{Command, Daemon, State, Step, attempt, command, no_manager};
use crate::programs;
use crate::wire::{Code, Failure};

/// Name of the unit.
pub const UNIT: &str = "pi-remote.service";

/// The exit status of a daemon that it would be no use to start again. A unit is told so; what it
/// is named is EX_CONFIG of sysexits.h, which systemd shows as `78/CONFIG`.
pub const NOT_AGAIN: u8 = 78;

/// Between a message and its hint where there is but one line for both.
const HINT: &str = " hint: ";
const QUESTION: Duration = Duration::from_secs(10);
/// The first version that lets the pause before a restart grow.
const GROWING_PAUSES: u32 = 254;

/// The unit's text, for a systemd of this version.
///
/// # Errors
/// The program's path has quotes or a backslash, which systemd refuses there however they are written.
pub fn unit(daemon: &Daemon, version: u32) -> Result<String, Failure> {
    if daemon.program.contains(['"', '\'', '\\']) {
        let message = format!("systemd starts no program with a quote or a backslash in its path: {}", daemon.program);
        return Err(
            Failure::new(Code::Io, message).hint("put pi-remote elsewhere, /usr/local/bin say, and install from there")
        );
    }
    let arguments = daemon.arguments().iter().map(|word| format!(" {}", quoted(word, "$$"))).collect::<String>();
    // A variable is looked for in the arguments alone.
    let start = format!("{}{arguments}", quoted(&daemon.program, "$"));
    let pauses = if version < GROWING_PAUSES { "" } else { "RestartSteps=8\nRestartMaxDelaySec=5min\n" };
    Ok(daemon.mark().seal(|mark| {
        format!(
            "\
# {mark}
# Written by `pi-remote service install`, removed by `pi-remote service uninstall`.
# Settings of your own go into a drop-in, which both leave alone: systemctl --user edit pi-remote

[Unit]
Description=pi-remote, relaying between coding-agent sessions over mutual TLS
# Tried again for as long as it takes: an address to listen on may come late.
StartLimitIntervalSec=0

[Service]
# Ready once it answers `pi-remote status`. No WatchdogSec: nothing would feed it.
Type=notify
NotifyAccess=main
ExecStart={start}
TimeoutStartSec=60
TimeoutStopSec=20
# `pi-remote stop` ends it with success, so that it stays stopped.
Restart=on-failure
RestartSec=5
{pauses}\
# Not again after a broken setting, a state directory open to others, or beside another daemon.
RestartPreventExitStatus=2 {NOT_AGAIN}

# What it makes is this user's alone, and its keys reach no core dump.
UMask=0077
LimitCORE=0
# Hardening that the kernel does for any process. Whatever needs a mount, network or user namespace
# is left out (ProtectSystem, ProtectHome, PrivateTmp, PrivateDevices, ProcSubset ...): not every
# system lets a user's manager make one, and the daemon needs ~/.pi. Capabilities cannot be bounded
# by a user's manager, and it has none to give.
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
# Netlink tells the addresses of this machine. It runs one program, `tailscale status`.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
"
        )
    }))
}

/// A word for a command line of a unit: `%`, quotes, backslashes and `$` mean themselves.
fn quoted(word: &str, dollar: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '=' | ':' | ',' | '+');
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', dollar);
    format!("\"{escaped}\"")
}

pub(super) fn commands(step: Step) -> Vec<Command> {
    let reload = command(&["systemctl", "--user", "daemon-reload"]);
    let on_unit = |words: &[&str]| command(&[&["systemctl", "--user"], words, &[UNIT]].concat());
    match step {
        Step::Install => vec![reload, on_unit(&["enable", "--now"])],
        Step::Replace => vec![reload, on_unit(&["enable"]), on_unit(&["restart"])],
        Step::Start => vec![on_unit(&["start"])],
        Step::Stop => vec![on_unit(&["stop"])],
        Step::Disable => vec![on_unit(&["disable", "--now"])],
        // A unit that had failed would be listed still.
        Step::Forget => vec![reload, attempt(&["systemctl", "--user", "reset-failed", UNIT])],
    }
}

pub(super) fn log_command(follow: bool) -> Vec<String> {
    let mut words = vec!["journalctl", "--user", "--unit", UNIT, "--lines", "100", "--no-pager"];
    words.extend(follow.then_some("--follow"));
    words.into_iter().map(Into::into).collect()
}

/// The version of the systemd here; 0 where it is not known.
pub(super) async fn version() -> u32 {
    let Ok(ended) = programs::run(&["systemctl", "--version"], QUESTION).await else { return 0 };
    ended.stdout.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

pub(super) async fn state(user: u32) -> Result<State, Failure> {
    if programs::find("systemctl").is_none() {
        return Err(no_manager("there is no systemd here: `systemctl` is not on the PATH".into()));
    }
    let show = ["systemctl", "--user", "show", "--property"];
    let asked = "ActiveState,SubState,Result,UnitFileState,MainPID,StatusText";
    let ended = programs::run(&[&show[..], &[asked, UNIT]].concat(), QUESTION).await?;
    if ended.code != Some(0) {
        return Err(unreachable(ended.stderr.trim(), user));
    }
    let properties: HashMap<&str, &str> = ended.stdout.lines().filter_map(|line| line.split_once('=')).collect();
    let property = |name: &str| properties.get(name).copied().unwrap_or_default();
    let (active, sub, result) = (property("ActiveState"), property("SubState"), property("Result"));
    let at_rest = matches!(active, "inactive" | "failed");
    let details: Vec<&str> = [sub, result].into_iter().filter(|word| !["", active, "success"].contains(word)).collect();
    Ok(State {
        installed: false,
        enabled: matches!(property("UnitFileState"), "enabled" | "enabled-runtime"),
        active: matches!(active, "active" | "reloading"),
        unit: None,
        program: None,
        linger: None,
        pid: property("MainPID").parse().ok().filter(|pid| *pid > 0),
        at_rest,
        words: format!("{active} ({})", details.join(": ")),
        // What one said that has ended well is no longer so.
        said: Some(property("StatusText")).filter(|said| !said.is_empty() && active != "inactive").map(Into::into),
    })
}

fn unreachable(said: &str, user: u32) -> Failure {
    let failure = no_manager(format!("no systemd user manager answers: {said}"));
    let runtime = format!("/run/user/{user}");
    // As behind `su` or `sudo`: it runs, but nothing here says where.
    if !names_runtime(&runtime) && std::path::Path::new(&runtime).join("systemd").is_dir() {
        return failure.hint(format!("export XDG_RUNTIME_DIR={runtime}"));
    }
    failure
}

/// The command after which the manager of this user can be asked, where it may run; `None` where the
/// environment is not what keeps it from being asked.
pub(super) fn way_to_manager(user: u32) -> Option<String> {
    let runtime = format!("/run/user/{user}");
    let is_missing = !names_runtime(&runtime) && programs::find("systemctl").is_some();
    is_missing.then(|| format!("export XDG_RUNTIME_DIR={runtime}"))
}

fn names_runtime(runtime: &str) -> bool {
    std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|named| named == runtime)
}

pub(super) async fn linger(user: u32) -> Option<bool> {
    let user = user.to_string();
    let ended = programs::run(&["loginctl", "show-user", &user, "--property=Linger"], QUESTION).await.ok()?;
    match ended.stdout.trim() {
        "Linger=yes" => Some(true),
        "Linger=no" => Some(false),
        _ => None,
    }
}

/// What the service manager that started this process is told: nothing where none did.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// It answers, and listens there.
    Ready(&'a str),
    /// It goes down.
    Stopping,
    /// It cannot run.
    Failed(&'a Failure),
}

/// Tells the service manager, through the socket that it named.
pub fn tell(told: Told<'_>) {
    let (first, status) = match told {
        Told::Ready(listen) => (Some(NotifyState::Ready), listen.to_owned()),
        Told::Stopping => (Some(NotifyState::Stopping), "going down".to_owned()),
        Told::Failed(Failure { message, hint: Some(hint), .. }) => (None, format!("{message}{HINT}{hint}")),
        Told::Failed(failure) => (None, failure.to_string()),
    };
    // A line break would begin another message.
    let status = status.replace(char::is_control, " ");
    let state: Vec<NotifyState<'_>> = first.into_iter().chain([NotifyState::Status(&status)]).collect();
    if let Err(error) = sd_notify::notify(&state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Message and hint of what a daemon told when it failed.
pub fn why(told: &str) -> (&str, Option<&str>) {
    told.split_once(HINT).map_or((told, None), |(message, hint)| (message, Some(hint)))
}

/// Whether a service manager started this process and wants to be told how it stands.
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use std::path::Path;

    #[test]
    fn a_word_means_itself() {
        for (word, line) in [
            ("/usr/bin/pi-remote", "/usr/bin/pi-remote"),
            ("--listen=192.0.2.1:80", "--listen=192.0.2.1:80"),
            ("--listen=[::1]:80", "\"--listen=[::1]:80\""),
            ("/a b", "\"/a b\""),
            ("/50%h", "\"/50%%h\""),
            ("/$HOME/${x}", "\"/$$HOME/$${x}\""),
            ("/it's \"x\"\\n", "\"/it's \\\"x\\\"\\\\n\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(word, "$$"), line, "{word}");
        }
    }

    #[test]
    fn the_pause_grows_where_systemd_can() {
        let daemon = Daemon::new(Path::new("/usr/bin/pi-remote"), Path::new("/s"), Flags::default()).unwrap();
        assert!(!unit(&daemon, 253).unwrap().contains("RestartSteps"));
        assert!(unit(&daemon, 254).unwrap().contains("RestartSteps"));
        let quote = Daemon::new(Path::new("/it's/pi-remote"), Path::new("/s"), Flags::default()).unwrap();
        assert!(unit(&quote, 252).unwrap_err().message.contains("/it's/pi-remote"));
    }
}
