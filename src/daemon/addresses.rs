//! Where this machine can be reached, and which of a peer's addresses are worth a try.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::interfaces::{self, Interface};
use crate::wire::link::MAX_ADDRESSES;

/// An address where others may reach this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reachable {
    pub(super) address: SocketAddr,
    /// The interface that has it; empty when none has it now.
    pub(super) interface: String,
    /// Whether packets to the world leave from it.
    pub(super) on_route: bool,
    pub(super) in_tailnet: bool,
}

/// The addresses of these ports as others dial them, the default route's first, then the tailnet's.
/// Loopback ones only if there is nothing else.
pub(super) fn reachable(ports: &[SocketAddr]) -> Vec<Reachable> {
    let (all, reachable) = (interfaces::all(), interfaces::reachable());
    let routes = interfaces::default_routes();
    let mut found = Vec::new();
    for port in ports {
        let mut ips = vec![port.ip()];
        if port.ip().is_unspecified() {
            ips = reachable.iter().map(|interface| interface.ip).filter(|ip| listens_at(*port, *ip)).collect();
        }
        found.extend(ips.into_iter().map(|ip| {
            let interface = all.iter().find(|interface| interface.ip == ip);
            Reachable {
                address: SocketAddr::new(ip, port.port()),
                interface: interface.map(|interface| interface.name.clone()).unwrap_or_default(),
                on_route: routes.contains(&ip),
                in_tailnet: interface.is_some_and(Interface::is_tailnet),
            }
        }));
    }
    if found.iter().any(|found| !is_near(found.address.ip())) {
        found.retain(|found| !is_near(found.address.ip()));
    } else {
        found.retain(|found| found.address.ip().is_loopback());
    }
    found.sort_by_key(|found| (!found.on_route, !found.in_tailnet, found.address.is_ipv6()));
    found.dedup();
    found
}

/// The addresses of these ports, `host:port`, as this daemon tells them to peers.
pub(super) fn own(ports: &[SocketAddr]) -> Vec<String> {
    reachable(ports).iter().take(MAX_ADDRESSES).map(|found| found.address.to_string()).collect()
}

/// Whether a port takes what comes to an address. The unspecified IPv6 address stands for IPv4 too.
pub(super) fn listens_at(port: SocketAddr, ip: IpAddr) -> bool {
    port.ip() == ip || port.ip().is_unspecified() && (port.is_ipv6() || ip.is_ipv4())
}

/// Whether any interface has an IPv6 address.
pub(super) fn has_ipv6() -> bool {
    interfaces::all().iter().any(|interface| interface.ip.is_ipv6())
}

/// Whether whoever dials this address reaches this daemon itself, as a peer that comes through a
/// tunnel may seem to be at.
pub(super) fn is_own(address: SocketAddr, ports: &[SocketAddr]) -> bool {
    ports.iter().any(|port| port.port() == address.port()) && is_this_machine(address.ip())
}

/// Whether an address is one that this machine has.
pub(super) fn is_this_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || interfaces::all().iter().any(|interface| interface.ip == ip)
}

/// Whether an address is one of this machine's own, so that only it can be reached there.
pub(super) fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
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
    fn a_port_on_one_address_is_reached_there_alone() {
        assert_eq!(own(&["127.0.0.1:9".parse().unwrap()]), ["127.0.0.1:9"]);
    }
}
