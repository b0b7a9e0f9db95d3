//! Why a port cannot be had, who has it, and the command that mends it.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Map;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::interfaces;
use super::listening::reserve;
use crate::config::{ListenAddr, Settings, Source};
use crate::control::client::{self, Client};
use crate::control::original;
use crate::link::holder::{Holder, Kind, Process, holder};
use crate::link::tls::TlsIdentity;
use crate::state_dir::StateDir;
use crate::wire::commands::quoted;
use crate::wire::control::Status;
use crate::wire::{Code, DEFAULT_PORT, Failure};

/// How far from the port that is taken another one is looked for.
const NEXT_PORTS: u16 = 100;
/// Most addresses that a hint lists.
const SHOWN: usize = 8;
/// How long other daemons of this program may take to say which ports they have.
const LOOKING: Duration = Duration::from_secs(2);
/// How long one of them may take.
const ANSWERING: Duration = Duration::from_millis(300);

/// The failure of a daemon that cannot bind an address, with who is in the way.
pub(super) async fn not_bound(
    address: SocketAddr,
    error: &Error,
    settings: &Settings,
    tls: &TlsIdentity,
    dir: &StateDir,
) -> Failure {
    let failure = |why: &str| Failure::new(Code::Io, format!("cannot listen at {address}: {why}"));
    let kind = error.kind();
    if kind == ErrorKind::AddrNotAvailable {
        let mut has: Vec<String> = interfaces::all().iter().map(|found| found.ip.to_string()).collect();
        has.truncate(SHOWN);
        let hint = format!("it has {}; `--listen tailscale` follows the tailnet as it comes and goes", has.join(", "));
        return failure("no interface of this machine has this address now").hint(hint);
    }
    if kind == ErrorKind::PermissionDenied {
        let hint = format!("`pi-remote daemon --background --port {DEFAULT_PORT}`: ports below 1024 are root's");
        return failure(&error.to_string()).hint(hint);
    }
    if kind != ErrorKind::AddrInUse {
        return failure(&error.to_string());
    }
    let mut holder = holder_of(address, tls).await;
    // This daemon has the lock, so another that answers at its control socket is the original's.
    let here = original::look(dir.path()).await.filter(|original| {
        let pid = holder.process.as_ref().map(|process| process.pid);
        holder.kind == Kind::Original
            || original.port == Some(address.port())
            || original.pid.is_some() && original.pid == pid
    });
    if let Some(original) = here {
        holder.kind = Kind::Original;
        let known = original.pid.map(|pid| Process { pid, program: "node".into() });
        holder.process = holder.process.or(known);
    }
    let mut ways = Vec::new();
    if here.is_some() {
        // On another port it would find the original's in its place at the control socket.
        ways.push("`pi-remote stop` stops it".to_owned());
    } else {
        ways.extend(way_to_end(&holder, address.port()));
        let other = elsewhere(address, settings);
        ways.extend(
            other.map(|(start, port)| {
                format!("`{start}` takes another port; other machines then pair with HOST:{port}")
            }),
        );
    }
    if holder.kind == Kind::Original {
        ways.push(original::how_it_stays_away());
    }
    failure(&who(&holder, address.port())).hint(ways.join("\n"))
}

/// Who has the port that `address` cannot be bound to, another daemon of this program even while it
/// does not listen.
pub async fn holder_of(address: SocketAddr, tls: &TlsIdentity) -> Holder {
    let mut holder = holder(address, tls).await;
    if holder.kind == Kind::PiRemote || holder.silent {
        let sibling = timeout(LOOKING, sibling(address.port())).await.ok().flatten();
        if let Some(pid) = sibling {
            holder.kind = Kind::PiRemote;
            holder.process = Some(Process { pid, program: "pi-remote".into() });
        }
    }
    holder
}

/// The process of another daemon of this program that says it has a port, listening there or not.
async fn sibling(port: u16) -> Option<u32> {
    // Linux lists the paths of all sockets in this network.
    let sockets = spawn_blocking(|| std::fs::read_to_string("/proc/net/unix")).await.ok()?.ok()?;
    let name = format!("/{}", client::SOCKET);
    let dirs =
        sockets.lines().filter_map(|line| line.split_once('/')?.1.strip_suffix(&name).map(|dir| format!("/{dir}")));
    let mut dirs: Vec<String> = dirs.collect();
    dirs.sort_unstable();
    dirs.dedup();
    for dir in dirs {
        let Ok(mut client) = Client::connect(Path::new(&dir)).await else { continue };
        let Ok(status) = client.ask::<Status>("status", Map::new(), ANSWERING).await else { continue };
        let has_port = |bound: &String| bound.parse::<SocketAddr>().is_ok_and(|bound| bound.port() == port);
        if status.listen.iter().any(has_port) {
            return Some(status.pid);
        }
    }
    None
}

/// Who has a port, in words.
pub fn who(holder: &Holder, port: u16) -> String {
    let pid = holder.process.as_ref().map(|process| format!(" (pid {})", process.pid)).unwrap_or_default();
    let whose = holder.other_user.map(|user| format!(" of the user with id {user}")).unwrap_or_default();
    match (holder.kind, &holder.process) {
        (Kind::Original, _) => format!("the original remote-control daemon{pid}{whose} has port {port}"),
        (Kind::PiRemote, _) => format!("another pi-remote daemon{pid}{whose} has port {port}"),
        (Kind::Other, Some(process)) => format!("{}{pid}{whose} has port {port}", process.program),
        (Kind::Other, None) => format!("another program{whose} has port {port}"),
    }
}

/// How who has the port is ended, or found.
fn way_to_end(holder: &Holder, port: u16) -> Option<String> {
    match (holder.kind, &holder.process) {
        (Kind::Original | Kind::PiRemote, Some(process)) => Some(format!("`kill {}` stops it", process.pid)),
        (Kind::Other, Some(process)) => Some(format!("if you do not need that program: `kill {}`", process.pid)),
        // No command would show it.
        (Kind::Original | Kind::PiRemote | Kind::Other, None) if holder.silent => None,
        (Kind::Original | Kind::PiRemote | Kind::Other, None) => {
            Some(format!("`{}` shows which one", shows(holder, port)))
        }
    }
}

/// The command that starts the daemon of these settings on another port than that of `address`, which is
/// taken, and everywhere else as they say; and that port.
pub fn elsewhere(address: SocketAddr, settings: &Settings) -> Option<(String, u16)> {
    let free = free_port(address)?;
    let (listen, port) = (&settings.listen, &settings.port);
    let taken = ListenAddr::Ip(address.ip(), Some(address.port()));
    // With a port of its own it is not moved by `--port`.
    let has_own_port = listen.value.contains(&taken);
    let mut command = "pi-remote daemon --background".to_owned();
    if !has_own_port {
        command += &format!(" --port {free}");
    } else if port.source == Source::Flag {
        command += &format!(" --port {}", port.value);
    }
    for listen in listen.value.iter().filter(|_| has_own_port || listen.source == Source::Flag) {
        let listen = if *listen == taken { ListenAddr::Ip(address.ip(), Some(free)) } else { *listen };
        command += &format!(" --listen {}", quoted(&listen.to_string()));
    }
    Some((command, free))
}

/// The command that shows who listens on a port.
fn shows(holder: &Holder, port: u16) -> String {
    let sudo = if holder.other_user.is_some() { "sudo " } else { "" };
    if cfg!(target_os = "linux") {
        format!("{sudo}ss -ltnp 'sport = :{port}'")
    } else {
        format!("{sudo}lsof -nP -iTCP:{port} -sTCP:LISTEN")
    }
}

/// A port above one that is taken which can be had now.
fn free_port(address: SocketAddr) -> Option<u16> {
    let above = address.port().checked_add(1)?;
    (above..=above.saturating_add(NEXT_PORTS)).find(|port| reserve(SocketAddr::new(address.ip(), *port)).is_ok())
}
