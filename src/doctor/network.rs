//! The firewall and the tailnet of this machine.

use std::time::Duration;

use tokio::time::timeout;

use super::machine::Files;
use super::running::{Daemon, RESTART, START, same_options};
use crate::discover::tailscale;
use crate::link::obstacles::{Rules, firewall_hint, rules};
use crate::trust::Peer;
use crate::wire::check::Check;
use crate::wire::error::{Code, Failure};
use crate::wire::{DEFAULT_PORT, HostPort, host_port};

/// How long Tailscale may take to say how it is.
const TAILSCALE: Duration = Duration::from_secs(3);

/// The checks `firewall` and `tailnet`.
pub(super) async fn checks(daemon: &Daemon, files: &Files) -> Vec<Check> {
    let (firewall, tailnet) = tokio::join!(firewall(daemon, files), tailnet(daemon, files));
    vec![firewall, tailnet]
}

/// A firewall that is on may let peers in all the same, so it is never a fault; and only whoever has
/// looked at the rules can say that there is nothing in the way.
async fn firewall(daemon: &Daemon, files: &Files) -> Check {
    let name = "firewall";
    let bound = daemon.running().map(|running| running.status.port).filter(|port| *port != 0);
    let set = files.settings.as_ref().map(|settings| settings.port.value);
    let port = bound.or(set).unwrap_or(DEFAULT_PORT);
    if let Some(open) = firewall_hint(port) {
        let on = format!("one is on here: where it does not let peers in to TCP port {port} yet, this does");
        return Check::note(name, on).fix(open);
    }
    if cfg!(target_os = "macos") {
        let look = "/usr/libexec/ApplicationFirewall/socketfilterfw --getglobalstate";
        return Check::note(name, format!("not looked at; this tells whether it is on: {look}"));
    }
    match rules(port).await {
        Rules::MayDrop(what, open) => Check::note(name, format!("{what}; this lets it in")).fix(open),
        Rules::Open => Check::ok(name, format!("no rule here is seen to drop what comes to TCP port {port}")),
        Rules::Unseen => {
            let unseen = "ufw and firewalld are not on; other rules were not looked at: sudo nft list ruleset";
            Check::note(name, unseen)
        }
    }
}

/// Only where something here needs the tailnet is it a fault that it is not there.
async fn tailnet(daemon: &Daemon, files: &Files) -> Check {
    let name = "tailnet";
    let socket = files.settings.as_ref().and_then(|settings| settings.tailscale_socket.value.as_deref());
    let slow = || Failure::new(Code::Timeout, "Tailscale did not answer in time").hint("tailscale status");
    let found = timeout(TAILSCALE, tailscale::status(socket)).await.unwrap_or_else(|_| Err(slow()));
    let missing = match found {
        Ok(tailnet) if tailnet.running => {
            let addresses = tailnet.own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Check::ok(name, format!("Tailscale runs, this machine is {addresses}"));
        }
        Ok(_) => Failure::new(Code::Unreachable, "Tailscale is not connected").hint("sudo tailscale up"),
        Err(failure) => failure,
    };
    let settings = match (daemon.running(), &files.settings) {
        (Some(running), _) => running.status.settings.clone(),
        (None, Some(settings)) => settings.describe(),
        (None, None) => Vec::new(),
    };
    let listens = settings.iter().any(|setting| setting.name == "listen" && setting.value.contains("tailscale"));
    let only: Vec<&str> =
        files.peers.iter().filter(|peer| is_there_alone(peer)).map(|peer| peer.name.as_str()).collect();
    let needed = match (listens, only.is_empty()) {
        (true, _) => "listen is tailscale".to_owned(),
        (false, false) => format!("{} is known by tailnet addresses alone", only.join(", ")),
        (false, true) => return Check::ok(name, format!("{}, and nothing here needs it", missing.message)),
    };
    if missing.message == tailscale::NOT_FOUND {
        return Check::failed(name, uninstalled(daemon, &needed, listens));
    }
    let message = format!("{}, while {needed}", missing.message);
    Check::failed(name, Failure { message, hint: Some("sudo tailscale up".into()), ..missing })
}

/// Tailscale is needed and not installed.
fn uninstalled(daemon: &Daemon, needed: &str, listens: bool) -> Failure {
    let install = "install it (https://tailscale.com/download)";
    if !listens {
        return Failure::new(Code::Unreachable, format!("Tailscale is not installed, while {needed}: {install}"));
    }
    let message = format!(
        "Tailscale is not installed, while {needed}: {install}, or listen elsewhere, for good by changing the setting"
    );
    let start = match daemon.running() {
        Some(running) => format!("{RESTART} --listen all{}", same_options(&running.status, "listen")),
        None => format!("{START} --listen all"),
    };
    Failure::new(Code::Unreachable, message).hint(start)
}

fn is_there_alone(peer: &Peer) -> bool {
    !peer.addresses.is_empty() && peer.addresses.iter().all(|known| is_tailnet(&known.address))
}

/// Its addresses and the names that MagicDNS gives.
fn is_tailnet(address: &str) -> bool {
    let Ok(address) = address.parse::<HostPort>() else { return false };
    match address.host().parse() {
        Ok(ip) => host_port::is_tailnet(ip),
        Err(_) => address.host().ends_with(".ts.net"),
    }
}
