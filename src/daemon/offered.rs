//! What an offer shows of where this machine is: only what can really work for who reads it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;

use super::addresses::{Reachable, listens_at, reachable};
use super::interfaces;
use super::ports::Ports;
use crate::discover::tailscale;
use crate::wire::link::MAX_ADDRESSES;

/// How long an offer waits for a name. What comes later is known to the next offer.
const ASKING: Duration = Duration::from_millis(300);

/// The names by which other machines may find this one.
#[derive(Debug, Default)]
pub(super) struct Names {
    tailscale_socket: Option<PathBuf>,
    tailnet: Asked,
    local: Asked,
}

/// A name and the addresses of this machine that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    name: String,
    ips: Vec<IpAddr>,
}

impl Names {
    pub(super) fn new(tailscale_socket: Option<PathBuf>) -> Self {
        Self { tailscale_socket, ..Self::default() }
    }

    /// The tailnet's name of this machine and its own on the local network.
    async fn all(&self) -> (Option<Name>, Option<Name>) {
        let socket = self.tailscale_socket.clone();
        let tailnet = self.tailnet.within(ASKING, async move {
            let tailnet = tailscale::status(socket.as_deref()).await.ok().filter(|tailnet| tailnet.running)?;
            Some(Name { name: tailnet.own_name?, ips: tailnet.own })
        });
        tokio::join!(tailnet, self.local.within(ASKING, local()))
    }
}

/// `HOST.local`, where that leads to this machine.
async fn local() -> Option<Name> {
    let host = nix::unistd::gethostname().ok()?;
    let label = host.to_str()?.split('.').next().filter(|label| !label.is_empty() && *label != "localhost")?;
    let name = format!("{label}.local");
    let resolved: Vec<IpAddr> = lookup_host((name.as_str(), 0)).await.ok()?.map(|found| found.ip()).collect();
    let own = interfaces::reachable().into_iter().map(|interface| interface.ip);
    let ips: Vec<IpAddr> = own.filter(|ip| !ip.is_loopback() && resolved.contains(ip)).collect();
    (!ips.is_empty()).then_some(Name { name, ips })
}

/// Where the other machine may reach this one, `host:port` each, the likeliest first; within 500 ms.
pub(super) async fn offered(ports: &Ports) -> Vec<String> {
    let (tailnet, local) = ports.names.all().await;
    let ports = ports.all();
    arranged(&ports, reachable(&ports), tailnet, local)
}

/// The default route's addresses, then the tailnet's and the names, then the others.
fn arranged(
    ports: &[SocketAddr],
    reachable: Vec<Reachable>,
    tailnet: Option<Name>,
    local: Option<Name>,
) -> Vec<String> {
    let is_tailnets = |found: &Reachable| match &tailnet {
        Some(name) => name.ips.contains(&found.address.ip()),
        None => found.in_tailnet,
    };
    // Without a way to the world every network is as likely as another.
    let has_route = reachable.iter().any(|found| found.on_route);
    let rank = |found: &Reachable| match (found.on_route, is_tailnets(found), found.address.is_ipv6()) {
        (true, _, false) => 0,
        (true, _, true) => 1,
        (false, true, false) => 2,
        (false, false, false) => {
            if has_route {
                5
            } else {
                0
            }
        }
        (false, true, true) => 6,
        (false, false, true) => 7,
    };
    let mut all: Vec<(u8, String)> = Vec::new();
    let mut v6_of: Vec<String> = Vec::new();
    // An interface may have an IPv6 address for each day; one is enough to be found at.
    for found in &reachable {
        if found.address.is_ipv6() && v6_of.contains(&found.interface) {
            continue;
        }
        if found.address.is_ipv6() {
            v6_of.push(found.interface.clone());
        }
        all.push((rank(found), found.address.to_string()));
    }
    for (rank, name) in [(3, &tailnet), (4, &local)] {
        let Some(name) = name else { continue };
        let taken = |port: &&SocketAddr| name.ips.iter().any(|ip| listens_at(**port, *ip));
        all.extend(ports.iter().find(taken).map(|port| (rank, format!("{}:{}", name.name, port.port()))));
    }
    all.sort_by_key(|(rank, _)| *rank);
    all.truncate(MAX_ADDRESSES);
    all.into_iter().map(|(_, address)| address).collect()
}

/// Something that is asked in the background, and what was answered last.
#[derive(Debug, Default)]
struct Asked {
    known: Arc<Mutex<Option<Name>>>,
    asking: Arc<Turn<()>>,
}

impl Asked {
    /// What `ask` answers, or what was answered last where that takes longer than `limit`. While it
    /// is being asked it is not asked again.
    async fn within(&self, limit: Duration, ask: impl Future<Output = Option<Name>> + Send + 'static) -> Option<Name> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Ok(turn) = Arc::clone(&self.asking).try_lock_owned() {
            let answer = Arc::clone(&self.known);
            let asking = tokio::spawn(async move {
                let answered = ask.await;
                *answer.lock().unwrap_or_else(PoisonError::into_inner) = answered;
                drop(turn);
            });
            let _ = timeout(limit, asking).await;
        } else {
            let _ = timeout(limit, self.asking.lock()).await;
        }
        known()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn at(address: &str, interface: &str, on_route: bool, in_tailnet: bool) -> Reachable {
        Reachable { address: address.parse().unwrap(), interface: interface.into(), on_route, in_tailnet }
    }

    fn name(name: &str, ips: &[&str]) -> Option<Name> {
        Some(Name { name: name.into(), ips: ips.iter().map(|ip| ip.parse().unwrap()).collect() })
    }

    #[test]
    fn the_likeliest_comes_first_and_names_before_addresses_of_other_interfaces() {
        let reachable = vec![
            at("192.168.1.5:7433", "eth0", true, false),
            at("[2001:db8::5]:7433", "eth0", true, false),
            at("100.101.102.103:7433", "ts9", false, false),
            at("[fd7a:115c:a1e0::5]:7433", "ts9", false, false),
            at("10.8.0.2:7433", "wg0", false, false),
            at("[2001:db8::77]:7433", "eth0", false, false),
        ];
        let ports = ["[::]:7433".parse().unwrap()];
        let tailnet = name("laptop.tail1.ts.net", &["100.101.102.103", "fd7a:115c:a1e0::5"]);
        let offered = arranged(&ports, reachable.clone(), tailnet.clone(), name("laptop.local", &["192.168.1.5"]));
        assert_eq!(
            offered,
            [
                "192.168.1.5:7433",
                "[2001:db8::5]:7433",
                "100.101.102.103:7433",
                "laptop.tail1.ts.net:7433",
                "laptop.local:7433",
                "10.8.0.2:7433",
                "[fd7a:115c:a1e0::5]:7433",
            ]
        );
        // A name is shown only where what it stands for is listened on.
        let ports = ["10.8.0.2:7433".parse().unwrap()];
        let offered = arranged(&ports, reachable[4..5].to_vec(), tailnet, name("laptop.local", &["192.168.1.5"]));
        assert_eq!(offered, ["10.8.0.2:7433"]);
        let many = (1..20).map(|n| at(&format!("10.0.0.{n}:1"), "eth0", false, false)).collect();
        assert_eq!(arranged(&[], many, None, None).len(), MAX_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_slowly_is_asked_once_and_known_the_next_time() {
        let asked = Asked::default();
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            name("late", &[])
        };
        let begun = Instant::now();
        assert_eq!(asked.within(ASKING, slow()).await, None);
        assert_eq!(asked.within(ASKING, async { panic!("asked twice at once") }).await, None);
        assert_eq!(begun.elapsed(), ASKING * 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(asked.within(ASKING, slow()).await, name("late", &[]));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(asked.within(ASKING, async { None }).await, None, "what is known is not kept for ever");
    }
}
