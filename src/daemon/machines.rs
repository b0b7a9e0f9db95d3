//! Machines around this one: on the tailnet and on the local network, and what they do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::announcing;
use super::office::Office;
use crate::discover::{lan, tailscale};
use crate::identity::Fingerprint;
use crate::link::probe::{Probe, probe};
use crate::link::tls::TlsIdentity;
use crate::link::way::{Found as AtAddress, try_ways};
use crate::wire::control::{Machine, Machines};
use crate::wire::error::{Code, Failure};
use crate::wire::{DEFAULT_PORT, HostPort};

/// How long looking may take in all.
const LOOKING: Duration = Duration::from_secs(4);
/// How long announcements are waited for: the question is asked twice in that time.
const LISTENING: Duration = Duration::from_millis(1800);
/// Most machines of the tailnet that are looked at.
const MAX_MACHINES: usize = 64;
/// Most addresses that are probed of one announcement, and of all: strangers choose them.
const PROBES_OF_ONE: usize = 2;
const PROBES_ON_LAN: usize = 32;
/// Most probes at a time.
const PROBES: usize = 16;

/// What is found on the tailnet and, where `lan` says so, on the local network.
pub(super) async fn discover(office: &Office, lan: bool) -> Machines {
    let search = Search {
        office,
        peers: known_peers(office),
        places: Arc::new(Semaphore::new(PROBES)),
        until: Instant::now() + LOOKING,
    };
    let local = async { if lan { search.on_lan().await } else { Ok(Looked::default()) } };
    let (tailnet, local) = tokio::join!(search.on_tailnet(), local);
    let mut found = Machines::default();
    let mut seen = Vec::new();
    for (place, looked) in [("tailnet", tailnet), ("local network", local)] {
        let why = match looked {
            Ok(looked) => {
                looked.found.into_iter().for_each(|machine| search.add(machine, &mut found.machines, &mut seen));
                looked.missing
            }
            Err(Failure { message, hint, .. }) => Some(match hint {
                Some(hint) => format!("{message} (hint: {hint})"),
                None => message,
            }),
        };
        found.missing.extend(why.map(|why| format!("{place}: {why}")));
    }
    found.machines.sort_by_cached_key(|machine| {
        let running = machine.running == Some(true);
        (!machine.offering, !machine.paired, !running, machine.name.clone(), machine.address.clone())
    });
    found
}

/// One look around.
struct Search<'a> {
    office: &'a Office,
    peers: Vec<KnownPeer>,
    places: Arc<Semaphore>,
    until: Instant,
}

/// A pinned peer, as far as it tells what a machine is.
struct KnownPeer {
    name: String,
    fingerprint: Fingerprint,
    addresses: Vec<String>,
    linked: bool,
}

/// What was found in one place, and why there may be more.
#[derive(Default)]
struct Looked {
    found: Vec<Found>,
    missing: Option<String>,
}

/// A machine that may run pi-remote.
struct Found {
    name: String,
    via: &'static str,
    /// Where it may be, `host:port`, the likeliest first; never empty.
    addresses: Vec<String>,
    /// How many of them are worth a probe.
    probes: usize,
    /// Whether it says that a window is open: a reason to ask, and no more.
    offering: bool,
    /// The answer that tells most.
    answer: Option<Answer>,
}

/// What answered at one of a machine's addresses.
struct Answer {
    /// The address's place among them.
    at: usize,
    address: String,
    probe: Probe,
    /// The key that it has proven.
    proven: Option<Fingerprint>,
}

impl Answer {
    fn is_better_than(&self, other: &Self) -> bool {
        let tells = |probe: Probe| match probe {
            Probe::Unresolved | Probe::Silent { .. } => 0,
            Probe::Refused | Probe::Other | Probe::Original => 1,
            Probe::Running { .. } | Probe::Own => 2,
            Probe::Offering { .. } => 3,
        };
        let rank = |answer: &Self| (tells(answer.probe), answer.proven.is_some());
        (rank(self), other.at) > (rank(other), self.at)
    }
}

fn known_peers(office: &Office) -> Vec<KnownPeer> {
    let store = office.book.store();
    let relay = office.context.relay.lock();
    let known = store.peers().iter().map(|peer| {
        let link = relay.link_of(peer.fingerprint);
        let dialled = link.as_ref().filter(|link| link.dialled).map(|link| link.facts.address.to_string());
        KnownPeer {
            name: peer.name.to_string(),
            fingerprint: peer.fingerprint,
            addresses: dialled.into_iter().chain(peer.addresses.iter().map(|known| known.address.clone())).collect(),
            linked: link.is_some(),
        }
    });
    known.collect()
}

impl Search<'_> {
    async fn on_tailnet(&self) -> Result<Looked, Failure> {
        let socket = self.office.settings.tailscale_socket.value.as_deref();
        let slow = |_| Failure::new(Code::Timeout, "Tailscale did not answer in time").hint("tailscale status");
        let mut tailnet = timeout_at(self.until, tailscale::status(socket)).await.map_err(slow)??;
        if !tailnet.running {
            return Err(Failure::new(Code::Unreachable, "Tailscale is not connected").hint("sudo tailscale up"));
        }
        tailnet.machines.retain(|machine| !machine.addresses.is_empty());
        tailnet.machines.sort_by_key(|machine| !machine.online);
        let missing = too_many(tailnet.machines.len(), MAX_MACHINES);
        let found = tailnet.machines.iter().take(MAX_MACHINES).map(|machine| self.of_tailnet(machine)).collect();
        Ok(Looked { found: self.probed(found).await, missing })
    }

    fn of_tailnet(&self, machine: &tailscale::Machine) -> Found {
        let label = machine.dns_name.split('.').next().unwrap_or_default();
        let mut hosts: Vec<String> = machine.addresses.iter().map(ToString::to_string).collect();
        hosts.sort_by_key(|host| host.contains(':'));
        hosts.extend([label, &machine.dns_name].map(str::to_owned));
        // Where a peer is known to be goes before where it would be by default.
        let is_here = |address: &HostPort| hosts.iter().any(|host| host == address.host());
        let known = self.peers.iter().flat_map(|peer| &peer.addresses);
        let known = known.filter_map(|address| address.parse().ok()).filter(is_here);
        let usual = hosts.iter().filter_map(|host| HostPort::with_default(host, DEFAULT_PORT).ok());
        Found {
            name: if label.is_empty() { machine.host_name.clone() } else { label.to_owned() },
            via: "tailnet",
            addresses: known.chain(usual).map(|address| address.to_string()).collect(),
            probes: usize::from(machine.online),
            offering: false,
            answer: None,
        }
    }

    async fn on_lan(&self) -> Result<Looked, Failure> {
        let mut announced = lan::browse(&announcing::local_addresses(), LISTENING).await?;
        announced.sort_by_key(|machine| !machine.offering);
        let mut missing = (announced.len() == lan::MAX_MACHINES)
            .then(|| format!("{} machines answered, there may be more", announced.len()));
        let mut asked = HashSet::new();
        let mut found = Vec::new();
        for machine in announced {
            let mut addresses = machine.addresses;
            addresses.truncate(PROBES_OF_ONE);
            addresses.retain(|address| !asked.contains(address));
            let left = PROBES_ON_LAN - asked.len();
            if addresses.len() > left {
                addresses.truncate(left);
                missing.get_or_insert_with(|| format!("more than {PROBES_ON_LAN} addresses are announced there"));
            }
            // The rest of several announcements of one address, or of too many.
            if addresses.is_empty() {
                continue;
            }
            asked.extend(addresses.iter().copied());
            found.push(Found {
                name: String::new(),
                via: "lan",
                probes: addresses.len(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                offering: machine.offering,
                answer: None,
            });
        }
        Ok(Looked { found: self.probed(found).await, missing })
    }

    /// Has those probed that are not linked, or that say that they offer, as far as there is time.
    async fn probed(&self, mut all: Vec<Found>) -> Vec<Found> {
        let mut probing = JoinSet::new();
        for (n, found) in all.iter().enumerate() {
            if !found.offering && self.at(found).is_some_and(|peer| peer.linked) {
                continue;
            }
            for (at, address) in found.addresses.iter().take(found.probes).cloned().enumerate() {
                let (places, tls) = (Arc::clone(&self.places), self.office.context.tls.clone());
                let pinned: Vec<Fingerprint> = self.peers.iter().map(|peer| peer.fingerprint).collect();
                probing.spawn(async move {
                    let _place = places.acquire().await;
                    let probe = probe(&tls, &address).await;
                    let proven = match probe {
                        Probe::Offering { fingerprint } => Some(fingerprint),
                        // Anybody can show a peer's certificate: it is in every handshake.
                        Probe::Running { fingerprint } if pinned.contains(&fingerprint) => {
                            proves(&tls, fingerprint, &address).await.then_some(fingerprint)
                        }
                        Probe::Running { .. }
                        | Probe::Own
                        | Probe::Original
                        | Probe::Other
                        | Probe::Refused
                        | Probe::Silent { .. }
                        | Probe::Unresolved => None,
                    };
                    (n, Answer { at, address, probe, proven })
                });
            }
        }
        while let Ok(Some(probed)) = timeout_at(self.until, probing.join_next()).await {
            let Ok((n, answer)) = probed else { continue };
            if let Some(found) = all.get_mut(n)
                && found.answer.as_ref().is_none_or(|other| answer.is_better_than(other))
            {
                found.answer = Some(answer);
            }
        }
        all
    }

    /// Adds a machine to what clients see, or what it tells to the same machine's entry; `seen` has
    /// the keys of all entries, in their order.
    fn add(&self, found: Found, machines: &mut Vec<Machine>, seen: &mut Vec<Option<Fingerprint>>) {
        // Who shows another key than a peer's, or does not prove it, is not that peer.
        let by_place = match &found.answer {
            Some(answer) if matches!(answer.probe, Probe::Offering { .. } | Probe::Running { .. }) => None,
            Some(_) | None => self.at(&found),
        };
        let (address, answer, proven) = match found.answer {
            Some(Answer { address, probe, proven, .. }) => (address, Some(probe), proven),
            None => (found.addresses.first().cloned().unwrap_or_default(), None, None),
        };
        if answer == Some(Probe::Own) {
            return;
        }
        let peer = match proven {
            Some(key) => self.peers.iter().find(|peer| peer.fingerprint == key),
            None => by_place,
        };
        let key = proven.or(peer.map(|peer| peer.fingerprint));
        let machine = Machine {
            name: peer.map_or(found.name, |peer| peer.name.clone()),
            address,
            via: found.via.to_owned(),
            running: match answer {
                Some(Probe::Offering { .. } | Probe::Running { .. } | Probe::Own) => Some(true),
                Some(Probe::Original | Probe::Other | Probe::Refused) => Some(false),
                Some(Probe::Silent { .. } | Probe::Unresolved) => None,
                None if peer.is_some_and(|peer| peer.linked) => Some(true),
                None if found.probes == 0 => Some(false),
                None => None,
            },
            // An announcement alone leads nobody to pair.
            offering: matches!(answer, Some(Probe::Offering { .. })),
            paired: peer.is_some(),
        };
        let is_same = |(at, other): (&Machine, &Option<Fingerprint>)| {
            at.address == machine.address || (key.is_some() && key == *other)
        };
        if let Some(n) = machines.iter().zip(&*seen).position(is_same)
            && let Some(known) = machines.get_mut(n)
        {
            known.offering |= machine.offering;
            if machine.running > known.running {
                (known.running, known.address, known.via) = (machine.running, machine.address, machine.via);
            }
        } else {
            machines.push(machine);
            seen.push(key);
        }
    }

    /// The peer that is known to be at one of these addresses. On the local network they are anybody's,
    /// so there it must be linked.
    fn at(&self, found: &Found) -> Option<&KnownPeer> {
        let is_here = |peer: &&KnownPeer| peer.addresses.iter().any(|known| found.addresses.contains(known));
        self.peers.iter().filter(|peer| peer.linked || found.via != "lan").find(is_here)
    }
}

/// Whether who answers at an address has this key, found out without leaving a link.
async fn proves(tls: &TlsIdentity, key: Fingerprint, address: &str) -> bool {
    let tried = try_ways(tls, key, &[address.to_owned()]).await;
    tried.iter().any(|tried| match tried.found {
        // Each comes after the handshake, in which the key is proven.
        AtAddress::Reached | AtAddress::Removed | AtAddress::NotTrusted => true,
        AtAddress::NoTls
        | AtAddress::OtherDevice
        | AtAddress::Own
        | AtAddress::Incompatible
        | AtAddress::Plaintext
        | AtAddress::Refused
        | AtAddress::Silent
        | AtAddress::Unresolved => false,
    })
}

fn too_many(there: usize, looked_at: usize) -> Option<String> {
    (there > looked_at).then(|| format!("{} more machines were not looked at", there - looked_at))
}
