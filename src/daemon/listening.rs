//! Where peers are listened for: at addresses that stay, and at the tailnet's as they come and go.

use std::collections::HashMap;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::addresses::{has_ipv6, listens_at};
use super::interfaces::{self, Interface};
use super::offered::Names;
use super::ports::Ports;
use super::taken::not_bound;
use crate::config::{ListenAddr, Settings};
use crate::discover::tailscale;
use crate::link::listener::{Door, Port, serve};
use crate::link::tls::TlsIdentity;
use crate::state_dir::StateDir;
use crate::tasks::Tasks;
use crate::wire::Failure;

/// How often the tailnet's addresses are looked at: one system call, as long as nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// As long as that after a change, since others may follow: an IPv6 address takes a second to be usable.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How old `tailscaled`'s word on them may be when the interfaces are as they were.
const TOLD_FOR: Duration = Duration::from_secs(60);
/// How long it may take over it.
const TELLING: Duration = Duration::from_secs(1);
/// What is missing while the tailnet is down.
const NO_TAILNET: &str = "no tailnet address now";

/// The ports that are to be listened on.
pub(super) struct Listening {
    ports: Ports,
    fixed: Vec<Port>,
    tailnet: Option<(Tailnet, Vec<Port>)>,
}

impl Listening {
    /// Reserves the ports that the settings ask for; of the tailnet's addresses those there are.
    ///
    /// # Errors
    /// When one cannot be had: the failure says why, and who has it.
    pub(super) async fn reserve(settings: &Settings, tls: &TlsIdentity, dir: &StateDir) -> Result<Self, Failure> {
        let socket = settings.tailscale_socket.value.clone();
        let ports = Ports::with(Names::new(socket.clone()));
        let fixed = match reserve_fixed(settings) {
            Ok(fixed) => fixed,
            Err((address, error)) => return Err(not_bound(address, &error, settings, tls, dir).await),
        };
        fixed.iter().for_each(|port| ports.take(port.address()));
        let mut tailnet = None;
        if settings.listen.value.contains(&ListenAddr::Tailscale) {
            let mut followed = Tailnet::new(socket, settings.port.value);
            let mut found = Vec::new();
            for ip in followed.look().await {
                let address = followed.at(ip);
                if is_covered(&fixed, address) || is_covered(&found, address) {
                    continue;
                }
                match Port::reserve(address) {
                    Ok(port) => {
                        ports.take(port.address());
                        found.push(port);
                        followed.settle(&found);
                    }
                    Err(error) => return Err(not_bound(address, &error, settings, tls, dir).await),
                }
            }
            tailnet = Some((followed, found));
        }
        let listening = Self { ports, fixed, tailnet };
        if listening.fixed.is_empty() && listening.ports.all().is_empty() {
            listening.ports.miss("tailscale", Some(NO_TAILNET));
            tracing::info!("tailscale: {NO_TAILNET}; it is listened on as soon as there is one");
        }
        Ok(listening)
    }

    /// The addresses bound, as they come and go.
    pub(super) fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// Listens whenever `wanted` says so, and follows the tailnet.
    pub(super) async fn run(self, wanted: watch::Receiver<bool>, door: Door, tasks: Tasks) {
        let kept: Vec<SocketAddr> = self.fixed.iter().map(Port::address).collect();
        for port in self.fixed {
            tasks.spawn(serve(port, wanted.clone(), door.clone(), pending()));
        }
        let Some((mut tailnet, found)) = self.tailnet else { return };
        let mut held: HashMap<SocketAddr, oneshot::Sender<()>> = HashMap::new();
        let hold = |port: Port| {
            let (release, released) = oneshot::channel::<()>();
            tasks.spawn(serve(port, wanted.clone(), door.clone(), async {
                let _ = released.await;
            }));
            release
        };
        held.extend(found.into_iter().map(|port| (port.address(), hold(port))));
        loop {
            let ips = tailnet.look().await;
            let mut changed = false;
            held.retain(|address, _| {
                let stays = ips.contains(&address.ip());
                if !stays {
                    tracing::info!(%address, "not a tailnet address any more: released");
                    self.ports.release(*address);
                    changed = true;
                }
                stays
            });
            for ip in &ips {
                let address = tailnet.at(*ip);
                if held.contains_key(&address) || kept.iter().any(|port| covers(*port, address)) {
                    continue;
                }
                match Port::reserve(address) {
                    Ok(port) => {
                        let address = port.address();
                        tracing::info!(%address, "a tailnet address: bound");
                        tailnet.settle(std::slice::from_ref(&port));
                        self.ports.take(address);
                        held.insert(address, hold(port));
                        changed = true;
                    }
                    Err(error) => {
                        tracing::debug!(%address, %error, "a tailnet address cannot be bound");
                        self.ports.lose(address, &in_words(&error));
                    }
                }
            }
            self.ports.miss("tailscale", ips.is_empty().then_some(NO_TAILNET));
            self.ports.forget(|address| kept.contains(address) || ips.contains(&address.ip()));
            tokio::select! {
                () = sleep(if changed { LOOK_AGAIN } else { LOOK_EVERY }) => {}
                () = self.ports.asked_to_look() => tailnet.seen = None,
            }
        }
    }
}

/// Why a port cannot be listened on, in a few words.
pub(super) fn in_words(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == ErrorKind::AddrInUse {
        "another program has it".into()
    } else if kind == ErrorKind::AddrNotAvailable {
        "no interface has this address now".into()
    } else {
        error.to_string()
    }
}

/// The addresses that these settings ask for and that stay, those that stand for many first. None are
/// the tailnet's.
pub fn fixed_addresses(settings: &Settings) -> Vec<SocketAddr> {
    let port = settings.port.value;
    let address = |listen: &ListenAddr| match listen {
        ListenAddr::All => Some((Ipv6Addr::UNSPECIFIED, port).into()),
        ListenAddr::Loopback => Some((Ipv4Addr::LOCALHOST, port).into()),
        ListenAddr::Ip(ip, own) => Some((*ip, own.unwrap_or(port)).into()),
        ListenAddr::Tailscale => None,
    };
    let mut addresses: Vec<SocketAddr> = settings.listen.value.iter().filter_map(address).collect();
    addresses.sort_by_key(|address| (!address.ip().is_unspecified(), address.is_ipv4()));
    addresses
}

/// Reserves the [`fixed_addresses`], none that is listened on with another.
///
/// # Errors
/// The first that cannot be had, and why.
pub fn reserve_fixed(settings: &Settings) -> Result<Vec<Port>, (SocketAddr, io::Error)> {
    let mut reserved = Vec::new();
    for address in fixed_addresses(settings) {
        if !is_covered(&reserved, address) {
            reserved.push(reserve(address).map_err(|error| (address, error))?);
        }
    }
    Ok(reserved)
}

/// Reserves an address, in place of all of IPv6 all of IPv4 where there is nothing else.
pub(super) fn reserve(address: SocketAddr) -> io::Result<Port> {
    let bound = Port::reserve(address);
    if bound.as_ref().is_err_and(|error| error.kind() != ErrorKind::AddrInUse)
        && address.ip() == Ipv6Addr::UNSPECIFIED
        && !has_ipv6()
    {
        tracing::debug!("no IPv6");
        return Port::reserve((Ipv4Addr::UNSPECIFIED, address.port()).into());
    }
    bound
}

fn is_covered(reserved: &[Port], address: SocketAddr) -> bool {
    reserved.iter().any(|port| covers(port.address(), address))
}

/// Whether who listens at one address listens at another with it.
fn covers(port: SocketAddr, address: SocketAddr) -> bool {
    port.port() == address.port() && listens_at(port, address.ip())
}

/// This machine's addresses in its tailnet.
struct Tailnet {
    socket: Option<PathBuf>,
    port: u16,
    /// The interfaces as they were when `tailscaled` was asked.
    seen: Option<Vec<Interface>>,
    /// What it answered, if it did.
    told: Option<Vec<IpAddr>>,
    asked: Instant,
}

impl Tailnet {
    fn new(socket: Option<PathBuf>, port: u16) -> Self {
        Self { socket, port, seen: None, told: None, asked: Instant::now() }
    }

    fn at(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.port)
    }

    /// A port that the system has chosen stays the same for all addresses.
    fn settle(&mut self, chosen: &[Port]) {
        self.port = chosen.first().map_or(self.port, |port| port.address().port());
    }

    /// The addresses now: those that `tailscaled` calls this machine's and an interface really has;
    /// where it does not answer, those that look like it.
    async fn look(&mut self) -> Vec<IpAddr> {
        let interfaces = interfaces::all();
        let is_known = self.seen.as_ref() == Some(&interfaces) && self.asked.elapsed() < TOLD_FOR;
        if !is_known || self.told.is_none() {
            let told = timeout(TELLING, tailscale::own(self.socket.as_deref())).await.ok().and_then(Result::ok);
            self.told = told.map(|tailnet| if tailnet.running { tailnet.own } else { Vec::new() });
            self.asked = Instant::now();
        }
        let is_own = |interface: &&Interface| match &self.told {
            Some(own) => own.contains(&interface.ip),
            None => interface.is_tailnet(),
        };
        let mut ips: Vec<IpAddr> = interfaces.iter().filter(is_own).map(|interface| interface.ip).collect();
        ips.dedup();
        self.seen = Some(interfaces);
        ips
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn tailscaled_is_not_asked_again_while_nothing_changes() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("tailscaled.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            const ANSWER: &str = r#"{"BackendState":"Running","Self":{"TailscaleIPs":[]},"Peer":null}"#;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", ANSWER.len());
                let _ = stream.write_all((head + ANSWER).as_bytes()).await;
            }
        });
        let mut tailnet = Tailnet::new(Some(socket), 1);
        tailnet.look().await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        for _ in 0..3 {
            let (seen, before) = (tailnet.seen.clone(), asked.load(Ordering::SeqCst));
            tailnet.look().await;
            // Of interfaces that others have changed meanwhile it would be asked.
            if tailnet.seen == seen && tailnet.told.is_some() {
                assert_eq!(asked.load(Ordering::SeqCst), before);
            }
        }
        tailnet.seen = None;
        let before = asked.load(Ordering::SeqCst);
        tailnet.look().await;
        assert_eq!(asked.load(Ordering::SeqCst), before + 1);
    }
}
