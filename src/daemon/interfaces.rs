//! This machine's network interfaces: which are real, which are a tailnet's, which nobody reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::wire::host_port::is_tailnet;

/// Where Linux describes its interfaces.
const SYSFS: &str = "/sys/class/net";
/// Names of interfaces of containers and virtual machines, which no other machine reaches.
const INSIDE: [&str; 12] =
    ["docker", "br-", "veth", "virbr", "cni", "podman", "lxc", "lxdbr", "incusbr", "cali", "vmnet", "vboxnet"];
/// What Tailscale calls its interface.
const TAILSCALE: &str = if cfg!(target_os = "macos") { "utun" } else { "tailscale" };
/// Interfaces that stand on each other: a bridge on a bond on a card has three.
const DEEPEST: u8 = 8;

/// What tells that there is somebody at the other end. Linux says so of a link at once, and up to a
/// second later that it runs.
#[cfg(target_os = "linux")]
const CARRIES: InterfaceFlags = InterfaceFlags::IFF_RUNNING.union(InterfaceFlags::IFF_LOWER_UP);
#[cfg(not(target_os = "linux"))]
const CARRIES: InterfaceFlags = InterfaceFlags::IFF_RUNNING;

/// An address that an interface has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) ip: IpAddr,
}

/// The addresses of all interfaces that are up.
pub(super) fn all() -> Vec<Interface> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP) && interface.flags.intersects(CARRIES))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some(Interface { name: interface.interface_name, ip })
        })
        .collect()
}

/// Those of them that another machine may reach, or a program on this one.
pub(super) fn reachable() -> Vec<Interface> {
    let mut all = all();
    let routes = default_routes();
    // Whoever's way to the world leads through an interface is reached there, whatever it is called:
    // a container's own end is a veth too.
    let is_way = |interface: &Interface| routes.contains(&interface.ip);
    let ways: Vec<String> = all.iter().filter(|i| is_way(i)).map(|i| i.name.clone()).collect();
    all.retain(|interface| ways.contains(&interface.name) || !is_inside(&interface.name, Path::new(SYSFS)));
    all
}

impl Interface {
    /// Whether it is a tailnet's by its name and address. The address alone does not tell: carriers
    /// use 100.64.0.0/10 for their customers too (RFC 6598).
    pub(super) fn is_tailnet(&self) -> bool {
        self.name.starts_with(TAILSCALE) && is_tailnet(self.ip)
    }
}

/// The addresses that packets to the world leave from, IPv4 first. Connecting a UDP socket sends nothing.
pub(super) fn default_routes() -> Vec<IpAddr> {
    let from = |local: SocketAddr, far: SocketAddr| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(far).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    // Addresses of the documentation ranges (RFC 5737, RFC 3849): any address off this link will do.
    let v4 = from((Ipv4Addr::UNSPECIFIED, 0).into(), ([192, 0, 2, 1], 9).into());
    let v6 = from((Ipv6Addr::UNSPECIFIED, 0).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into());
    v4.into_iter().chain(v6).collect()
}

/// Whether only containers and virtual machines of this machine are behind an interface. What a bridge
/// is, Linux tells by its members, whatever its name: one without a card in it leads nowhere.
fn is_inside(name: &str, sysfs: &Path) -> bool {
    let interface = sysfs.join(name);
    if interface.join("bridge").exists() {
        return !leads_out(&interface, DEEPEST);
    }
    INSIDE.iter().any(|inside| name.starts_with(inside)) || name.strip_prefix("bridge").is_some_and(is_vm_bridge)
}

/// macOS numbers the bridges of its virtual machines from 100 on; `bridge0` is made of sockets one can touch.
fn is_vm_bridge(number: &str) -> bool {
    cfg!(target_os = "macos") && number.parse::<u32>().is_ok_and(|number| number >= 100)
}

/// Whether an interface is a device, or stands on one.
fn leads_out(interface: &Path, depth: u8) -> bool {
    if interface.join("device").exists() {
        return true;
    }
    let below = std::fs::read_dir(interface).into_iter().flatten().flatten();
    depth > 0
        && below
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("lower_"))
            .any(|entry| leads_out(&entry.path(), depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_an_interface_of_tailscales_name_with_an_address_of_tailscales_range_is_a_tailnets() {
        let is = |name: &str, ip: &str| Interface { name: name.into(), ip: ip.parse().unwrap() }.is_tailnet();
        let name = format!("{TAILSCALE}0");
        assert!(is(&name, "100.64.0.1") && is(&name, "100.127.255.254") && is(&name, "fd7a:115c:a1e0::53"));
        assert!(!is(&name, "100.128.0.1") && !is(&name, "100.63.0.1") && !is(&name, "fd7a:115c:a1e1::1"));
        assert!(!is("wwan0", "100.101.102.103") && !is("eth0", "100.64.0.1") && !is("wg0", "fd7a:115c:a1e0::1"));
    }

    #[test]
    fn a_bridge_is_real_when_a_device_is_below_it_whatever_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let net = temp.path();
        let make = |name: &str, entries: &[&str]| {
            for entry in entries {
                std::fs::create_dir_all(net.join(name).join(entry)).unwrap();
            }
        };
        let below = |upper: &str, lower: &str| {
            symlink(net.join(lower), net.join(upper).join(format!("lower_{lower}"))).unwrap();
        };
        make("eth0", &["device"]);
        make("veth1", &["brport"]);
        make("tap1", &["brport"]);
        make("bond0", &["bonding"]);
        for bridge in ["br0", "br-lan", "br-bond", "docker0", "br-3f2a", "virbr0", "empty", "loop"] {
            make(bridge, &["bridge"]);
        }
        below("br0", "veth1");
        below("br0", "eth0");
        below("br-lan", "eth0");
        below("bond0", "eth0");
        below("br-bond", "bond0");
        below("docker0", "veth1");
        below("br-3f2a", "veth1");
        below("virbr0", "tap1");
        below("loop", "loop");
        for real in ["eth0", "br0", "br-lan", "br-bond", "bond0", "wg0", "tailscale0", "wlan0"] {
            assert!(!is_inside(real, net), "{real}");
        }
        for inside in ["docker0", "br-3f2a", "virbr0", "empty", "loop", "veth1", "podman1", "cali0"] {
            assert!(is_inside(inside, net), "{inside}");
        }
    }
}
