//! Why a peer was not reached, in words, with what to do about it, the likeliest first.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::link::obstacles::{is_wsl, open_port_there};
use crate::link::tls::{COPIED_KEY, RefusedBy, TlsError};
use crate::wire::commands::quoted;
use crate::wire::error::{Code, Failure};
use crate::wire::host_port::is_tailnet;
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
        self.explain(None, None)
    }

    /// The failure of dialling the peer called `peer`, which had this `version` when it was last seen.
    pub fn into_failure_of(self, peer: &str, version: Option<&str>) -> Failure {
        self.explain(Some(peer), version)
    }

    fn explain(&self, peer: Option<&str>, version: Option<&str>) -> Failure {
        let (message, hint) = match self {
            Self::NoAddress => {
                let peer = quoted(peer.unwrap_or("PEER"));
                (self.to_string(), format!("`pi-remote peers address {peer} --add HOST:PORT` gives one"))
            }
            Self::Resolve { host, temporary } => unresolved(host, *temporary),
            Self::Connect { address, source } => unconnected(address, source, is_wsl()),
            Self::Tls { address, source } => return of_tls(address, source, peer, version).delivered(false),
        };
        Failure::new(Code::Unreachable, message).hint(hint).delivered(false)
    }

    /// How much an error tells: that of several addresses which got furthest is shown.
    fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            // An address that is this machine itself tells nothing of the peer.
            Self::Tls { source: TlsError::OwnKey { copied: false }, .. } => 1,
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

fn unconnected(address: &str, source: &io::Error, in_wsl: bool) -> (String, String) {
    let errno = errno_name(source);
    let port = address.parse::<HostPort>().map_or(DEFAULT_PORT, |address| address.port());
    let ip = address.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_tailnet = ip.is_some_and(is_tailnet);
    if is_refused(source) {
        let message = format!("nothing listens at {address}, though the machine is up ({errno})");
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
    if in_wsl {
        hints.push(
            "this is WSL, which has an address of its own behind Windows: networkingMode=mirrored in .wslconfig"
                .to_owned(),
        );
    }
    (message, hints.join("\n"))
}

fn of_tls(address: &str, source: &TlsError, peer: Option<&str>, version: Option<&str>) -> Failure {
    let failure = Failure { message: format!("{address}: {source}"), ..Failure::from(source) };
    let versions = || {
        let own = env!("CARGO_PKG_VERSION");
        match (peer, version) {
            (Some(peer), Some(version)) if version != own => {
                format!(
                    "pi-remote here is {own}, {peer} had {} when it was last seen: bring both to one version",
                    quoted(version)
                )
            }
            _ => {
                format!(
                    "if it is pi-remote, its version is not {own}, which runs here: `pi-remote --version` there tells"
                )
            }
        }
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
        TlsError::FingerprintMismatch { expected, seen } => {
            let who = peer.unwrap_or("THE ONE EXPECTED");
            let message = format!("THE DEVICE AT {address} IS NOT {who}: its key should be {expected}, but is {seen}");
            let replace = match peer {
                Some(peer) => format!(
                    ". Only if {peer} really has a new key: `pi-remote pair --replace {} {}`, once it offers",
                    quoted(peer),
                    quoted(address)
                ),
                None => ", or another machine has this address now".to_owned(),
            };
            Failure { message, ..failure }.hint(format!("somebody may answer in its place{replace}"))
        }
        TlsError::OwnKey { copied: false } => failure.hint("that address is this machine itself"),
        TlsError::OwnKey { copied: true } => failure.hint(COPIED_KEY),
        TlsError::BadCertificate(_) | TlsError::UnprovenAlert => {
            failure.hint("something else answers at that address (an https server, say), or in its place")
        }
        TlsError::NotPinned { .. } => failure.hint("pair the two: `pi-remote pair` here, and what it prints on the other machine"),
        TlsError::PeerRefusedUs(RefusedBy::Protocol) => Failure {
            message: format!("what answers at {address} does not speak this version's protocol"),
            ..failure
        }
        .hint(format!("{}\nelse another program answers at that address: is it the right port?", versions())),
        TlsError::PeerRefusedUs(RefusedBy::Version) | TlsError::NoAlpn | TlsError::WrongAlpn | TlsError::Protocol(_) => {
            Failure { message: format!("what answers at {address} speaks another TLS ({source})"), ..failure }
                .hint(format!("is it the right port, or an https server, say?\n{}", versions()))
        }
        TlsError::Io(_) => {
            failure.hint("another program may listen there, or the daemon is going down: `pi-remote status` there tells")
        }
        TlsError::PeerRefusedUs(RefusedBy::Trust | RefusedBy::Certificate) => failure,
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

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::identity::Fingerprint;
    use crate::wire::commands::{HOSTILE, assert_one_word};

    fn failed(address: &str, errno: Errno) -> DialError {
        DialError::Connect { address: address.into(), source: io::Error::from_raw_os_error(errno as i32) }
    }

    fn hint(error: DialError) -> String {
        error.into_failure().hint.unwrap()
    }

    #[test]
    fn a_name_is_one_word_of_each_command_that_is_to_be_pasted() {
        let (expected, seen) = (Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]));
        let other = |address: &str| DialError::Tls {
            address: address.into(),
            source: TlsError::FingerprintMismatch { expected, seen },
        };
        for error in [DialError::NoAddress, other("192.0.2.1:7433")] {
            assert_one_word(&error.into_failure_of(HOSTILE, None).hint.unwrap());
        }
        let hint = other("[2001:db8::1]:9").into_failure_of("desk", None).hint.unwrap();
        assert!(hint.contains("`pi-remote pair --replace desk '[2001:db8::1]:9'`"), "{hint}");
    }

    #[test]
    fn connect_errors_have_the_names_that_the_originals_clients_know() {
        let refused = failed("192.0.2.1:7433", Errno::ECONNREFUSED);
        assert_eq!(refused.to_string(), "connect ECONNREFUSED 192.0.2.1:7433");
        let late = DialError::Connect { address: "[::1]:1".into(), source: io::ErrorKind::TimedOut.into() };
        assert_eq!(late.to_string(), "connect ETIMEDOUT [::1]:1");
    }

    #[test]
    fn what_is_tried_first_depends_on_where_the_address_is() {
        for (address, said, unsaid) in [
            ("192.168.1.7:7433", "guest Wi-Fi", "Tailscale"),
            ("100.101.102.103:7433", "tailscale status", "guest Wi-Fi"),
            ("[fd7a:115c:a1e0::7]:7433", "tailscale status", "still at that address"),
            ("203.0.113.7:8000", "sudo ufw allow 8000/tcp", "guest Wi-Fi"),
        ] {
            for errno in [Errno::ETIMEDOUT, Errno::EHOSTUNREACH] {
                let hint = hint(failed(address, errno));
                assert!(hint.contains(said) && !hint.contains(unsaid), "{address}: {hint}");
                assert!(hint.contains("sudo firewall-cmd --permanent"), "{hint}");
            }
        }
        assert!(hint(failed("100.101.102.103:1", Errno::ENETUNREACH)).starts_with("`tailscale up` here"));
        assert!(hint(failed("203.0.113.7:7433", Errno::EACCES)).contains("a firewall here"));
    }

    #[test]
    fn a_name_is_explained_by_its_kind_and_by_the_resolvers_word() {
        for (host, temporary, word, mend) in [
            ("desktop.tail1234.ts.net.", false, "ENOTFOUND", "tailscale up"),
            ("Desktop.LOCAL", true, "EAI_AGAIN", "Avahi"),
            ("desktop.example.org", true, "EAI_AGAIN", "is this machine online?"),
            ("desktop.example.org", false, "ENOTFOUND", "slip of the finger"),
            ("desktop", false, "ENOTFOUND", "/etc/hosts"),
        ] {
            let failure = DialError::Resolve { host: host.into(), temporary }.into_failure();
            assert_eq!(failure.code, Code::Unreachable);
            assert!(failure.message.contains(host) && failure.message.contains(word), "{failure}");
            assert!(failure.hint.unwrap().contains(mend), "{host}");
        }
    }

    #[test]
    fn windows_around_linux_is_named_only_where_it_is() {
        let silent = io::Error::from(io::ErrorKind::TimedOut);
        assert!(unconnected("192.168.1.7:7433", &silent, true).1.contains("WSL"));
        assert!(!unconnected("192.168.1.7:7433", &silent, false).1.contains("WSL"));
    }

    #[test]
    fn of_several_addresses_the_error_that_tells_most_is_kept() {
        let told = [
            DialError::NoAddress,
            DialError::Resolve { host: "h".into(), temporary: true },
            failed("h:1", Errno::ENETUNREACH),
            failed("h:1", Errno::ETIMEDOUT),
            failed("h:1", Errno::ECONNREFUSED),
            DialError::Tls { address: "h:1".into(), source: TlsError::Plaintext },
            DialError::Tls { address: "h:1".into(), source: TlsError::PeerRefusedUs(RefusedBy::Trust) },
        ];
        assert!(told.windows(2).all(|pair| pair[0].weight() < pair[1].weight()));
    }
}
