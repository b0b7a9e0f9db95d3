//! What clients of the control socket ask of the daemon beside routing.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::book::Book;
use super::offers::Offers;
use super::views;
use crate::clock::rfc3339;
use crate::config::{self, Settings};
use crate::control::server::{Admin, Answer};
use crate::identity::{DeviceKey, Fingerprint};
use crate::link::admission::Admission;
use crate::link::dialer::{DialError, Dialer, dial};
use crate::link::tls::{Alpn, Expect, TlsError};
use crate::link::{Context, session};
use crate::relay::ClientId;
use crate::session::watch::WatchHandle;
use crate::state_dir::StateDir;
use crate::tasks::Tasks;
use crate::trust::Peer;
use crate::trust::store::{Address, AddressSource, add_address};
use crate::wire::control::{Check, Checks, IdentityView, PeerList, Refused, ReplyTo, Status, Unpaired};
use crate::wire::error::{Code, Failure};
use crate::wire::link::{ByeReason, to_json};
use crate::wire::request::Request;
use crate::wire::{DEFAULT_PORT, PeerName};

/// How long a link may take to come up for who waits for it.
const LINKING: Duration = Duration::from_secs(10);
/// How long the `tailscale` program may take.
const TAILSCALE: Duration = Duration::from_secs(5);
/// How often a configured address is tried that has not led to a peer.
const CONFIGURED_RETRY: Duration = Duration::from_secs(60);

/// Who has an address tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    User,
    Configuration,
}

/// The daemon, as clients see it.
pub(super) struct Office {
    pub(super) dir: StateDir,
    pub(super) key: DeviceKey,
    pub(super) settings: Settings,
    pub(super) context: Context,
    pub(super) book: Arc<Book>,
    pub(super) offers: Arc<Offers>,
    pub(super) dialer: Dialer,
    pub(super) tasks: Tasks,
    pub(super) admission: Admission,
    pub(super) listening: watch::Receiver<usize>,
    pub(super) ports: Vec<SocketAddr>,
    pub(super) watched: WatchHandle,
    pub(super) stop: Arc<Notify>,
    pub(super) started: Duration,
}

impl Admin for Office {
    fn handle(self: Arc<Self>, client: ClientId, reply: ReplyTo, request: Request) -> Answer {
        Box::pin(async move {
            match request {
                Request::Status => Ok(to_json(&self.status())),
                Request::AddPeer { host, port } => self.add_peer(&host, port).await,
                Request::RemovePeer { host } => self.remove_peer(&host),
                Request::ListTailscale => list_tailscale().await,
                Request::Refresh => {
                    self.watched.refresh().await;
                    self.dial_all();
                    Ok(to_json(&json!({ "message": "Refreshed local session and peer state" })))
                }
                Request::Identity { name } => self.identity(name.as_deref()),
                Request::Peers => Ok(to_json(&self.peers())),
                Request::PeerRename { peer, name } => self.rename(&peer, &name),
                Request::PeerAddress { peer, add, remove } => self.change_addresses(&peer, &add, &remove),
                Request::Unpair { peer } => self.unpair(&peer),
                Request::VerifyPeers => Ok(to_json(&self.verify())),
                Request::PairOffer(offer) => {
                    self.offers.offer(client, &reply, &offer).await.map(|offer| to_json(&offer))
                }
                Request::PairJoin(join) => {
                    self.offers.join(self.key.spki(), &join).await.map(|paired| to_json(&paired))
                }
                Request::PairCancel => Ok(to_json(&json!({ "cancelled": self.offers.cancel(client) }))),
                // The control server sees to these itself.
                Request::ListSessions
                | Request::Relay(_)
                | Request::Subscribe
                | Request::StartDaemon
                | Request::Kill => Err(Failure::new(Code::Internal, "A request went astray")),
            }
        })
    }

    fn client_gone(&self, client: ClientId) {
        self.offers.cancel(client);
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}

impl Office {
    /// Stops a daemon that has nothing to do, where `config.json` asks for that: never one that is
    /// paired, which must stay reachable.
    pub(super) async fn shut_down_when_idle(self: Arc<Self>) {
        let timeout = self.settings.auto_shutdown_timeout.value;
        if timeout.is_zero() {
            return;
        }
        let look = (timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(5));
        let mut idle_since = self.context.clock.now();
        loop {
            sleep(look).await;
            let now = self.context.clock.now();
            let relay = self.context.relay.lock();
            let busy = relay.local_session_count() > 0 || relay.client_count() > 0;
            drop(relay);
            if busy || self.offers.is_open() || !self.book.store().peers().is_empty() {
                idle_since = now;
            } else if now.saturating_sub(idle_since) >= timeout {
                tracing::info!("nothing to do for {} s (autoShutdownTimeout)", timeout.as_secs());
                return self.stop.notify_one();
            }
        }
    }

    /// Has every pinned peer dialled at once that is not linked.
    pub(super) fn dial_all(&self) {
        self.book.fingerprints().into_iter().for_each(|peer| self.dialer.kick(peer));
    }

    /// Tries the addresses of the original's `config.json` until each has led to a pinned peer.
    pub(super) fn try_configured_peers(self: &Arc<Self>, wings: &mut JoinSet<()>) {
        for address in &self.settings.peers.value {
            let office = Arc::clone(self);
            let address = with_port(address);
            wings.spawn(async move {
                while !office.is_known_address(&address) {
                    if let Err(failure) = office.link_at(&address, By::Configuration).await {
                        tracing::debug!(address, %failure, "a configured peer is not there");
                    }
                    sleep(CONFIGURED_RETRY).await;
                }
            });
        }
    }

    fn is_known_address(&self, address: &str) -> bool {
        self.book.store().peers().iter().any(|peer| peer.addresses.iter().any(|known| known.address == address))
    }

    fn status(&self) -> Status {
        let store = self.book.store();
        let relay = self.context.relay.lock();
        let refused = self.admission.refused();
        Status {
            pid: std::process::id(),
            uptime: self.context.clock.now().saturating_sub(self.started).as_secs(),
            port: self.ports.first().map_or(0, SocketAddr::port),
            local_session_count: relay.local_session_count(),
            remote_peer_count: relay.linked_peer_count(),
            peers: store.peers().iter().map(|peer| views::peer_status(peer, &relay)).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: relay.own_name().to_owned(),
            fingerprint: self.key.fingerprint().to_string(),
            listen: self.ports.iter().map(ToString::to_string).collect(),
            listening: *self.listening.borrow() > 0,
            refused: Refused {
                count: refused.count,
                last_address: refused.last.map(|(address, _)| address.to_string()),
                last_at: refused.last.map(|(_, at)| rfc3339(at)),
            },
            settings: self.settings.describe(),
        }
    }

    fn peers(&self) -> PeerList {
        let store = self.book.store();
        let relay = self.context.relay.lock();
        PeerList { peers: store.peers().iter().map(|peer| views::peer_view(peer, &relay)).collect() }
    }

    fn identity(&self, name: Option<&str>) -> Result<Vec<u8>, Failure> {
        if let Some(name) = name {
            let name: PeerName = parsed(name)?;
            config::set_name(&self.dir, &name)?;
            self.context.relay.lock().set_own_name(&name);
            self.book.store().keep_for_itself(name);
        }
        let fingerprint = self.key.fingerprint();
        let name = self.context.relay.lock().own_name().to_owned();
        Ok(to_json(&IdentityView { name, fingerprint: fingerprint.to_string(), short: fingerprint.short() }))
    }

    fn rename(&self, peer: &str, name: &str) -> Result<Vec<u8>, Failure> {
        let name: PeerName = parsed(name)?;
        let fingerprint = self.book.store().find(peer)?.fingerprint;
        let peer = self.book.update(fingerprint, |peer| peer.name = name)?;
        Ok(self.peer_answer(&peer))
    }

    fn change_addresses(&self, peer: &str, add: &[String], remove: &[String]) -> Result<Vec<u8>, Failure> {
        let fingerprint = self.book.store().find(peer)?.fingerprint;
        let add: Vec<String> = add.iter().map(|address| checked_address(address)).collect::<Result<_, _>>()?;
        if let Some(unknown) = {
            let store = self.book.store();
            let known = store.get(fingerprint).map(|peer| peer.addresses.clone()).unwrap_or_default();
            remove.iter().find(|gone| !known.iter().any(|known| known.address == with_port(gone))).cloned()
        } {
            return Err(Failure::new(Code::InvalidRequest, format!("{unknown} is no address of {peer}"))
                .hint(format!("`pi-remote peers show {peer}` lists them")));
        }
        let peer = self.book.update(fingerprint, |peer| {
            peer.addresses.retain(|known| !remove.iter().any(|gone| with_port(gone) == known.address));
            for address in add {
                add_address(&mut peer.addresses, Address { address, source: AddressSource::User });
            }
        })?;
        self.dialer.kick(fingerprint);
        Ok(self.peer_answer(&peer))
    }

    fn unpair(&self, peer: &str) -> Result<Vec<u8>, Failure> {
        let peer = self.book.store().find(peer)?.clone();
        let link_cut = self.book.unpin(peer.fingerprint)?;
        Ok(to_json(&Unpaired { peer: views::peer_ref(&peer), link_cut }))
    }

    fn peer_answer(&self, peer: &Peer) -> Vec<u8> {
        #[derive(Serialize)]
        struct Data {
            peer: crate::wire::control::PeerView,
        }
        to_json(&Data { peer: views::peer_view(peer, &self.context.relay.lock()) })
    }

    /// The original's way to a peer: by address. Whoever answers there must be pinned, and the
    /// address is its own from then on.
    async fn add_peer(&self, host: &str, port: Option<u64>) -> Result<Vec<u8>, Failure> {
        let already = |name: &str| Failure::new(Code::AlreadyConnected, format!("Already connected to {name}"));
        if host.trim().is_empty() {
            return Err(Failure::new(Code::InvalidRequest, "add_peer needs a host"));
        }
        let (name, own_port) = split_port(host);
        let known = self.book.store().find(host).ok().cloned();
        if let Some(peer) = known {
            if self.context.relay.lock().is_linked(peer.fingerprint) {
                return Err(already(host));
            }
            self.book.update(peer.fingerprint, |peer| peer.removed = false)?;
            self.dialer.kick(peer.fingerprint);
            self.wait_linked(peer.fingerprint).await?;
            let port =
                self.context.relay.lock().link_of(peer.fingerprint).map_or(DEFAULT_PORT, |l| l.facts.address.port());
            return Ok(to_json(&json!({ "host": host, "port": port })));
        }
        let port = own_port.map(u64::from).or(port).unwrap_or(u64::from(DEFAULT_PORT));
        let exact = u16::try_from(port).ok().filter(|port| *port != 0);
        if self.is_linked_at(name, exact) {
            return Err(already(name));
        }
        let port =
            exact.ok_or_else(|| Failure::new(Code::InvalidRequest, format!("{port} is no TCP port (1 to 65535)")))?;
        self.link_at(&join_port(name, port), By::User).await?;
        Ok(to_json(&json!({ "host": name, "port": port })))
    }

    fn is_linked_at(&self, host: &str, port: Option<u16>) -> bool {
        let store = self.book.store();
        let relay = self.context.relay.lock();
        store.peers().iter().any(|peer| {
            let Some(link) = relay.link_of(peer.fingerprint) else { return false };
            let dialled = link.dialled.then(|| link.facts.address.to_string());
            let known = peer.addresses.iter().map(|address| address.address.clone()).chain(dialled);
            known.into_iter().any(|address| {
                let (known_host, known_port) = split_port(&address);
                known_host == host && port.is_none_or(|port| known_port == Some(port))
            })
        })
    }

    /// Links to whichever pinned peer answers at an address, and keeps the address for it, linked
    /// already or not.
    async fn link_at(&self, address: &str, by: By) -> Result<(), Failure> {
        let expect = Expect::AnyPinned(self.book.pins());
        let (link, reached) =
            dial(&self.context, &[address.to_owned()], expect, Alpn::Link).await.map_err(|error| {
                let unpaired = matches!(&error, DialError::Tls { source: TlsError::NotPinned { .. }, .. });
                let failure = error.into_failure();
                if unpaired { Failure { code: Code::NotPaired, ..failure } } else { failure }
            })?;
        let fingerprint = link.peer;
        let keep = |peer: &mut Peer| {
            // Only the user takes up again what the user has cut.
            peer.removed &= matches!(by, By::Configuration);
            add_address(&mut peer.addresses, Address { address: reached, source: AddressSource::User });
        };
        let peer = self.book.update(fingerprint, keep)?;
        if self.context.relay.lock().is_linked(fingerprint) {
            return Err(Failure::new(Code::AlreadyConnected, format!("Already connected to {}", peer.name)));
        }
        if peer.removed {
            return Ok(());
        }
        let context = self.context.clone();
        let (ended, has_ended) = oneshot::channel::<()>();
        self.tasks.spawn(async move {
            session::run(link, true, &context).await;
            drop(ended);
        });
        tokio::select! {
            linked = self.wait_linked(fingerprint) => linked,
            _ = has_ended => Err(self.why(fingerprint)),
        }
    }

    async fn wait_linked(&self, peer: Fingerprint) -> Result<(), Failure> {
        let relay = &self.context.relay;
        let linked = std::future::poll_fn(|cx| relay.lock().poll_linked(peer, cx));
        timeout(LINKING, linked).await.map_err(|_| self.why(peer))
    }

    fn why(&self, peer: Fingerprint) -> Failure {
        let facts = self.context.relay.lock().peer_facts(peer);
        facts.and_then(|facts| facts.why).unwrap_or_else(|| Failure::new(Code::Unreachable, "No link came up"))
    }

    fn remove_peer(&self, host: &str) -> Result<Vec<u8>, Failure> {
        let (name, port) = split_port(host);
        let found = {
            let store = self.book.store();
            let relay = self.context.relay.lock();
            let at = |peer: &&Peer| {
                let linked = relay.link_of(peer.fingerprint).map(|link| link.facts.address.to_string());
                peer.addresses.iter().map(|a| a.address.clone()).chain(linked).any(|address| {
                    let (known, known_port) = split_port(&address);
                    known == name && (port.is_none() || known_port == port)
                })
            };
            store
                .find(host)
                .ok()
                .or_else(|| store.peers().iter().filter(|peer| !peer.removed).find(at))
                .map(|p| p.fingerprint)
        };
        let missing = || Failure::new(Code::PeerNotFound, format!("Peer {host} not found"));
        let fingerprint = found.ok_or_else(missing)?;
        self.book.update(fingerprint, |peer| peer.removed = true)?;
        self.context.relay.lock().end_links_of(fingerprint, ByeReason::Removed, self.context.clock.now());
        Ok(to_json(&json!({ "host": name })))
    }

    fn verify(&self) -> Checks {
        let mut checks = Vec::new();
        let own = self.key.fingerprint();
        let mut check = |name: &str, found: Result<String, Failure>| {
            let (ok, detail, fix) = match found {
                Ok(detail) => (true, detail, None),
                Err(failure) => (false, failure.message, failure.hint),
            };
            checks.push(Check { name: name.to_owned(), ok, detail, fix });
        };
        check("state directory", StateDir::open(self.dir.path()).map(|_| "this user's alone (0700)".to_owned()));
        check("device key and certificate", DeviceKey::load(&self.dir).and_then(|key| {
            if key.fingerprint() == own {
                Ok(format!("{own}, readable by this user alone"))
            } else {
                let message = format!("the files hold {}, this daemon runs with {own}", key.fingerprint());
                Err(Failure::new(Code::FingerprintMismatch, message).hint("find out who changed device.key; `pi-remote stop`, then start the daemon again, takes the new one"))
            }
        }));
        let store = self.book.store();
        check(
            "peers.json",
            crate::trust::Store::load(self.dir.clone()).and_then(|stored| {
                // When a peer was last seen is written seldom.
                let lasting = |peers: &[Peer]| -> Vec<Peer> {
                    peers.iter().cloned().map(|peer| Peer { last_seen: None, ..peer }).collect()
                };
                if lasting(stored.peers()) == lasting(store.peers()) {
                    Ok(format!("{} pinned, as this daemon knows them", stored.peers().len()))
                } else {
                    Err(Failure::new(
                        Code::VerificationFailed,
                        "the file is not what this daemon has stored: it was changed from outside",
                    )
                    .hint("`pi-remote stop`, look at peers.json, then start the daemon again"))
                }
            }),
        );
        let relay = self.context.relay.lock();
        for peer in store.peers() {
            let pinned = self.book.pins().contains(&peer.fingerprint);
            let found = match relay.link_of(peer.fingerprint) {
                _ if !pinned => Err(Failure::new(Code::VerificationFailed, "stored, but not known to the verifier")),
                Some(link) => {
                    Ok(format!("the link to {} was authenticated with {}", link.facts.address, peer.fingerprint))
                }
                None => match relay.peer_facts(peer.fingerprint).and_then(|facts| facts.why) {
                    Some(why) if why.code == Code::FingerprintMismatch => Err(why),
                    Some(_) | None => Ok(format!("{}; no link is up to compare with", peer.fingerprint)),
                },
            };
            check(&format!("peer {}", peer.name), found);
        }
        Checks { checks }
    }
}

fn parsed(name: &str) -> Result<PeerName, Failure> {
    name.parse().map_err(|error: crate::wire::ids::InvalidName| Failure::new(Code::InvalidRequest, error.to_string()))
}

fn checked_address(address: &str) -> Result<String, Failure> {
    let whole = with_port(address);
    if crate::pairing::ticket::is_host_port(&whole) {
        Ok(whole)
    } else {
        Err(Failure::new(Code::InvalidRequest, format!("{address} is no HOST:PORT")))
    }
}

/// `host` and port of `host:port`, `[v6]:port`, a bare host or a bare IPv6 address.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        Some(_) | None => (text, None),
    }
}

fn join_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn with_port(address: &str) -> String {
    let (host, port) = split_port(address);
    join_port(host, port.unwrap_or(DEFAULT_PORT))
}

/// Machines on the tailnet, as the `tailscale` program tells.
async fn list_tailscale() -> Result<Vec<u8>, Failure> {
    let program = tokio::process::Command::new("tailscale")
        .args(["status", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let missing = |_| Failure::new(Code::Unreachable, "tailscale not found").hint("is Tailscale installed?");
    let slow = |_| Failure::new(Code::Timeout, "tailscale did not answer");
    let output = timeout(TAILSCALE, program).await.map_err(slow)?.map_err(missing)?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| Failure::new(Code::Unreachable, "tailscale does not run").hint("`tailscale up` starts it"))?;
    let peers = status.get("Peer").and_then(|peers| peers.as_object()).into_iter().flatten();
    let peers: Vec<_> = peers
        .filter_map(|(_, peer)| {
            Some(json!({ "hostname": peer.get("HostName")?, "ip": peer.get("TailscaleIPs")?.get(0)? }))
        })
        .collect();
    Ok(to_json(&json!({ "peers": peers })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart_also_in_ipv6() {
        for (text, host, port) in [
            ("desktop", "desktop", None),
            ("desktop:1", "desktop", Some(1)),
            ("::1", "::1", None),
            ("[::1]:7433", "::1", Some(7433)),
            ("[::1]", "::1", None),
            ("a:x", "a:x", None),
        ] {
            assert_eq!(split_port(text), (host, port), "{text}");
        }
        assert_eq!((with_port("::1"), with_port("a:5")), ("[::1]:7433".into(), "a:5".into()));
    }
}
