//! The daemon: whether it answers, which it is, and where it listens.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Map;
use tokio::time::timeout;

use super::keeping::by_service;
use super::machine::Files;
use crate::control::client::Client;
use crate::control::original::{self, Original};
use crate::daemon::{elsewhere, fixed_addresses, holder_of, reserve_fixed, who};
use crate::identity::DeviceKey;
use crate::link::tls::TlsIdentity;
use crate::state_dir::holder;
use crate::trust::Peer;
use crate::wire::HostPort;
use crate::wire::check::Check;
use crate::wire::commands::quoted;
use crate::wire::control::{PeerList, Status};
use crate::wire::error::{Code, Failure};

pub(super) const START: &str = "pi-remote daemon --background";
pub(super) const RESTART: &str = "pi-remote stop && pi-remote daemon --background";
/// How long the daemon may take to say how it is.
const ANSWERING: Duration = Duration::from_secs(2);
/// How long it may take to find out who has a port.
const FINDING: Duration = Duration::from_secs(6);

/// What holds the control socket.
pub(super) enum Daemon {
    /// A daemon of this program, which answers.
    Running(Box<Running>),
    /// Nobody.
    Down,
    /// Who has the lock of the directory, or took the connection, does not answer.
    Hung(Option<u32>),
    /// The original's daemon, with what is said of it.
    Original(Original, Failure),
    /// It cannot be told.
    Unknown(Failure),
}

/// A daemon that answers, by its own word.
pub(super) struct Running {
    pub(super) status: Status,
    pub(super) peers: PeerList,
    /// For what else is to be asked.
    pub(super) path: PathBuf,
}

impl Daemon {
    pub(super) fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Down | Self::Hung(_) | Self::Original(..) | Self::Unknown(_) => None,
        }
    }
}

/// Asks the daemon of the directory at `path` how it is; takes 2 s at most.
pub(super) async fn look(path: &Path) -> Daemon {
    let asking = async {
        let mut client = Client::connect(path).await?;
        let status = client.ask("status", Map::new(), ANSWERING).await?;
        let peers = client.ask("peers", Map::new(), ANSWERING).await?;
        Ok::<_, Failure>(Box::new(Running { status, peers, path: path.to_path_buf() }))
    };
    let (answered, original) = tokio::join!(timeout(ANSWERING, asking), original::look(path));
    let failure = match answered.unwrap_or_else(|_| Err(Failure::new(Code::Timeout, "no answer"))) {
        Ok(running) => return Daemon::Running(running),
        Err(failure) => failure,
    };
    if let Some(original) = original {
        let said = original::in_the_way(path, Some(original));
        let message = format!("{}; {}", said.message, original::how_it_stays_away().replace('\n', "; "));
        return Daemon::Original(original, Failure { message, ..said }.hint(RESTART));
    }
    if failure.code == Code::Timeout {
        return Daemon::Hung(holder(path));
    }
    match holder(path) {
        Some(pid) => Daemon::Hung(Some(pid)),
        None if failure.code == Code::DaemonNotRunning => Daemon::Down,
        None => Daemon::Unknown(failure),
    }
}

/// The checks `port`, `daemon` and `listen`, and `audit` and `lock` where there is something to say of
/// them; takes 6 s at most.
pub(super) async fn checks(daemon: &Daemon, files: &Files, path: &Path) -> Vec<Check> {
    let port = port(daemon, files).await;
    let is_taken = !port.ok;
    let mut checks = vec![port, answers(daemon, files, path, is_taken), reachable(daemon, files)];
    checks.extend(daemon.running().and_then(|running| audit(&running.status)));
    checks.extend(locked(daemon.running().map_or(files.locked, |running| running.status.locked)));
    checks
}

/// That nothing is taken from any peer: no fault, but it looks like one from there.
fn locked(locked: bool) -> Option<Check> {
    let what = "LOCKED: nothing is taken from any peer; `pi-remote audit --trust` says since when";
    locked.then(|| Check::note("lock", what).fix("pi-remote unlock"))
}

/// What is wrong with the audit log, by the daemon's own word; nothing where it has none.
fn audit(status: &Status) -> Option<Check> {
    let failed = |message: String| Failure::new(Code::AuditFailed, message);
    let failure = match (&status.audit_failure, &status.audit_broken) {
        (Some(why), _) => failed(format!("it cannot be written, so nothing is done that changes a session: {why}")),
        (None, Some(what)) => failed(what.clone()).hint("pi-remote audit --verify"),
        (None, None) => return None,
    };
    Some(Check::failed("audit", failure))
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
            let start = if by_service(path) { "pi-remote service start" } else { START };
            Check::failed(name, Failure::new(Code::DaemonNotRunning, message).hint(start))
        }
        Daemon::Hung(pid) => {
            let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let message = format!("one{who} has {}, and does not answer", path.display());
            let fix = match pid {
                // It lets go of the directory a moment after it was told to end.
                Some(pid) => format!("kill -9 {pid}; sleep 2; {START}"),
                None => START.to_owned(),
            };
            Check::failed(name, Failure::new(Code::Timeout, message).hint(fix))
        }
        Daemon::Original(_, said) => Check::failed(name, said.clone()),
        Daemon::Unknown(_) if !files.path_fits => {
            Check::skipped(name, "it cannot run where the socket's path is too long")
        }
        Daemon::Unknown(failure) => Check::failed(name, failure.clone()),
    }
}

async fn port(daemon: &Daemon, files: &Files) -> Check {
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
    let Some(settings) = &files.settings else { return Check::skipped(name, files.unset) };
    if let Daemon::Original(Original { port: Some(port), .. }, _) = daemon
        && *port == settings.port.value
    {
        return Check::skipped(name, "the original's daemon has it");
    }
    let reserved = match reserve_fixed(settings) {
        Ok(reserved) => reserved,
        Err((address, error)) => {
            let message = format!("cannot listen at {address}: {}", in_the_way(address, &error).await);
            let hint = elsewhere(address, settings).map(|(start, _)| start);
            return Check::failed(name, Failure { hint, ..Failure::new(Code::Io, message) });
        }
    };
    let mut free: Vec<u16> = reserved.iter().map(|port| port.address().port()).collect();
    free.dedup();
    match free.as_slice() {
        [] => Check::ok(name, format!("{}, at the tailnet's addresses as they come", settings.port.value)),
        [port] => Check::ok(name, format!("{port} is free")),
        all => Check::ok(name, format!("{} are free", all.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))),
    }
}

/// Who keeps an address from this daemon, or what the system says.
async fn in_the_way(address: SocketAddr, error: &io::Error) -> String {
    // It is asked what it is as by a stranger.
    let stranger = DeviceKey::generate().and_then(|key| TlsIdentity::new(&key));
    let found = match stranger {
        Ok(tls) if error.kind() == ErrorKind::AddrInUse => timeout(FINDING, holder_of(address, &tls)).await.ok(),
        Ok(_) | Err(_) => None,
    };
    found.map_or_else(|| error.to_string(), |holder| who(&holder, address.port()))
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
            (fixed_addresses(settings).iter().map(SocketAddr::ip).collect(), setting.value, setting.source)
        }
        (None, None) => return Check::skipped(name, files.unset),
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
pub(super) fn same_options(status: &Status, but: &str) -> String {
    let said = status.settings.iter().filter(|setting| setting.source == "flag" && setting.name != but);
    let options = said.flat_map(|setting| match setting.name.as_str() {
        "port" if status.port != 0 => vec![format!(" --port {}", status.port)],
        "listen" => setting.value.split(", ").map(|listen| format!(" --listen {}", quoted(listen))).collect(),
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
