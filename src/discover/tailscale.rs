//! The tailnet, as this machine's `tailscaled` tells of it: over its LocalAPI, or through the
//! `tailscale` program where that socket is not there or not open to this user.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::TAILSCALE_SOCKET;
use crate::programs;
use crate::wire::error::{Code, Failure};
use crate::wire::host_port::split_host_port;

/// What the program is called; found through `PATH`, and on macOS inside the app too.
#[cfg(not(target_os = "macos"))]
const PROGRAMS: &[&str] = &["tailscale"];
#[cfg(target_os = "macos")]
const PROGRAMS: &[&str] = &["tailscale", "/Applications/Tailscale.app/Contents/MacOS/Tailscale"];

/// The message of a failure on a machine without Tailscale.
pub const NOT_FOUND: &str = "tailscale not found";

/// How long `tailscaled`, or the program, may take over one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer taken, in bytes: some thousand machines.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest name of a machine kept, in characters.
const MAX_NAME: usize = 64;
/// What LocalAPI wants to be called; with any other name it takes the request for a browser's.
const HOST: &str = "local-tailscaled.sock";
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

/// The tailnet's state. `socket` is the one that settings name, in place of [`TAILSCALE_SOCKET`].
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

/// Why LocalAPI did not answer.
#[derive(Debug)]
pub enum Unanswered {
    /// There is no socket, or nobody listens there.
    NoSocket,
    /// This user may not ask.
    NotAllowed,
    /// No whole answer came in time.
    Slow,
    /// The answer is longer than what is taken.
    TooLong,
    /// What came is no answer; why, in words of this machine's own.
    Broken(String),
}

/// What LocalAPI answers to `GET path`.
///
/// # Errors
/// [`Unanswered`].
pub async fn get(socket: Option<&Path>, path: &str) -> Result<Bytes, Unanswered> {
    let socket = socket.unwrap_or(Path::new(TAILSCALE_SOCKET));
    timeout(PATIENCE, exchange(socket, path)).await.unwrap_or(Err(Unanswered::Slow))
}

async fn exchange(socket: &Path, path: &str) -> Result<Bytes, Unanswered> {
    let stream = UnixStream::connect(socket).await.map_err(|error| not_connected(&error))?;
    let mut http = http1::Builder::new();
    http.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(path)
        .header(hyper::header::HOST, HOST)
        .body(Empty::<Bytes>::new())
        .map_err(|error| Unanswered::Broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => return Err(Unanswered::NotAllowed),
        other => return Err(Unanswered::Broken(format!("status {}", other.as_u16()))),
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Unanswered::TooLong
        } else {
            Unanswered::Broken("the answer ends in the middle".into())
        }
    })
}

fn not_connected(error: &Error) -> Unanswered {
    let kind = error.kind();
    if kind == ErrorKind::PermissionDenied {
        Unanswered::NotAllowed
    } else if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        Unanswered::NoSocket
    } else {
        Unanswered::Broken(error.to_string())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn broken(error: hyper::Error) -> Unanswered {
    Unanswered::Broken(error.to_string())
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::NoSocket => does_not_run(),
            Unanswered::NotAllowed => Self::new(Code::Forbidden, "this user may not ask tailscaled")
                .hint("sudo tailscale set --operator=$USER"),
            Unanswered::Slow => slow("tailscaled"),
            Unanswered::TooLong => too_long("tailscaled"),
            Unanswered::Broken(why) => {
                Self::new(Code::IncompatibleVersion, format!("tailscaled's answer is not understood: {why}"))
                    .hint("tailscale status")
            }
        }
    }
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

fn does_not_run() -> Failure {
    Failure::new(Code::Unreachable, "Tailscale does not run").hint("sudo tailscale up")
}

fn slow(who: &str) -> Failure {
    Failure::new(Code::Timeout, format!("{who} did not answer within {} s", PATIENCE.as_secs()))
        .hint("tailscale status")
}

fn too_long(who: &str) -> Failure {
    Failure::new(Code::TooLarge, format!("{who} answered more than {MAX_ANSWER} bytes")).hint("tailscale status")
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

fn read(answer: &[u8]) -> Result<Tailnet, Failure> {
    let status: Status = serde_json::from_slice(answer).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Unanswered::Broken(format!("{:?} error at {place}", error.classify()))
    })?;
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
