//! The local network: machines that announce themselves there over multicast DNS (RFC 6762, RFC 6763).
//!
//! An announcement has an address, a port and a name made up for it alone; who it is, nobody learns.
//! Anyone on the network can answer anything, so what comes from there is a hint where to look, and
//! never leads off the network it came from.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, IfPredicate, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};

use crate::identity::random;
use crate::wire::error::{Code, Failure};

/// Most announcements that one look takes.
pub const MAX_MACHINES: usize = 64;
/// Most addresses that an announcement may have; more are left out.
const MAX_ADDRESSES: usize = 4;

const SERVICE: &str = "_pi-remote._tcp.local.";
/// Of the TXT record: its version, and that a pairing window is open.
const VERSION: (&str, &str) = ("v", "1");
const OFFERING: (&str, &str) = ("offering", "1");
const PORT: u16 = 5353;
/// How long the thread that speaks mDNS may take to withdraw what is announced, and to end.
const ENDING: Duration = Duration::from_millis(250);

/// A machine that announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Where it says that it is, all on this machine's networks; never empty, IPv4 first.
    pub addresses: Vec<SocketAddr>,
    /// Whether it says that a pairing window is open.
    pub offering: bool,
}

/// This machine is announced until this is dropped, which takes up to a quarter of a second.
#[derive(Debug)]
pub struct Announcement {
    _speaker: Speaker,
}

/// Announces that this machine takes connections at `port` of these addresses, on their networks alone.
///
/// # Errors
/// [`Code::Io`] when mDNS cannot be spoken here; [`Code::Unreachable`] without an address.
pub fn announce(port: u16, addresses: &[IpAddr], offering: bool) -> Result<Announcement, Failure> {
    let speaker = Speaker::start(addresses)?;
    // Made up anew each time, so that no two announcements can be told to be one machine's.
    let name = random::<3>()?.iter().fold("pi-remote-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let said: &[(&str, &str)] = if offering { &[VERSION, OFFERING] } else { &[VERSION] };
    let service = ServiceInfo::new(SERVICE, &name, &format!("{name}.local."), addresses, port, said);
    let service = service.map_err(unspeakable)?;
    speaker.mdns.register(service).map_err(unspeakable)?;
    Ok(Announcement { _speaker: speaker })
}

/// Who announces itself on the networks of `addresses`, this machine's own, as far as it answers in
/// `time`. At most [`MAX_MACHINES`].
///
/// # Errors
/// As of [`announce`].
pub async fn browse(addresses: &[IpAddr], time: Duration) -> Result<Vec<Announced>, Failure> {
    let until = Instant::now() + time;
    let networks = networks(addresses);
    let speaker = Speaker::start(addresses)?;
    let events = speaker.mdns.browse(SERVICE).map_err(unspeakable)?;
    // Dropping this future ends the speaker, and with it the events.
    let found = tokio::task::spawn_blocking(move || listen(&events, &networks, until));
    let found = found.await.map_err(unspeakable)?;
    drop(speaker);
    Ok(found)
}

fn listen(events: &Receiver<ServiceEvent>, networks: &[Network], until: Instant) -> Vec<Announced> {
    let mut found: HashMap<String, Announced> = HashMap::new();
    while let Ok(event) = events.recv_deadline(until) {
        if let ServiceEvent::ServiceResolved(service) = event {
            let Some(announced) = read(&service, networks) else { continue };
            if found.len() < MAX_MACHINES || found.contains_key(&service.fullname) {
                found.insert(service.fullname, announced);
            }
        } else if let ServiceEvent::ServiceRemoved(_, name) = event {
            found.remove(&name);
        }
    }
    found.into_values().collect()
}

/// What an announcement says, as far as it can be true.
fn read(service: &ResolvedService, networks: &[Network]) -> Option<Announced> {
    let says = |(key, value): (&str, &str)| service.get_property_val_str(key) == Some(value);
    let ips = service.addresses.iter().map(|ip| ip.to_ip_addr().to_canonical());
    let mut addresses: Vec<SocketAddr> = ips
        .filter(|ip| networks.iter().any(|network| network.has_other(*ip)))
        .map(|ip| SocketAddr::new(ip, service.port))
        .collect();
    addresses.sort_unstable();
    addresses.truncate(MAX_ADDRESSES);
    let usable = says(VERSION) && service.port != 0 && !addresses.is_empty();
    usable.then(|| Announced { addresses, offering: says(OFFERING) })
}

/// A network that this machine is on.
#[derive(Debug, Clone, Copy)]
struct Network {
    own: IpAddr,
    mask: IpAddr,
}

impl Network {
    /// Whether `ip` is another machine's in it.
    fn has_other(self, ip: IpAddr) -> bool {
        match (self.own, self.mask, ip) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(ip)) => {
                let (network, broadcast) = (own & mask, own | !mask);
                let is_some = ip != network && ip != broadcast && ip != Ipv4Addr::BROADCAST && !ip.is_multicast();
                ip & mask == network && ip != own && is_some
            }
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(ip)) => {
                ip & mask == own & mask && ip != own && !ip.is_multicast() && !ip.is_unspecified()
            }
            (IpAddr::V4(_) | IpAddr::V6(_), ..) => false,
        }
    }
}

fn networks(addresses: &[IpAddr]) -> Vec<Network> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let networks = all.filter_map(|interface| {
        let (address, mask) = (interface.address?, interface.netmask?);
        let v4 = || Some((address.as_sockaddr_in()?.ip().into(), mask.as_sockaddr_in()?.ip().into()));
        let v6 = || Some((address.as_sockaddr_in6()?.ip().into(), mask.as_sockaddr_in6()?.ip().into()));
        let (own, mask) = v4().or_else(v6)?;
        Some(Network { own, mask })
    });
    networks.filter(|network| addresses.contains(&network.own)).collect()
}

/// The thread that speaks mDNS, and its sockets: there for as long as this is.
struct Speaker {
    mdns: ServiceDaemon,
}

impl Speaker {
    /// Speaks on the interfaces that have these addresses, and on no other.
    fn start(addresses: &[IpAddr]) -> Result<Self, Failure> {
        if addresses.is_empty() {
            return Err(Failure::new(Code::Unreachable, "this machine is on no network that another machine is on")
                .hint("connect it to one"));
        }
        try_port()?;
        let speaker = Self { mdns: ServiceDaemon::new().map_err(unspeakable)? };
        let wanted: HashSet<IpAddr> = addresses.iter().copied().collect();
        let others = IfPredicate::new(move |interface| !wanted.contains(&interface.ip()));
        speaker.mdns.disable_interface(IfKind::Predicate(others)).map_err(unspeakable)?;
        Ok(speaker)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // It withdraws what is announced first; the process may be about to end.
        if let Ok(ended) = self.mdns.shutdown() {
            let _ = ended.recv_timeout(ENDING);
        }
    }
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Speaker")
    }
}

/// Whether mDNS can be spoken here: the thread keeps to itself that it cannot.
fn try_port() -> Result<(), Failure> {
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())
    };
    bind().map_err(|error| {
        Failure::new(Code::Io, format!("cannot use UDP port {PORT}, which mDNS needs: {error}"))
            .hint(format!("sudo ss -ulpn 'sport = :{PORT}'"))
    })
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn unspeakable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Io, format!("mDNS: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, ips: &[&str], said: &[(&str, &str)]) -> ResolvedService {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        ServiceInfo::new(SERVICE, "x", "x.local.", &ips[..], port, said).unwrap().as_resolved_service()
    }

    fn networks() -> Vec<Network> {
        let network = |own: &str, mask: &str| Network { own: own.parse().unwrap(), mask: mask.parse().unwrap() };
        vec![network("192.168.1.7", "255.255.255.0"), network("2001:db8::7", "ffff:ffff:ffff:ffff::")]
    }

    #[test]
    fn an_announcement_leads_to_other_machines_on_the_same_network_and_nowhere_else() {
        let lies = [
            "192.168.1.7",
            "192.168.1.0",
            "192.168.1.255",
            "192.168.2.9",
            "127.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "169.254.1.1",
            "8.8.8.8",
            "::1",
            "fe80::1",
            "ff02::fb",
            "::ffff:127.0.0.1",
            "2001:db8::7",
            "2001:db8:0:1::1",
        ];
        assert_eq!(read(&service(7433, &lies, &[VERSION]), &networks()), None);
        let both = [&lies[..], &["192.168.1.9", "2001:db8::9"]].concat();
        let announced = read(&service(80, &both, &[VERSION, OFFERING]), &networks()).unwrap();
        let addresses = ["192.168.1.9:80", "[2001:db8::9]:80"].map(|address| address.parse().unwrap());
        assert_eq!(announced, Announced { addresses: addresses.to_vec(), offering: true });
    }

    #[test]
    fn an_announcement_of_another_version_or_without_a_port_is_none() {
        let good = ["192.168.1.9"];
        let is_read = |port, said: &[(&str, &str)]| read(&service(port, &good, said), &networks()).map(|a| a.offering);
        assert_eq!(is_read(1, &[VERSION]), Some(false));
        assert_eq!(is_read(1, &[VERSION, ("offering", "yes")]), Some(false));
        assert_eq!(is_read(0, &[VERSION]), None);
        assert_eq!(is_read(1, &[("v", "2"), OFFERING]), None);
        assert_eq!(is_read(1, &[]), None);
    }

    #[test]
    fn of_many_addresses_a_few_are_kept() {
        let many: Vec<String> = (10..200).map(|n| format!("192.168.1.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&service(1, &many, &[VERSION]), &networks()).unwrap().addresses.len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn without_a_network_nothing_is_started() {
        assert_eq!(announce(1, &[], true).unwrap_err().code, Code::Unreachable);
        assert_eq!(browse(&[], Duration::from_secs(9)).await.unwrap_err().code, Code::Unreachable);
    }
}
