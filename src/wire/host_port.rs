//! Where a device is dialled: a host and a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::DEFAULT_PORT;
use super::error::{Code, Failure};

/// Longest `host:port`, in bytes; a ticket counts them in one byte.
pub const MAX_HOST_PORT: usize = 255;

/// A host (a name, an IPv4 or an IPv6 address without a zone) and a TCP port from 1. Read from
/// `host:port`, with an IPv6 address in brackets, and shown so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// The text is no host with a port, or is longer than [`MAX_HOST_PORT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is HOST:PORT, or [IPv6]:PORT")]
pub struct NotHostPort;

impl HostPort {
    /// Reads `host:port`, or what [`split_host_port`] takes for a host alone, which gets the port
    /// `default`.
    ///
    /// # Errors
    /// [`NotHostPort`].
    pub fn with_default(text: &str, default: u16) -> Result<Self, NotHostPort> {
        let (host, port) = split_host_port(text)?;
        Self::new(host, port.unwrap_or(default))
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As it is typed: without the port that everybody has.
    pub fn short(&self) -> String {
        if self.port == DEFAULT_PORT { self.host.clone() } else { self.to_string() }
    }

    fn new(host: &str, port: u16) -> Result<Self, NotHostPort> {
        let whole = Self { host: host.to_owned(), port };
        if port == 0 || whole.to_string().len() > MAX_HOST_PORT { Err(NotHostPort) } else { Ok(whole) }
    }
}

impl FromStr for HostPort {
    type Err = NotHostPort;

    /// The port must be there.
    fn from_str(text: &str) -> Result<Self, NotHostPort> {
        let (host, port) = split_host_port(text)?;
        Self::new(host, port.ok_or(NotHostPort)?)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The host, without brackets, and the port, where there is one, of `host:port`, `[IPv6]:port`,
/// `[IPv6]`, a bare IPv6 address or a bare host.
///
/// # Errors
/// [`NotHostPort`]; a port is from 1 and has no leading zeros.
pub fn split_host_port(text: &str) -> Result<(&str, Option<u16>), NotHostPort> {
    if text.len() > MAX_HOST_PORT {
        return Err(NotHostPort);
    }
    if is_ipv6(text) {
        return Ok((text, None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').filter(|(host, _)| is_ipv6(host)).ok_or(NotHostPort)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(read_port(port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(NotHostPort),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(read_port(port)?)),
        None => (text, None),
    };
    if host.parse::<Ipv4Addr>().is_ok() || is_name(host) { Ok((host, port)) } else { Err(NotHostPort) }
}

/// Whether what a user typed, with or without a port, may be another machine's address; a name may be.
///
/// # Errors
/// It is an IP address that no other machine is dialled by from here, or has a zone.
pub fn check_dialled(typed: &str) -> Result<(), Failure> {
    let bare = typed.strip_prefix('[').unwrap_or(typed);
    let zoned = bare.split_once('%').and_then(|(ip, _)| ip.parse::<Ipv6Addr>().ok());
    let split = || split_host_port(typed).ok().and_then(|(host, _)| host.parse::<IpAddr>().ok());
    let Some(ip) = zoned.map(IpAddr::V6).or_else(split).map(|ip| ip.to_canonical()) else { return Ok(()) };
    let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let why = if is_link_local {
        "is a link-local address, which means nothing without an interface and is not supported"
    } else if zoned.is_some() {
        "has a zone, which is not supported"
    } else if ip.is_unspecified() {
        "stands for every address of a machine's own, and is no address of another"
    } else if is_broadcast || ip.is_multicast() {
        "is no address of one machine alone"
    } else {
        return Ok(());
    };
    Err(Failure::new(Code::InvalidRequest, format!("{ip} {why}"))
        .hint("use another address of that machine, or its name"))
}

/// Whether an address is of 100.64.0.0/10 or fd7a:115c:a1e0::/48, where Tailscale has its own.
pub fn is_tailnet(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

fn read_port(text: &str) -> Result<u16, NotHostPort> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(NotHostPort)
}

/// Whether `text` can be the name of a host. A last label of digits alone is an IPv4 address gone
/// wrong, which resolvers read in surprising ways.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_and_ports_are_told_apart_also_in_ipv6() {
        for (text, host, port) in [
            ("desktop", "desktop", None),
            ("desktop:1", "desktop", Some(1)),
            ("desk-top.local:7433", "desk-top.local", Some(7433)),
            ("a_b.c.:80", "a_b.c.", Some(80)),
            ("192.0.2.1:65535", "192.0.2.1", Some(65_535)),
            ("192.0.2.1", "192.0.2.1", None),
            ("::1", "::1", None),
            ("::1:7433", "::1:7433", None),
            ("[::1]", "::1", None),
            ("[::1]:7433", "::1", Some(7433)),
            ("[2001:db8::1]:1", "2001:db8::1", Some(1)),
            ("b\u{fc}ro:1", "b\u{fc}ro", Some(1)),
        ] {
            assert_eq!(split_host_port(text), Ok((host, port)), "{text}");
            assert_eq!(text.parse::<HostPort>().is_ok(), port.is_some(), "{text}");
            let whole = HostPort::with_default(text, 9).unwrap();
            assert_eq!((whole.host(), whole.port()), (host, port.unwrap_or(9)), "{text}");
            assert_eq!(whole.to_string().parse(), Ok(whole), "{text}");
        }
        assert_eq!(HostPort::with_default("::1", 7433).unwrap().to_string(), "[::1]:7433");
    }

    #[test]
    fn the_tailnets_addresses_are_told_from_those_around_them() {
        for inside in ["100.64.0.0", "100.127.255.255", "100.100.1.2", "fd7a:115c:a1e0::", "fd7a:115c:a1e0:ffff::1"] {
            assert!(is_tailnet(inside.parse().unwrap()), "{inside}");
        }
        for outside in
            ["100.63.255.255", "100.128.0.0", "101.64.0.1", "10.64.0.1", "fd7a:115c:a1e1::1", "fd7b:115c:a1e0::1"]
        {
            assert!(!is_tailnet(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn an_address_that_is_no_other_machines_is_told_apart() {
        for (typed, why) in [
            ("0.0.0.0", "every address"),
            ("0.0.0.0:7433", "every address"),
            ("::", "every address"),
            ("[::]:7433", "every address"),
            ("::ffff:0.0.0.0", "every address"),
            ("fe80::1", "link-local"),
            ("fe80::1%eth0", "link-local"),
            ("[fe80::1%eth0]:7433", "link-local"),
            ("2001:db8::1%eth0", "has a zone"),
            ("255.255.255.255", "one machine alone"),
            ("224.0.0.251:1", "one machine alone"),
            ("[ff02::1]:1", "one machine alone"),
        ] {
            let failure = check_dialled(typed).unwrap_err();
            assert!(failure.message.contains(why) && failure.hint.is_some(), "{typed}: {failure}");
        }
        for fine in
            ["desktop", "desktop:1", "192.0.2.1", "169.254.7.7", "[2001:db8::1]:7433", "fd7a:115c:a1e0::7", "a%b", ""]
        {
            assert_eq!(check_dialled(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        let longest = format!("{}a:1", "a.".repeat(126));
        assert_eq!(longest.len(), MAX_HOST_PORT);
        assert!(split_host_port(&longest).is_ok());
        let long = format!("{}:1", "a.".repeat(127));
        for bad in [
            "",
            ":",
            "h:",
            ":1",
            "h:0",
            "h:01",
            "h:+1",
            "h:x",
            "h:65536",
            "h:1 ",
            " h:1",
            "[::1",
            "[::1:1",
            "[::1]1",
            "[::1]:",
            "[::1]:0",
            "[h]:1",
            "[fe80::1%eth0]:1",
            "[1.2.3.4]:1",
            "1.2.3.256:1",
            "127.1:1",
            "1:1",
            "a..b:1",
            "-a:1",
            "a-:1",
            "a/b:1",
            "a@b:1",
            "a:1:2",
            "h:1\n",
            "h\0:1",
            "\u{1b}[2J:1",
            "\u{202e}:1",
            &long,
            &format!("{}:1", "a".repeat(64)),
        ] {
            assert_eq!(split_host_port(bad), Err(NotHostPort), "{bad:?}");
            assert_eq!(HostPort::with_default(bad, 7433), Err(NotHostPort), "{bad:?}");
        }
        assert_eq!(HostPort::with_default("h", 0), Err(NotHostPort));
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(HostPort::with_default(&longest, 7433), Err(NotHostPort), "no room for a port");
        assert!(HostPort::with_default(&longest, 7).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_so_that_it_is_read_again(text in "[a-z0-9:.\\[\\]-]{0,30}", port in 1u16..) {
            if let Ok(whole) = HostPort::with_default(&text, port) {
                prop_assert_eq!(whole.to_string().parse(), Ok(whole));
            }
        }
    }
}
