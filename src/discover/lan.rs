//! The local network: machines that announce themselves there over multicast DNS (RFC 6762, RFC 6763).
//!
//! An announcement has an address, a port and a name made up for it alone; who it is, nobody learns.
//! Anyone on the network can answer anything, so what comes from there is a hint where to look, and
//! never leads off the network it came from. Nothing that comes is kept but what one look found.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::mdns::{self, Instance, MAX_MESSAGE};
use crate::identity::random;
use crate::wire::error::{Code, Failure};

/// Most announcements that one look takes, and most of one sender.
pub const MAX_MACHINES: usize = 64;
const MAX_OF_ONE: usize = 4;
/// Most addresses that an announcement may have; more are left out.
const MAX_ADDRESSES: usize = 4;

/// Of the TXT record: its version, and that a pairing window is open.
const VERSION: &str = "v=1";
const OFFERING: &str = "offering=1";
const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Announced twice unasked, and asked twice, a second apart; nothing is said again before (RFC 6762, 6 and 8.3).
const TIMES: usize = 2;
const PAUSE: Duration = Duration::from_secs(1);
/// An answer that others may give too waits for 20 ms and for up to so much more (RFC 6762, 6).
const ANSWER_AFTER: Duration = Duration::from_millis(20);
const ANSWER_SPREAD: u64 = 100;
/// Pause after a socket could not be read.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// Messages read and not yet looked at; when there are more, reading waits.
const QUEUE: usize = 16;

/// A machine that announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Where it says that it is, all on this machine's networks; never empty, IPv4 first.
    pub addresses: Vec<SocketAddr>,
    /// Whether it says that a pairing window is open.
    pub offering: bool,
}

/// This machine is announced until this is dropped, which says goodbye and waits for nothing.
#[derive(Debug)]
pub struct Announcement {
    voices: Vec<(Arc<Voice>, Instance)>,
    /// Ends when it is dropped.
    _speaking: JoinSet<()>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        for (voice, instance) in &self.voices {
            // Whoever misses it forgets in two minutes.
            let goodbye = mdns::announcement(&Instance { gone: true, ..instance.clone() });
            let _ = voice.socket.try_send_to(&goodbye, voice.group);
        }
    }
}

/// Announces that this machine takes connections at `port` of these addresses, on their networks alone.
/// It does so on the runtime that it is called on.
///
/// # Errors
/// [`Code::Io`] when mDNS cannot be spoken here; [`Code::Unreachable`] without an address.
pub fn announce(port: u16, addresses: &[IpAddr], offering: bool) -> Result<Announcement, Failure> {
    // Made up anew each time, so that no two announcements can be told to be one machine's.
    let label = random::<3>()?.iter().fold("pi-remote-".to_owned(), |label, byte| format!("{label}{byte:02x}"));
    let said: &[&str] = if offering { &[VERSION, OFFERING] } else { &[VERSION] };
    let said: Vec<Vec<u8>> = said.iter().map(|text| text.as_bytes().to_vec()).collect();
    let mut speaking = JoinSet::new();
    let mut voices = Vec::new();
    for voice in voices_at(addresses)? {
        let addresses = voice.networks.iter().map(|network| network.own).collect();
        let (label, said) = (label.clone().into_bytes(), said.clone());
        let instance = Instance { label, port, addresses, said, gone: false };
        let voice = Arc::new(voice);
        speaking.spawn(keep_announced(Arc::clone(&voice), instance.clone()));
        voices.push((voice, instance));
    }
    Ok(Announcement { voices, _speaking: speaking })
}

async fn keep_announced(voice: Arc<Voice>, instance: Instance) {
    let message = mdns::announcement(&instance);
    let mut unasked = TIMES;
    let mut said_at = None::<Instant>;
    let mut due = Some(Instant::now());
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        tokio::select! {
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                voice.say(&message).await;
                let now = Instant::now();
                unasked = unasked.saturating_sub(1);
                said_at = Some(now);
                due = (unasked > 0).then_some(now + PAUSE);
            }
            (heard, _) = voice.hear(&mut buffer) => {
                if due.is_none() && mdns::asks_for(heard, &instance.label) {
                    let spread = random::<1>().map_or(0, |[byte]| u64::from(byte) % ANSWER_SPREAD);
                    let soon = Instant::now() + ANSWER_AFTER + Duration::from_millis(spread);
                    due = Some(said_at.map_or(soon, |at| soon.max(at + PAUSE)));
                }
            }
        }
    }
}

/// Who announces itself on the networks of `addresses`, this machine's own, as far as it answers in
/// `time`. At most [`MAX_MACHINES`].
///
/// # Errors
/// As of [`announce`].
pub async fn browse(addresses: &[IpAddr], time: Duration) -> Result<Vec<Announced>, Failure> {
    let until = Instant::now() + time;
    let (heard, mut told) = mpsc::channel(QUEUE);
    let mut listening = JoinSet::new();
    for voice in voices_at(addresses)? {
        let (voice, heard) = (Arc::new(voice), heard.clone());
        let asking = Arc::clone(&voice);
        listening.spawn(async move {
            let question = mdns::question();
            for _ in 0..TIMES {
                asking.say(&question).await;
                sleep(PAUSE).await;
            }
        });
        listening.spawn(async move {
            let mut buffer = vec![0; MAX_MESSAGE];
            loop {
                let (message, from) = voice.hear(&mut buffer).await;
                for instance in mdns::instances(message) {
                    let announced = read(&instance, from, &voice.networks);
                    if heard.send((from, instance, announced)).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    let mut found = Found::default();
    while let Ok(Some((from, instance, announced))) = timeout_at(until, told.recv()).await {
        found.take(from, instance, announced);
    }
    Ok(found.0.into_values().collect())
}

/// What a look has found, by sender and label: nobody speaks for another.
#[derive(Default)]
struct Found(HashMap<(IpAddr, Vec<u8>), Announced>);

impl Found {
    fn take(&mut self, from: IpAddr, instance: Instance, announced: Option<Announced>) {
        let key = (from, instance.label);
        if instance.gone {
            self.0.remove(&key);
        } else if let Some(announced) = announced {
            let of_it = self.0.keys().filter(|(ip, _)| *ip == from).count();
            if self.0.contains_key(&key) || (self.0.len() < MAX_MACHINES && of_it < MAX_OF_ONE) {
                self.0.insert(key, announced);
            }
        }
    }
}

/// What an announcement says, as far as it can be true. An IPv4 address is its sender's own: nobody
/// is led to a third machine.
fn read(instance: &Instance, from: IpAddr, networks: &[Network]) -> Option<Announced> {
    let says = |text: &str| instance.said.iter().any(|said| said == text.as_bytes());
    let ips = instance.addresses.iter().map(IpAddr::to_canonical);
    let mut addresses: Vec<SocketAddr> = ips
        .filter(|ip| networks.iter().any(|network| network.has_other(*ip)))
        .filter(|ip| ip.is_ipv6() || *ip == from)
        .map(|ip| SocketAddr::new(ip, instance.port))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    let usable = says(VERSION) && instance.port != 0 && !addresses.is_empty();
    usable.then(|| Announced { addresses, offering: says(OFFERING) })
}

/// A socket that speaks and hears mDNS at one interface.
#[derive(Debug)]
struct Voice {
    socket: UdpSocket,
    group: SocketAddr,
    /// The interface's, as far as they are wanted.
    networks: Vec<Network>,
}

impl Voice {
    async fn say(&self, message: &[u8]) {
        // A network that is down now is asked or told again.
        let _ = self.socket.send_to(message, self.group).await;
    }

    /// The next message from another machine on the interface's networks.
    async fn hear<'a>(&self, buffer: &'a mut [u8]) -> (&'a [u8], IpAddr) {
        loop {
            match self.socket.recv_from(buffer).await {
                Ok((length, from)) if self.is_near(from.ip()) => {
                    return (buffer.get(..length).unwrap_or_default(), from.ip());
                }
                Ok(_) => {}
                Err(_) => sleep(AFTER_ERROR).await,
            }
        }
    }

    fn is_near(&self, from: IpAddr) -> bool {
        let link_local = matches!(from, IpAddr::V6(ip) if ip.is_unicast_link_local());
        link_local || self.networks.iter().any(|network| network.has_other(from))
    }
}

/// One for each interface that has one of these addresses, over IPv4 where it has that.
fn voices_at(addresses: &[IpAddr]) -> Result<Vec<Voice>, Failure> {
    let mut voices = Vec::new();
    for (interface, networks) in interfaces(addresses) {
        let own_v4 = networks.iter().find_map(|network| match network.own {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let socket = own_v4.map_or_else(|| socket_v6(&interface), socket_v4);
        let socket = socket.and_then(|socket| UdpSocket::from_std(socket.into())).map_err(|error| {
            Failure::new(Code::Io, format!("cannot use UDP port {PORT}, which mDNS needs, on {interface}: {error}"))
                .hint(format!("sudo ss -ulpn 'sport = :{PORT}'"))
        })?;
        let group = SocketAddr::new(own_v4.map_or(GROUP_V6.into(), |_| GROUP_V4.into()), PORT);
        voices.push(Voice { socket, group, networks });
    }
    if voices.is_empty() {
        return Err(Failure::new(Code::Unreachable, "this machine is on no network that another machine is on")
            .hint("connect it to one"));
    }
    Ok(voices)
}

fn socket_v4(own: Ipv4Addr) -> io::Result<Socket> {
    let socket = shared(Domain::IPV4)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.join_multicast_v4(&GROUP_V4, &own)?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(255)?;
    Ok(socket)
}

fn socket_v6(interface: &str) -> io::Result<Socket> {
    let socket = shared(Domain::IPV6)?;
    let index = if_nametoindex(interface)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    Ok(socket)
}

/// One at a port that other programs speak mDNS at too.
fn shared(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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

/// The networks of these addresses by interface.
fn interfaces(addresses: &[IpAddr]) -> BTreeMap<String, Vec<Network>> {
    let mut interfaces = BTreeMap::<String, Vec<Network>>::new();
    for interface in getifaddrs().into_iter().flatten() {
        let (Some(address), Some(mask)) = (interface.address, interface.netmask) else { continue };
        let v4 = || Some((address.as_sockaddr_in()?.ip().into(), mask.as_sockaddr_in()?.ip().into()));
        let v6 = || Some((address.as_sockaddr_in6()?.ip().into(), mask.as_sockaddr_in6()?.ip().into()));
        if let Some((own, mask)) = v4().or_else(v6)
            && addresses.contains(&own)
        {
            interfaces.entry(interface.interface_name).or_default().push(Network { own, mask });
        }
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, ips: &[&str], said: &[&str]) -> Instance {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let said = said.iter().map(|text| text.as_bytes().to_vec()).collect();
        Instance { label: b"x".to_vec(), port, addresses, said, gone: false }
    }

    fn from() -> IpAddr {
        "192.168.1.9".parse().unwrap()
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
        assert_eq!(read(&service(7433, &lies, &[VERSION]), from(), &networks()), None);
        let both = [&lies[..], &["192.168.1.8", "192.168.1.9", "2001:db8::9"]].concat();
        let announced = read(&service(80, &both, &[VERSION, OFFERING]), from(), &networks()).unwrap();
        let addresses = ["192.168.1.9:80", "[2001:db8::9]:80"].map(|address| address.parse().unwrap());
        assert_eq!(announced, Announced { addresses: addresses.to_vec(), offering: true });
    }

    #[test]
    fn an_announcement_of_another_version_or_without_a_port_is_none() {
        let good = ["192.168.1.9"];
        let is_read = |port, said: &[&str]| read(&service(port, &good, said), from(), &networks()).map(|a| a.offering);
        assert_eq!(is_read(1, &[VERSION]), Some(false));
        assert_eq!(is_read(1, &[VERSION, "offering=yes"]), Some(false));
        assert_eq!(is_read(0, &[VERSION]), None);
        assert_eq!(is_read(1, &["v=2", OFFERING]), None);
        assert_eq!(is_read(1, &[]), None);
    }

    #[test]
    fn of_many_addresses_a_few_are_kept() {
        let many: Vec<String> = (10..200).map(|n| format!("2001:db8::{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&service(1, &many, &[VERSION]), from(), &networks()).unwrap().addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn nobody_takes_the_room_of_others_or_speaks_for_them() {
        let mut found = Found::default();
        let announced = Announced { addresses: vec![SocketAddr::new(from(), 1)], offering: true };
        let instance = |n: u8| Instance { label: vec![n], ..service(1, &[], &[]) };
        let other: IpAddr = "192.168.1.8".parse().unwrap();
        for n in 0..99 {
            found.take(from(), instance(n), Some(announced.clone()));
        }
        found.take(other, instance(0), Some(announced.clone()));
        assert_eq!(found.0.len(), MAX_OF_ONE + 1);
        found.take(from(), Instance { gone: true, ..instance(0) }, None);
        assert_eq!(found.0.len(), MAX_OF_ONE);
        assert!(found.0.contains_key(&(other, vec![0])));
        for n in 0..99 {
            found.take(Ipv4Addr::new(10, 0, 0, n).into(), instance(n), Some(announced.clone()));
        }
        assert_eq!(found.0.len(), MAX_MACHINES);
    }

    #[tokio::test]
    async fn without_a_network_nothing_is_started() {
        assert_eq!(announce(1, &[], true).unwrap_err().code, Code::Unreachable);
        assert_eq!(browse(&[], Duration::from_secs(9)).await.unwrap_err().code, Code::Unreachable);
    }
}
