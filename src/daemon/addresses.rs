//! Where this machine can be reached, and which of a peer's addresses are worth a try.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::interfaces;
use crate::wire::link::MAX_ADDRESSES;

/// The addresses of these ports as others dial them, `host:port`: the default route's first, then
/// the tailnet's. Loopback ones only if there is nothing else.
pub(super) fn own(ports: &[SocketAddr]) -> Vec<String> {
    let mut found: Vec<(SocketAddr, bool)> = Vec::new();
    let (all, reachable) = (interfaces::all(), interfaces::reachable());
    let is_tailnet = |ip| all.iter().any(|interface| interface.ip == ip && interface.is_tailnet());
    for port in ports {
        if port.ip().is_unspecified() {
            let taken = |ip: &IpAddr| port.is_ipv6() || ip.is_ipv4();
            let ips = reachable.iter().map(|interface| interface.ip).filter(taken);
            found.extend(ips.map(|ip| (SocketAddr::new(ip, port.port()), is_tailnet(ip))));
        } else {
            found.push((*port, is_tailnet(port.ip())));
        }
    }
    if found.iter().any(|(address, _)| !is_near(address.ip())) {
        found.retain(|(address, _)| !is_near(address.ip()));
    } else {
        found.retain(|(address, _)| address.ip().is_loopback());
    }
    let routes = interfaces::default_routes();
    found.sort_by_key(|(address, tailnet)| (!routes.contains(&address.ip()), !tailnet, address.is_ipv6()));
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found.iter().map(|(address, _)| address.to_string()).collect()
}

/// Whether any interface has an IPv6 address.
pub(super) fn has_ipv6() -> bool {
    interfaces::all().iter().any(|interface| interface.ip.is_ipv6())
}

/// Whether whoever dials this address reaches this daemon itself, as a peer that comes through a
/// tunnel may seem to be at.
pub(super) fn is_own(address: SocketAddr, ports: &[SocketAddr]) -> bool {
    let ip = address.ip().to_canonical();
    let here = || interfaces::all().iter().any(|interface| interface.ip == ip);
    ports.iter().any(|port| port.port() == address.port()) && (ip.is_loopback() || here())
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
