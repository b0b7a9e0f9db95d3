//! The daemon: whether it answers, which it is, and where it listens.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Map;
use tokio::time::timeout;

use super::machine::Files;
use crate::config::{ListenAddr, Settings};
use crate::control::client::Client;
use crate::control::original::{self, Original};
use crate::link::listener::Port;
use crate::trust::Peer;
use crate::wire::HostPort;
use crate::wire::check::{Check, shell_word};
use crate::wire::control::{PeerList, Status};
use crate::wire::error::{Code, Failure};

const START: &str = "pi-remote daemon --background";
const RESTART: &str = "pi-remote stop && pi-remote daemon --background";
/// How long the daemon may take to say how it is.
const ANSWERING: Duration = Duration::from_secs(2);

/// What holds the control socket.
pub(super) enum Daemon {
    /// A daemon of this program, which answers.
    Running(Box<Running>),
    /// Nobody.
    Down,
    /// Who has the lock of the directory, or took the connection, does not answer.
    Hung(Option<i32>),
    /// The original's daemon, or another program.
    Another(Failure, Option<Original>),
    /// It cannot be told.
    Unknown(Failure),
}

/// A daemon that answers, by its own word.
pub(super) struct Running {
    pub(super) status: Status,
    pub(super) peers: PeerList,
    /// For what else is to be asked.
    pub(super) path: std::path::PathBuf,
}

impl Daemon {
    pub(super) fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Down | Self::Hung(_) | Self::Another(..) | Self::Unknown(_) => None,
        }
    }
}

/// Asks the daemon of the directory at `path` how it is.
pub(super) async fn look(path: &Path) -> Daemon {
    let asking = async {
        let mut client = Client::connect(path).await?;
        let status = client.ask("status", Map::new(), ANSWERING).await?;
        let peers = client.ask("peers", Map::new(), ANSWERING).await?;
        Ok::<_, Failure>(Box::new(Running { status, peers, path: path.to_path_buf() }))
    };
    let answered = timeout(ANSWERING, asking).await;
    match answered.unwrap_or_else(|_| Err(Failure::new(Code::Timeout, "no answer"))) {
        Ok(running) => Daemon::Running(running),
        Err(failure) if failure.code == Code::DaemonNotRunning => match holder(path) {
            Some(pid) => Daemon::Hung(Some(pid)),
            None => Daemon::Down,
        },
        Err(failure) if failure.code == Code::Timeout => Daemon::Hung(pid(path)),
        Err(failure) if failure.code == Code::IncompatibleVersion => {
            Daemon::Another(failure, original::look(path).await)
        }
        Err(failure) => Daemon::Unknown(failure),
    }
}

/// The checks `port`, `daemon` and `listen`.
pub(super) fn checks(daemon: &Daemon, files: &Files, path: &Path) -> Vec<Check> {
    let port = port(daemon, files);
    let is_taken = !port.ok;
    vec![port, answers(daemon, files, path, is_taken), reachable(daemon, files)]
}

fn answers(daemon: &Daemon, files: &Files, path: &Path, port_is_taken: bool) -> Check {
    let name = "daemon";
    match daemon {
        Daemon::Running(running) => {
            let Status { version, pid, .. } = &running.status;
            let ours = env!("CARGO_PKG_VERSION");
            if version == ours {
                return Check::ok(name, format!("{version} (pid {pid}) answers"));
            }
            let message = format!("{version} (pid {pid}) runs, and this program is {ours}");
            let fix = format!("{RESTART}{}", same_options(&running.status, ""));
            Check::failed(name, Failure::new(Code::IncompatibleVersion, message).hint(fix))
        }
        Daemon::Down if !files.path_fits => Check::skipped(name, "it cannot run where the socket's path is too long"),
        Daemon::Down if port_is_taken => Check::skipped(name, "it does not run, and cannot before its port is free"),
        Daemon::Down => {
            let message = format!("none runs in {}", path.display());
            Check::failed(name, Failure::new(Code::DaemonNotRunning, message).hint(START))
        }
        Daemon::Hung(pid) => {
            let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let message = format!("one{who} has {}, and does not answer", path.display());
            let fix = match pid {
                Some(pid) => format!("kill -9 {pid}; {START}"),
                None => START.to_owned(),
            };
            Check::failed(name, Failure::new(Code::Timeout, message).hint(fix))
        }
        Daemon::Another(_, Some(original)) => Check::failed(name, replaced(original)),
        Daemon::Another(failure, None) => Check::failed(name, failure.clone()),
        Daemon::Unknown(_) if !files.path_fits => {
            Check::skipped(name, "it cannot run where the socket's path is too long")
        }
        Daemon::Unknown(failure) => Check::failed(name, failure.clone()),
    }
}

/// What is said of the original's daemon, which takes the control socket whenever ours is down.
fn replaced(original: &Original) -> Failure {
    let who = original.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let port = original.port.map(|port| format!(", and takes plaintext at TCP port {port}")).unwrap_or_default();
    let message = format!(
        "the original's daemon{who} has the control socket{port}; it comes back whenever this one is down, for as \
         long as its extension is installed in Pi"
    );
    Failure::new(Code::IncompatibleVersion, message).hint(RESTART)
}

fn port(daemon: &Daemon, files: &Files) -> Check {
    let name = "port";
    if let Some(Running { status, .. }) = daemon.running() {
        let bound = status.listen.join(", ");
        if status.listening || status.peers.is_empty() {
            let closed = if status.listening { "" } else { "; not listening, since nothing is paired" };
            return Check::ok(name, format!("{bound} taken by this daemon (pid {}){closed}", status.pid));
        }
        let message = format!("the daemon cannot listen on {bound}; its log says why");
        let fix = format!("{RESTART}{}", same_options(status, ""));
        return Check::failed(name, Failure::new(Code::Io, message).hint(fix));
    }
    if matches!(daemon, Daemon::Hung(_)) {
        return Check::skipped(name, "the daemon that does not answer may have it");
    }
    let Some(settings) = &files.settings else { return Check::skipped(name, "the settings cannot be read") };
    if let Daemon::Another(_, Some(Original { port: Some(port), .. })) = daemon
        && *port == settings.port.value
    {
        return Check::skipped(name, "the original's daemon has it");
    }
    for address in wanted(settings) {
        if let Err(failure) = Port::reserve(address) {
            let free = (address.port()..=u16::MAX).skip(1).find(|port| {
                let all = SocketAddr::new(address.ip(), *port);
                Port::reserve(all).is_ok()
            });
            let fix = free.map(|free| format!("{START} --port {free}"));
            return Check::failed(name, Failure { hint: fix.or(failure.hint), ..failure });
        }
    }
    Check::ok(name, format!("{} is free", settings.port.value))
}

/// Where a daemon with these settings would listen, as far as it is known without one.
fn wanted(settings: &Settings) -> Vec<SocketAddr> {
    let port = settings.port.value;
    let address = |listen: &ListenAddr| match listen {
        ListenAddr::All => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        ListenAddr::Loopback => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        ListenAddr::Tailscale => None,
        ListenAddr::Ip(ip, own) => Some(SocketAddr::new(*ip, own.unwrap_or(port))),
    };
    settings.listen.value.iter().filter_map(address).filter(|address| address.port() != 0).collect()
}

/// Whether paired machines can reach this one at all: not where it listens to itself alone.
fn reachable(daemon: &Daemon, files: &Files) -> Check {
    let name = "listen";
    let (bound, value, source) = match (daemon.running(), &files.settings) {
        (Some(Running { status, .. }), _) => {
            let Some(setting) = status.settings.iter().find(|setting| setting.name == "listen") else {
                return Check::skipped(name, "the daemon does not tell its settings");
            };
            let bound: Vec<IpAddr> =
                status.listen.iter().filter_map(|a| Some(a.parse::<SocketAddr>().ok()?.ip())).collect();
            (bound, setting.value.clone(), setting.source.clone())
        }
        (None, Some(settings)) => {
            let Some(setting) = settings.describe().into_iter().find(|setting| setting.name == "listen") else {
                return Check::skipped(name, "the settings cannot be read");
            };
            (wanted(settings).iter().map(SocketAddr::ip).collect(), setting.value, setting.source)
        }
        (None, None) => return Check::skipped(name, "the settings cannot be read"),
    };
    let from = match source.as_str() {
        "flag" => "set by --listen".to_owned(),
        "environment" => "set by PI_REMOTE_LISTEN".to_owned(),
        "file" => "set in config.json".to_owned(),
        other => other.to_owned(),
    };
    let said = format!("listen is {value} ({from})");
    let itself_alone = !bound.is_empty() && bound.iter().all(|ip| ip.to_canonical().is_loopback());
    let elsewhere: Vec<&str> =
        files.peers.iter().filter(|peer| is_elsewhere(peer)).map(|peer| peer.name.as_str()).collect();
    if !itself_alone || elsewhere.is_empty() {
        return Check::ok(name, said);
    }
    let again = match source.as_str() {
        "environment" => "; unset it for good where it is set",
        "file" => "; take it out of config.json for good",
        _ => "",
    };
    let message = format!(
        "this machine alone reaches the daemon, while {} is paired from elsewhere: {said}{again}",
        elsewhere.join(", ")
    );
    let fix = match daemon.running() {
        Some(running) => format!("{RESTART} --listen all{}", same_options(&running.status, "listen")),
        None => format!("{START} --listen all"),
    };
    Check::failed(name, Failure::new(Code::Unreachable, message).hint(fix))
}

/// The options that only the command line of the running daemon said, to be said again.
fn same_options(status: &Status, but: &str) -> String {
    let said = status.settings.iter().filter(|setting| setting.source == "flag" && setting.name != but);
    let options = said.flat_map(|setting| match setting.name.as_str() {
        "port" if status.port != 0 => vec![format!(" --port {}", status.port)],
        "listen" => setting.value.split(", ").map(|listen| format!(" --listen {}", shell_word(listen))).collect(),
        _ => Vec::new(),
    });
    options.collect()
}

/// Whether a peer is known at addresses of other machines alone.
fn is_elsewhere(peer: &Peer) -> bool {
    let far = |address: &str| match address.parse::<HostPort>().map(|at| at.host().parse::<IpAddr>()) {
        Ok(Ok(ip)) => !ip.to_canonical().is_loopback(),
        Ok(Err(_)) | Err(_) => true,
    };
    !peer.addresses.is_empty() && peer.addresses.iter().all(|known| far(&known.address))
}

/// The process that has the lock of the directory at `path`.
fn holder(path: &Path) -> Option<i32> {
    let pid = pid(path)?;
    kill(Pid::from_raw(pid), None).ok()?;
    // Held for a moment where it is free: only where somebody most likely has it is it tried.
    let lock = File::open(path.join("daemon.lock")).ok()?;
    lock.try_lock_shared().is_err().then_some(pid)
}

fn pid(path: &Path) -> Option<i32> {
    let pid = std::fs::read_to_string(path.join("daemon.pid")).ok()?.trim().parse().ok()?;
    (pid > 1).then_some(pid)
}
