//! The tailnet, as this machine's `tailscaled` tells of it: over its LocalAPI, or through the
//! `tailscale` program where that socket is not there or not open to this user.

mod local_api;
mod whois;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::programs;
use crate::wire::error::{Code, Failure};
use crate::wire::host_port::split_host_port;
use local_api::{MAX_ANSWER, PATIENCE, does_not_run, slow, too_long};
pub use local_api::{Unanswered, get};
pub use whois::whois;

/// What the program is called; found through `PATH`, and on macOS inside the app too.
#[cfg(not(target_os = "macos"))]
const PROGRAMS: &[&str] = &["tailscale"];
#[cfg(target_os = "macos")]
const PROGRAMS: &[&str] = &["tailscale", "/Applications/Tailscale.app/Contents/MacOS/Tailscale"];

/// The message of a failure on a machine without Tailscale.
pub const NOT_FOUND: &str = "tailscale not found";

/// Longest name of a machine kept, in characters.
const MAX_NAME: usize = 64;
/// Tag of the exit nodes of a VPN provider, which a tailnet may have by the hundred.
const RENTED: &str = "tag:mullvad-exit-node";

/// The tailnet as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tailnet {
    /// This machine's addresses there.
    pub own: Vec<IpAddr>,
    /// This machine's MagicDNS name without the last dot; `None` where names do not resolve.
    pub own_name: Option<String>,
    /// The other machines, by name. What they are called is remote text.
    pub machines: Vec<Machine>,
    /// Whether it is up; when not, the rest is how it was last.
    pub running: bool,
}

/// Another machine of the tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What it calls itself.
    pub host_name: String,
    /// Its MagicDNS name without the last dot; empty when it has none.
    pub dns_name: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Whether the coordination server sees it.
    pub online: bool,
}

/// The tailnet's state. `socket` is the one that settings name, in place of [`crate::config::TAILSCALE_SOCKET`].
///
/// # Errors
/// [`Code::Unreachable`] with `tailscale not found`, when it is not installed, and with other words
/// when it does not run; [`Code::Forbidden`] when this user may not ask; [`Code::Timeout`];
/// [`Code::TooLarge`]; [`Code::IncompatibleVersion`] when the answer is not understood.
pub async fn status(socket: Option<&Path>) -> Result<Tailnet, Failure> {
    let answer = match get(socket, "/localapi/v0/status").await {
        Ok(answer) => answer,
        // The program may have other rights, and knows other ways to the daemon.
        Err(Unanswered::NoSocket | Unanswered::NotAllowed) => ask_program(socket).await?,
        Err(unanswered) => return Err(unanswered.into()),
    };
    read(&answer)
}

/// The tailnet's state without its other machines, from `tailscaled` alone: no program is run, so it may
/// be asked often. `socket` as for [`status`].
///
/// # Errors
/// Those of [`status`].
pub async fn own(socket: Option<&Path>) -> Result<Tailnet, Failure> {
    read(&get(socket, "/localapi/v0/status?peers=false").await?)
}

/// What `tailscale status --json` prints.
async fn ask_program(socket: Option<&Path>) -> Result<Bytes, Failure> {
    for program in PROGRAMS {
        let mut command = programs::command(program);
        if let Some(socket) = socket {
            command.arg("--socket").arg(socket);
        }
        command.args(["status", "--json"]).stderr(Stdio::null()).stdout(Stdio::piped());
        match timeout(PATIENCE, output(command)).await {
            Err(_) => return Err(slow("the program `tailscale`")),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
            Ok(Err(error)) => {
                return Err(Failure::new(Code::Unreachable, format!("cannot run the program `tailscale`: {error}")));
            }
            Ok(Ok(output)) if output.len() > MAX_ANSWER => return Err(too_long("the program `tailscale`")),
            // It says why on stderr alone, in words that change.
            Ok(Ok(output)) if output.is_empty() => return Err(does_not_run()),
            Ok(Ok(output)) => return Ok(output.into()),
        }
    }
    Err(Failure::new(Code::Unreachable, NOT_FOUND).hint("is Tailscale installed?"))
}

/// What a program prints, up to one byte more than is taken.
async fn output(mut command: Command) -> std::io::Result<Vec<u8>> {
    let mut program = command.spawn()?;
    let mut output = Vec::new();
    if let Some(stdout) = program.stdout.take() {
        stdout.take(MAX_ANSWER as u64 + 1).read_to_end(&mut output).await?;
    }
    if output.len() <= MAX_ANSWER {
        program.wait().await?;
    }
    Ok(output)
}

/// `ipnstate.Status` of Tailscale's sources, as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    backend_state: String,
    #[serde(rename = "Self")]
    own: Option<Node>,
    peer: Option<BTreeMap<String, Node>>,
    current_tailnet: Option<CurrentTailnet>,
}

#[derive(Deserialize)]
struct CurrentTailnet {
    #[serde(rename = "MagicDNSEnabled")]
    magic_dns: Option<bool>,
}

/// `ipnstate.PeerStatus`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    host_name: String,
    #[serde(rename = "DNSName")]
    dns_name: String,
    #[serde(rename = "TailscaleIPs")]
    addresses: Option<Vec<String>>,
    online: bool,
    tags: Option<Vec<String>>,
    /// It may come here, but is not for this machine to see: a guest's.
    sharee_node: bool,
}

/// The answer as JSON; what is wrong with it is told without its own words.
fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Unanswered::Broken(format!("{:?} error at {place}", error.classify())).into()
    })
}

fn read(answer: &[u8]) -> Result<Tailnet, Failure> {
    let status: Status = parse(answer)?;
    let names_resolve = status.current_tailnet.and_then(|tailnet| tailnet.magic_dns) != Some(false);
    let own = status.own.unwrap_or_default();
    let peers = status.peer.unwrap_or_default().into_values();
    let mut machines: Vec<Machine> = peers.filter(is_for_us).map(machine).collect();
    machines.sort_by(|a, b| (&a.dns_name, &a.host_name, &a.addresses).cmp(&(&b.dns_name, &b.host_name, &b.addresses)));
    let own = machine(own);
    Ok(Tailnet {
        own_name: Some(own.dns_name).filter(|name| names_resolve && !name.is_empty()),
        own: own.addresses,
        machines,
        running: status.backend_state == "Running",
    })
}

fn is_for_us(node: &Node) -> bool {
    !node.sharee_node && !node.tags.iter().flatten().any(|tag| tag == RENTED)
}

fn machine(node: Node) -> Machine {
    let dns_name = node.dns_name.trim_end_matches('.');
    let is_name = split_host_port(dns_name).is_ok_and(|(_, port)| port.is_none());
    Machine {
        host_name: node.host_name.chars().take(MAX_NAME).collect(),
        dns_name: if is_name { dns_name.to_owned() } else { String::new() },
        addresses: node.addresses.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
        online: node.online,
    }
}
