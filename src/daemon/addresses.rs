//! Where this machine can be reached, and which of a peer's addresses are worth a try.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::is_near;
use crate::wire::error::{Code, Failure};
use crate::wire::link::MAX_ADDRESSES;

/// Interfaces of containers and virtual machines, which no other machine reaches.
const INSIDE: [&str; 8] = ["docker", "br-", "veth", "virbr", "cni", "podman", "lxc", "vmnet"];

/// The addresses of these ports as others dial them, `host:port`: the default route's first, then
/// the tailnet's. Loopback ones only if there is nothing else.
pub(super) fn own(ports: &[SocketAddr]) -> Vec<String> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for port in ports {
        if port.ip().is_unspecified() {
            found.extend(interfaces().into_iter().map(|ip| SocketAddr::new(ip, port.port())));
        } else {
            found.push(*port);
        }
    }
    if found.iter().any(|address| !is_near(address.ip())) {
        found.retain(|address| !is_near(address.ip()));
    } else {
        found.retain(|address| address.ip().is_loopback());
    }
    let first = default_route();
    found.sort_by_key(|address| (Some(address.ip()) != first, !is_tailnet(address.ip()), address.is_ipv6()));
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found.iter().map(ToString::to_string).collect()
}

/// This machine's addresses in its tailnet.
///
/// # Errors
/// When it has none now.
pub(super) fn tailnet() -> Result<Vec<IpAddr>, Failure> {
    let found: Vec<_> = interfaces().into_iter().filter(|ip| is_tailnet(*ip)).collect();
    if found.is_empty() {
        return Err(Failure::new(Code::Io, "no interface of this machine has a tailnet address now")
            .hint("start Tailscale (`tailscale up`), or listen elsewhere with --listen"));
    }
    Ok(found)
}

/// Whether any interface has an IPv6 address.
pub(super) fn has_ipv6() -> bool {
    interfaces().iter().any(IpAddr::is_ipv6)
}

/// Whether whoever dials this address reaches this daemon itself, as a peer that comes through a
/// tunnel may seem to be at.
pub(super) fn is_own(address: SocketAddr, ports: &[SocketAddr]) -> bool {
    let ip = address.ip().to_canonical();
    ports.iter().any(|port| port.port() == address.port()) && (ip.is_loopback() || interfaces().contains(&ip))
}

/// Of the addresses that a peer tells of itself, those worth a try: unicast, and near ones only
/// when the peer itself is near.
pub(super) fn of_peer(told: &[String], seen_from: IpAddr) -> Vec<String> {
    let usable = |address: &&String| {
        address.parse::<SocketAddr>().is_ok_and(|address| {
            let ip = address.ip().to_canonical();
            let unicast = !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST);
            address.port() != 0 && unicast && (!is_near(ip) || is_near(seen_from))
        })
    };
    told.iter().filter(usable).take(MAX_ADDRESSES).cloned().collect()
}

/// 100.64.0.0/10 and fd7a:115c:a1e0::/48, where Tailscale has its addresses.
pub(super) fn is_tailnet(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

pub(super) fn interfaces() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let mut found = Vec::new();
    for interface in all {
        let up = interface.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        if !up || INSIDE.iter().any(|inside| interface.interface_name.starts_with(inside)) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found.push(IpAddr::V6(v6.ip()));
        }
    }
    found
}

/// The address that packets to the world leave from. Connecting a UDP socket sends nothing.
fn default_route() -> Option<IpAddr> {
    let from = |local: SocketAddr, far: SocketAddr| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(far).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    // Addresses of the documentation ranges (RFC 5737, RFC 3849): any address off this link will do.
    from((Ipv4Addr::UNSPECIFIED, 0).into(), ([192, 0, 2, 1], 9).into())
        .or_else(|| from((Ipv6Addr::UNSPECIFIED, 0).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_peer_tells_only_what_can_be_dialled_is_kept() {
        let told: Vec<String> = [
            "192.0.2.1:7433",
            "127.0.0.1:7433",
            "169.254.1.1:7433",
            "[fe80::1]:7433",
            "224.0.0.1:7433",
            "0.0.0.0:7433",
            "192.0.2.1:0",
            "desktop:7433",
            "[2001:db8::1]:7433",
            "[::ffff:127.0.0.1]:1",
            "x",
        ]
        .map(String::from)
        .to_vec();
        let far = of_peer(&told, [192, 0, 2, 7].into());
        assert_eq!(far, ["192.0.2.1:7433", "[2001:db8::1]:7433"]);
        let near = of_peer(&told, [127, 0, 0, 1].into());
        assert!(near.contains(&"127.0.0.1:7433".to_owned()));
    }

    #[test]
    fn tailnet_addresses_are_known() {
        assert!(is_tailnet([100, 101, 102, 103].into()) && !is_tailnet([100, 128, 0, 1].into()));
    }

    #[test]
    fn a_port_on_one_address_is_reached_there_alone() {
        assert_eq!(own(&["127.0.0.1:9".parse().unwrap()]), ["127.0.0.1:9"]);
    }
}
