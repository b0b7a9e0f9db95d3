//! Why a port cannot be had, who has it, and the command that mends it.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use super::interfaces;
use crate::control::original;
use crate::link::holder::{Holder, Kind, Process, holder};
use crate::link::tls::TlsIdentity;
use crate::state_dir::StateDir;
use crate::wire::{Code, DEFAULT_PORT, Failure};

/// How far from the port that is taken another one is looked for.
const NEXT_PORTS: u16 = 100;
/// Most addresses that a hint lists.
const SHOWN: usize = 8;

/// The failure of a daemon that cannot bind an address, with who is in the way.
pub(super) async fn not_bound(address: SocketAddr, error: &Error, tls: &TlsIdentity, dir: &StateDir) -> Failure {
    let failure = |why: &str| Failure::new(Code::Io, format!("cannot listen at {address}: {why}"));
    match error.kind() {
        ErrorKind::AddrInUse => {}
        ErrorKind::AddrNotAvailable => {
            let has: Vec<String> =
                interfaces::reachable().iter().take(SHOWN).map(|found| found.ip.to_string()).collect();
            let hint =
                format!("it has {}; `--listen tailscale` follows the tailnet as it comes and goes", has.join(", "));
            return failure("no interface of this machine has this address now").hint(hint);
        }
        ErrorKind::PermissionDenied => {
            let hint = dir.command_line(&format!("daemon --background --port {DEFAULT_PORT}"));
            return failure(&error.to_string()).hint(format!("ports below 1024 are root's; take another: `{hint}`"));
        }
        _ => return failure(&error.to_string()),
    }
    let mut holder = holder(address, tls).await;
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
    let ends = here.map(|_| dir.command_line("stop"));
    failure(&who(&holder, address.port())).hint(way_out(&holder, address, ends, dir))
}

fn who(holder: &Holder, port: u16) -> String {
    let pid = holder.process.as_ref().map(|process| format!(" (pid {})", process.pid)).unwrap_or_default();
    let whose = holder.other_user.map(|user| format!(" of the user with id {user}")).unwrap_or_default();
    match (holder.kind, &holder.process) {
        (Kind::Original, _) => format!("the original remote-control daemon{pid}{whose} has port {port}"),
        (Kind::PiRemote, _) => format!("another pi-remote daemon{pid}{whose} has port {port}"),
        (Kind::Other, Some(process)) => format!("{}{pid}{whose} has port {port}", process.program),
        (Kind::Other, None) => format!("another program{whose} has port {port}"),
    }
}

/// What to do; `ends` is the command that ends the original's daemon of this state directory.
fn way_out(holder: &Holder, address: SocketAddr, ends: Option<String>, dir: &StateDir) -> String {
    let ends = ends.or_else(|| holder.process.as_ref().map(|process| format!("kill {}", process.pid)));
    let elsewhere = free_port(address).map(|port| {
        let command = dir.command_line(&format!("daemon --background --port {port}"));
        let joins = "other machines then pair with HOST:";
        format!("take another port: `{command}` ({joins}{port})")
    });
    let first = match (holder.kind, ends) {
        (Kind::Original, Some(ends)) => {
            let again = "it comes back with the next Pi session unless its extension is removed";
            Some(format!("stop it: `{ends}` ({again})"))
        }
        (Kind::PiRemote, Some(ends)) => Some(format!("stop it: `{ends}`")),
        (Kind::Other, Some(ends)) => Some(format!("stop that program (`{ends}`, if you do not need it)")),
        (Kind::Original | Kind::PiRemote | Kind::Other, None) if holder.silent => None,
        (Kind::Original | Kind::PiRemote | Kind::Other, None) => {
            Some(format!("see which one: `{}`", shows(holder, address.port())))
        }
    };
    first.into_iter().chain(elsewhere).collect::<Vec<_>>().join("; or ")
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
    (above..=above.saturating_add(NEXT_PORTS)).find(|port| TcpListener::bind((address.ip(), *port)).is_ok())
}
