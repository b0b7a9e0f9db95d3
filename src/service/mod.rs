//! The daemon as a service of the user's: a systemd user unit, or a launchd agent.
//!
//! A [`Service`] knows its file, what stands in it and which commands take each [`Step`]; the file
//! carries a mark by which it is known again.

pub mod launchd;
pub mod mark;
pub mod systemd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::config::Flags;
use crate::programs;
use crate::state_dir::{StateDir, write_public};
use crate::wire::{Code, Failure};
use mark::{Found, Mark};

/// Longest that a command of the service manager may take: a unit may take a minute to start.
const DEADLINE: Duration = Duration::from_secs(90);

/// Who runs services here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// systemd's user manager.
    Systemd,
    /// macOS.
    Launchd,
}

/// What the service runs.
#[derive(Debug, Clone)]
pub struct Daemon {
    program: String,
    /// The state directory, where it is not the default.
    dir: Option<String>,
    flags: Flags,
    log: String,
}

/// This user's service, installed or not.
#[derive(Debug, Clone)]
pub struct Service {
    /// Who runs it.
    pub manager: Manager,
    /// The unit, or the agent's property list.
    pub file: PathBuf,
    user: u32,
}

/// What is done to a service by commands of its manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its file is new: takes it up, and starts it now and with each session.
    Install,
    /// Its file has changed while it runs: takes that up, and starts it anew.
    Replace,
    /// Starts it.
    Start,
    /// Stops it until the next session or start.
    Stop,
    /// Stops it for good: before its file is removed.
    Disable,
    /// Forgets it: after its file was removed.
    Forget,
}

/// A command of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Whether the step goes on when it fails: there may be nothing to be done.
    pub may_fail: bool,
}

/// How the service stands; the shape of `service status --json`.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Whether its file is there.
    pub installed: bool,
    /// Whether it is started with each session of the user's.
    pub enabled: bool,
    /// Whether it runs and is ready.
    pub active: bool,
    /// Its file, where it is installed.
    pub unit: Option<PathBuf>,
    /// The program that its file names.
    pub program: Option<String>,
    /// Whether it runs without a session of the user's too; `None` where that is not known.
    pub linger: Option<bool>,
    /// Its process.
    #[serde(skip)]
    pub pid: Option<u32>,
    /// Whether nothing of it runs and nothing is about to.
    #[serde(skip)]
    pub at_rest: bool,
    /// The manager's own words for how it stands.
    #[serde(skip)]
    pub words: String,
    /// What the daemon said last about itself.
    #[serde(skip)]
    pub said: Option<String>,
}

impl Daemon {
    /// A daemon of the state directory `dir`, started from `program` with `flags`.
    ///
    /// # Errors
    /// A path is not UTF-8 or has control characters: no service manager takes it.
    pub fn new(program: &Path, dir: &Path, flags: Flags) -> Result<Self, Failure> {
        let is_default = StateDir::default_path().is_ok_and(|default| default == dir);
        let log = plain(&dir.join(LOG_FILE))?;
        let dir = if is_default { None } else { Some(plain(dir)?) };
        Ok(Self { program: plain(program)?, dir, flags, log })
    }

    /// What follows the program on its command line.
    pub fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.dir.iter().flat_map(|dir| ["--dir".to_owned(), dir.clone()]));
        words.push("daemon".into());
        words.extend(self.flags.port.map(|port| format!("--port={port}")));
        words.extend(self.flags.listen.iter().map(|listen| format!("--listen={listen}")));
        words
    }

    fn mark(&self) -> Mark {
        Mark::new(&self.program, self.dir.as_deref())
    }
}

/// The log of a daemon that no journal takes, in the state directory.
pub const LOG_FILE: &str = "daemon.log";

impl Service {
    /// The service of this user on this system.
    ///
    /// # Errors
    /// The home directory is not known.
    pub fn of_this_user() -> Result<Self, Failure> {
        let manager = if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd };
        let home = std::env::home_dir().filter(|home| home.is_absolute()).ok_or_else(|| {
            Failure::new(Code::Io, "the home directory is not known").hint("set HOME, then try again")
        })?;
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        Ok(Self::new(manager, &home, config.as_deref(), nix::unistd::geteuid().as_raw()))
    }

    /// The service of the user with this number and these directories.
    pub fn new(manager: Manager, home: &Path, config_home: Option<&Path>, user: u32) -> Self {
        let file = match manager {
            // The base directory specification has a relative path ignored.
            Manager::Systemd => match config_home.filter(|dir| dir.is_absolute()) {
                Some(dir) => dir.join("systemd/user").join(systemd::UNIT),
                None => home.join(".config/systemd/user").join(systemd::UNIT),
            },
            Manager::Launchd => home.join("Library/LaunchAgents").join(launchd::FILE),
        };
        Self { manager, file, user }
    }

    /// What its file is to hold.
    ///
    /// # Errors
    /// The manager takes no program with such a path.
    pub async fn text(&self, daemon: &Daemon) -> Result<String, Failure> {
        match self.manager {
            Manager::Systemd => systemd::unit(daemon, systemd::version().await),
            Manager::Launchd => Ok(launchd::agent(daemon)),
        }
    }

    /// The commands of a step, in their order.
    pub fn commands(&self, step: Step) -> Vec<Command> {
        match self.manager {
            Manager::Systemd => systemd::commands(step),
            Manager::Launchd => launchd::commands(step, self.user, &self.file.display().to_string()),
        }
    }

    /// The command that shows the last lines of its log, and with `follow` each new one. `log` is
    /// where the daemon writes without a journal.
    pub fn log_command(&self, follow: bool, log: &Path) -> Vec<String> {
        match self.manager {
            Manager::Systemd => systemd::log_command(follow),
            Manager::Launchd => launchd::log_command(follow, log),
        }
    }

    /// Runs the commands of a step.
    ///
    /// # Errors
    /// A command cannot be run, fails, or takes longer than 90 s.
    pub async fn carry_out(&self, step: Step) -> Result<(), Failure> {
        for Command { words, may_fail } in self.commands(step) {
            let ended = programs::run(&words, DEADLINE).await?;
            if ended.code != Some(0) && !may_fail {
                let said = ended.stderr.trim();
                let code = ended.code.map_or("a signal".to_owned(), |code| format!("status {code}"));
                let hint = match self.manager {
                    Manager::Systemd => "pi-remote service logs",
                    Manager::Launchd => "an agent needs a session at this Mac's screen: log in there, then try again",
                };
                return Err(
                    Failure::new(Code::Io, format!("`{}` ended with {code}: {said}", words.join(" "))).hint(hint)
                );
            }
        }
        Ok(())
    }

    /// How it stands; whether it lingers is asked for apart.
    ///
    /// # Errors
    /// There is no manager here that answers; the hint says what to do without.
    pub async fn state(&self) -> Result<State, Failure> {
        let found = self.found()?;
        let mut state = match self.manager {
            Manager::Systemd => systemd::state(self.user).await?,
            Manager::Launchd => launchd::state(self.user, found != Found::Nothing).await?,
        };
        state.installed = found != Found::Nothing;
        state.unit = state.installed.then(|| self.file.clone());
        state.program = found.mark().map(|mark| mark.program.clone());
        Ok(state)
    }

    /// The command after which its manager can be asked, where one is known.
    pub fn way_to_manager(&self) -> Option<String> {
        match self.manager {
            Manager::Systemd => systemd::way_to_manager(self.user),
            Manager::Launchd => None,
        }
    }

    /// Whether it runs without a session of the user's too; `None` where that is not known, or is no question.
    pub async fn linger(&self) -> Option<bool> {
        match self.manager {
            Manager::Systemd => systemd::linger(self.user).await,
            // An agent lives as long as the user is logged in.
            Manager::Launchd => None,
        }
    }

    /// What stands where its file belongs.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn found(&self) -> Result<Found, Failure> {
        mark::look(&self.file)
    }

    /// Puts its file in place.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        write_public(&self.file, text.as_bytes())
    }

    /// Removes its file.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self) -> Result<(), Failure> {
        std::fs::remove_file(&self.file)
            .map_err(|e| Failure::new(Code::Io, format!("cannot remove {}: {e}", self.file.display())))
    }

    /// Whether it is installed, for the state directory `dir`.
    pub fn serves(&self, dir: &Path) -> bool {
        let found = self.found().ok();
        let mark = found.as_ref().and_then(Found::mark);
        mark.is_some_and(|mark| mark.state_dir().is_ok_and(|served| served == dir))
    }
}

/// Where `program` will most likely not be for long: why, in words. `None` for a place that lasts.
pub fn passing_place(program: &Path) -> Option<&'static str> {
    let parts: Vec<_> = program.components().map(|part| part.as_os_str()).collect();
    if parts.windows(2).any(|pair| pair[0] == "target" && (pair[1] == "debug" || pair[1] == "release")) {
        return Some("lies in a cargo target directory, which the next build or `cargo clean` changes");
    }
    let passing = ["/tmp", "/var/tmp", "/private/tmp", "/private/var/tmp", "/dev/shm", "/run", "/Volumes"];
    if passing.iter().any(|dir| program.starts_with(dir)) || is_in_memory(program) {
        return Some("lies in a temporary place, which is empty after the next start of this machine");
    }
    None
}

#[cfg(target_os = "linux")]
fn is_in_memory(program: &Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    statfs(program).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_program: &Path) -> bool {
    false
}

fn plain(path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(Failure::new(Code::Io, format!("no service can name the path {path:?}"))
            .hint("give it a name of printable characters in UTF-8")),
    }
}

fn command(words: &[&str]) -> Command {
    Command { words: words.iter().map(|word| (*word).to_owned()).collect(), may_fail: false }
}

fn attempt(words: &[&str]) -> Command {
    Command { may_fail: true, ..command(words) }
}

/// There is no manager here: what to do without.
fn no_manager(what: String) -> Failure {
    Failure::new(Code::Io, what)
        .hint("without a service, start the daemon from a login script: pi-remote daemon --background")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_will_not_stay_is_known() {
        for passing in
            ["/home/a/pi/target/debug/pi-remote", "/home/a/target/release/x", "/tmp/pi-remote", "/run/user/1/x"]
        {
            assert!(passing_place(Path::new(passing)).is_some(), "{passing}");
        }
        for lasting in ["/usr/local/bin/pi-remote", "/home/a/.cargo/bin/pi-remote", "/home/target/bin/x", "/tmpfiles/x"]
        {
            assert_eq!(passing_place(Path::new(lasting)), None, "{lasting}");
        }
    }

    #[test]
    fn the_unit_lies_where_the_manager_looks() {
        let home = Path::new("/home/a");
        let at = |manager, config: Option<&str>| Service::new(manager, home, config.map(Path::new), 7).file;
        assert_eq!(at(Manager::Systemd, None), Path::new("/home/a/.config/systemd/user/pi-remote.service"));
        assert_eq!(at(Manager::Systemd, Some("/c")), Path::new("/c/systemd/user/pi-remote.service"));
        assert_eq!(at(Manager::Systemd, Some("rel")), Path::new("/home/a/.config/systemd/user/pi-remote.service"));
        assert_eq!(at(Manager::Launchd, Some("/c")), Path::new("/home/a/Library/LaunchAgents/pi-remote.plist"));
    }

    #[test]
    fn a_path_that_no_manager_takes_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let flags = Flags::default();
        for bad in [&b"/a\nb"[..], b"/a\xff"] {
            let bad = Path::new(std::ffi::OsStr::from_bytes(bad));
            assert!(Daemon::new(bad, Path::new("/s"), flags.clone()).is_err());
            assert!(Daemon::new(Path::new("/p"), bad, flags.clone()).is_err());
        }
    }
}
