//! Why a peer was not reached, in words, with what to do about it, the likeliest first.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::link::obstacles::{is_tailnet, is_wsl, open_port_there};
use crate::link::tls::{RefusedBy, TlsError};
use crate::wire::error::{Code, Failure};
use crate::wire::{DEFAULT_PORT, HostPort};

/// Why no address gave an authenticated connection. Shown, it has the words that the original's
/// clients know.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address is known.
    #[error("no address of it is known")]
    NoAddress,
    /// A name does not resolve.
    #[error("getaddrinfo {} {host}", resolver_word(*.temporary))]
    Resolve {
        /// The name.
        host: String,
        /// Whether the resolver may say otherwise later.
        temporary: bool,
    },
    /// Nothing answers at an address.
    #[error("connect {} {address}", errno_name(.source))]
    Connect {
        /// The address.
        address: String,
        /// The system's word.
        source: io::Error,
    },
    /// Something answers, but not the peer.
    #[error("{address}: {source}")]
    Tls {
        /// The address.
        address: String,
        /// What was wrong with it.
        source: TlsError,
    },
}

impl DialError {
    /// The failure as a user sees it.
    pub fn into_failure(self) -> Failure {
        self.into_failure_of("PEER", None)
    }

    /// The failure of dialling the peer called `peer`, which had this `version` when it was last seen.
    pub fn into_failure_of(self, peer: &str, version: Option<&str>) -> Failure {
        let (message, hint) = match &self {
            Self::NoAddress => {
                (self.to_string(), format!("`pi-remote peers address {peer} --add HOST:PORT` gives one"))
            }
            Self::Resolve { host, temporary } => unresolved(host, *temporary),
            Self::Connect { address, source } => unconnected(address, source),
            Self::Tls { address, source } => return of_tls(address, source, peer, version).delivered(false),
        };
        Failure::new(Code::Unreachable, message).hint(hint).delivered(false)
    }

    /// The failure of joining a machine that offers to pair: where no packet gets through, the other
    /// direction may be open.
    pub fn into_joining_failure(self) -> Failure {
        let swap = match &self {
            Self::Connect { source, .. } => !is_refused(source),
            Self::Tls { source: TlsError::Timeout, .. } => true,
            Self::NoAddress | Self::Resolve { .. } | Self::Tls { .. } => false,
        };
        let refused = matches!(&self, Self::Connect { source, .. } if is_refused(source));
        let failure = self.into_failure();
        let hint = failure.hint.as_deref().unwrap_or_default();
        if refused {
            return failure
                .hint("it is up, but not pairing: `pi-remote pair` there opens a window, then try again here");
        }
        if swap {
            let swapped = "or swap roles, since the other direction may be open: `pi-remote pair` here, and what it prints on the other machine";
            let hint = format!("{hint}\n{swapped}");
            return failure.hint(hint);
        }
        failure
    }

    /// How much an error tells: that of several addresses which got furthest is shown.
    fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            // An address that is this machine itself tells nothing of the peer.
            Self::Tls { source: TlsError::OwnKey, .. } => 1,
            Self::Resolve { .. } => 2,
            Self::Connect { source, .. } if has_no_route(source) => 3,
            Self::Connect { source, .. } if is_refused(source) => 5,
            Self::Connect { .. } => 4,
            Self::Tls { source: TlsError::FingerprintMismatch { .. }, .. } => 8,
            Self::Tls { source: TlsError::PeerRefusedUs(_) | TlsError::NotPinned { .. }, .. } => 7,
            Self::Tls { .. } => 6,
        }
    }

    /// Of two errors the one that tells more; of equals the later.
    pub(super) fn or_later(self, later: Self) -> Self {
        if later.weight() >= self.weight() { later } else { self }
    }
}

fn unresolved(host: &str, temporary: bool) -> (String, String) {
    let message = format!("the name {host} does not resolve here ({})", resolver_word(temporary));
    let name = host.trim_end_matches('.').to_lowercase();
    let hint = if name.ends_with(".ts.net") {
        "a tailnet name resolves only while Tailscale is up on this machine: `tailscale status`, `tailscale up`"
    } else if name.ends_with(".local") {
        "a .local name resolves only within one network, and only where this machine asks for it (Avahi on Linux): use that machine's IP address instead"
    } else if temporary {
        "the resolver gave no answer: is this machine online? if the name is one of your tailnet, `tailscale up`; else use that machine's IP address"
    } else if name.contains('.') {
        "nobody knows this name: look for a slip of the finger, or use that machine's IP address"
    } else {
        "a short name must be known to the router, the tailnet (`tailscale status`) or /etc/hosts: use that machine's IP address instead"
    };
    (message, hint.to_owned())
}

fn unconnected(address: &str, source: &io::Error) -> (String, String) {
    let errno = errno_name(source);
    let port = address.parse::<HostPort>().map_or(DEFAULT_PORT, |address| address.port());
    let ip = address.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_tailnet = ip.is_some_and(is_tailnet);
    if is_refused(source) {
        let message = format!("nothing listens at {address}: the machine is up ({errno})");
        let hint = "`pi-remote status` there tells: its daemon does not run, has another port, or is paired with nobody and not pairing";
        return (message, hint.to_owned());
    }
    if has_no_route(source) {
        let message = format!("no way to {address}: this machine has no route there ({errno})");
        let hint = if in_tailnet {
            "`tailscale up` here: it is an address of the tailnet"
        } else {
            "is this machine online, in the network or VPN of that address?"
        };
        return (message, hint.to_owned());
    }
    if source.kind() == io::ErrorKind::PermissionDenied {
        let message = format!("connecting to {address} is forbidden on this machine ({errno})");
        return (message, format!("a firewall here rejects it: let TCP port {port} out"));
    }
    let message = format!("nothing answers at {address} ({errno})");
    let mut hints = vec!["is that machine on, awake and still at that address?".to_owned()];
    if in_tailnet {
        hints = vec!["is Tailscale up on both machines? `tailscale status`".to_owned()];
    }
    hints.push(format!("a firewall there may drop it; to let it through, on that machine: {}", open_port_there(port)));
    if ip.is_some_and(is_of_a_local_network) {
        hints.push("guest Wi-Fi keeps machines apart: use another network, or a tailnet".to_owned());
    }
    if cfg!(target_os = "macos") {
        hints.push(
            "macOS asks before a program may use the local network: System Settings, Privacy & Security, Local Network"
                .to_owned(),
        );
    }
    if is_wsl() {
        hints.push(
            "this is WSL, which has an address of its own behind Windows: networkingMode=mirrored in .wslconfig"
                .to_owned(),
        );
    }
    (message, hints.join("\n"))
}

fn of_tls(address: &str, source: &TlsError, peer: &str, version: Option<&str>) -> Failure {
    let failure = Failure { message: format!("{address}: {source}"), ..Failure::from(source) };
    let versions = || {
        let own = env!("CARGO_PKG_VERSION");
        let there = version.map(|version| format!("; {peer} had {version} when it was last seen")).unwrap_or_default();
        format!("if it is pi-remote, it is of another version (here: {own}{there}): bring both to the same one")
    };
    match source {
        TlsError::Plaintext => Failure {
            message: format!("what answers at {address} speaks plaintext: it may be the original remote-control daemon"),
            ..failure
        }
        .hint("`pi-remote stop` there stops it and says how to remove it; then run pi-remote there"),
        TlsError::Timeout => Failure {
            code: Code::Unreachable,
            message: format!("what answers at {address} takes connections, but no TLS: it said nothing for 10 s"),
            ..failure
        }
        .hint("it may hang, or be another program, such as the original remote-control daemon: `pi-remote status` there tells"),
        TlsError::FingerprintMismatch { expected, seen } => Failure {
            message: format!("THE DEVICE AT {address} IS NOT {peer}: its key should be {expected}, but is {seen}"),
            ..failure
        }
        .hint(format!(
            "somebody may answer in its place. Only if {peer} really has a new key: `pi-remote pair --replace {peer} {address}`"
        )),
        TlsError::OwnKey => failure.hint("that address is this machine itself"),
        TlsError::BadCertificate(_) | TlsError::UnprovenAlert => {
            failure.hint("something else answers at that address (an https server, say), or in its place")
        }
        TlsError::NotPinned { .. } => failure.hint("pair the two: `pi-remote pair` here, and what it prints on the other machine"),
        TlsError::PeerRefusedUs(RefusedBy::Protocol) => Failure {
            message: format!("what answers at {address} does not speak this version's protocol"),
            ..failure
        }
        .hint(versions()),
        TlsError::PeerRefusedUs(RefusedBy::Version) | TlsError::NoAlpn | TlsError::WrongAlpn | TlsError::Protocol(_) => {
            Failure { message: format!("what answers at {address} speaks another TLS: {source}"), ..failure }
                .hint(format!("is it the right port, or an https server? {}", versions()))
        }
        TlsError::PeerRefusedUs(RefusedBy::Trust | RefusedBy::Certificate) | TlsError::Io(_) => failure,
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

/// Not EHOSTUNREACH, which a machine that is off and a firewall that rejects give too.
fn has_no_route(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NetworkUnreachable
}

fn is_of_a_local_network(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

fn resolver_word(temporary: bool) -> &'static str {
    if temporary { "EAI_AGAIN" } else { "ENOTFOUND" }
}

/// The name by which programs know this error, as the original's clients read it.
fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", nix::errno::Errno::from_raw(code)),
        None if error.kind() == io::ErrorKind::TimedOut => "ETIMEDOUT".to_owned(),
        None => error.kind().to_string(),
    }
}
