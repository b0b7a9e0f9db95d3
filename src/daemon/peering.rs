//! What the user does about peers: their names and addresses, linking by address, cutting off.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::office::{Office, parsed};
use super::views;
use crate::identity::Fingerprint;
use crate::link::dialer::dial;
use crate::link::session;
use crate::link::tls::{Alpn, Expect};
use crate::trust::Peer;
use crate::trust::store::{Address, AddressSource, add_address};
use crate::wire::audit::Caller;
use crate::wire::commands::quoted;
use crate::wire::control::Unpaired;
use crate::wire::error::{Code, Failure};
use crate::wire::host_port::{check_dialled, split_host_port};
use crate::wire::link::{ByeReason, to_json};
use crate::wire::{DEFAULT_PORT, HostPort, PeerName};

/// How long a link may take to come up for who waits for it.
const LINKING: Duration = Duration::from_secs(10);
/// How often a configured address is tried that has not led to a peer.
const CONFIGURED_RETRY: Duration = Duration::from_secs(60);

/// Who has an address tried.
#[derive(Debug)]
enum By {
    User(Option<Caller>),
    Configuration,
}

impl Office {
    /// Tries the addresses of the original's `config.json` until each has led to a pinned peer.
    pub(super) fn try_configured_peers(self: &Arc<Self>, wings: &mut JoinSet<()>) {
        for address in &self.settings.peers.value {
            let office = Arc::clone(self);
            let address = with_port(address, DEFAULT_PORT);
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

    pub(super) async fn rename(&self, peer: &str, name: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let name: PeerName = parsed(name)?;
        let fingerprint = self.book.store().find(peer)?.fingerprint;
        let peer = self.on_disk(move |book| book.update(fingerprint, by, |peer| peer.name = name)).await?;
        Ok(self.peer_answer(&peer))
    }

    pub(super) async fn change_addresses(
        &self,
        peer: &str,
        add: &[String],
        remove: Vec<String>,
        by: Option<Caller>,
    ) -> Result<Vec<u8>, Failure> {
        let fingerprint = self.book.store().find(peer)?.fingerprint;
        let add: Vec<String> = add.iter().map(|address| checked_address(address)).collect::<Result<_, _>>()?;
        if let Some(unknown) = {
            let store = self.book.store();
            let known = store.get(fingerprint).map(|peer| peer.addresses.clone()).unwrap_or_default();
            remove
                .iter()
                .find(|gone| !known.iter().any(|known| known.address == with_port(gone, DEFAULT_PORT)))
                .cloned()
        } {
            return Err(Failure::new(Code::InvalidRequest, format!("{unknown} is no address of {peer}"))
                .hint(format!("`pi-remote peers show {}` lists them", quoted(peer))));
        }
        let change = move |peer: &mut Peer| {
            peer.addresses.retain(|known| !remove.iter().any(|gone| with_port(gone, DEFAULT_PORT) == known.address));
            for address in add {
                add_address(&mut peer.addresses, Address { address, source: AddressSource::User });
            }
        };
        let dialer = self.dialer.clone();
        let peer = self
            .on_disk(move |book| book.update(fingerprint, by, change).inspect(|_| dialer.kick(fingerprint)))
            .await?;
        Ok(self.peer_answer(&peer))
    }

    pub(super) async fn unpair(&self, peer: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let peer = self.book.store().find(peer)?.clone();
        let fingerprint = peer.fingerprint;
        let link_cut = self.on_disk(move |book| book.unpin(fingerprint, by)).await?;
        Ok(to_json(&Unpaired { peer: views::peer_ref(&peer), link_cut }))
    }

    pub(super) fn peer_answer(&self, peer: &Peer) -> Vec<u8> {
        #[derive(Serialize)]
        struct Data {
            peer: crate::wire::control::PeerView,
        }
        to_json(&Data { peer: views::peer_view(peer, &self.context.relay.lock(), self.context.clock.date()) })
    }

    /// The original's way to a peer: by address. Whoever answers there must be pinned, and the
    /// address is its own from then on.
    pub(super) async fn add_peer(&self, host: &str, port: Option<u64>, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
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
            let fingerprint = peer.fingerprint;
            let dialer = self.dialer.clone();
            let take_up = |peer: &mut Peer| peer.removed = false;
            // Dialled also for a client that goes without its answer.
            self.on_disk(move |book| book.update(fingerprint, by, take_up).inspect(|_| dialer.kick(fingerprint)))
                .await?;
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
        check_dialled(host)?;
        self.link_at(&with_port(host, port), By::User(by)).await?;
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
                // The original's clients know these words.
                let message = error.to_string();
                Failure { message, ..error.into_failure() }
            })?;
        let fingerprint = link.peer;
        let (by_user, by) = match by {
            By::User(caller) => (true, caller),
            By::Configuration => (false, None),
        };
        let keep = move |peer: &mut Peer| {
            // Only the user takes up again what the user has cut.
            peer.removed &= !by_user;
            add_address(&mut peer.addresses, Address { address: reached, source: AddressSource::User });
        };
        let peer = self.on_disk(move |book| book.update(fingerprint, by, keep)).await?;
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

    pub(super) async fn wait_linked(&self, peer: Fingerprint) -> Result<(), Failure> {
        let relay = &self.context.relay;
        let linked = std::future::poll_fn(|cx| relay.lock().poll_linked(peer, cx));
        timeout(LINKING, linked).await.map_err(|_| self.why(peer))
    }

    pub(super) fn why(&self, peer: Fingerprint) -> Failure {
        let facts = self.context.relay.lock().peer_facts(peer);
        facts.and_then(|facts| facts.why).unwrap_or_else(|| Failure::new(Code::Unreachable, "No link came up"))
    }

    pub(super) async fn remove_peer(&self, host: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
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
        let (relay, clock) = (self.context.relay.clone(), self.context.clock.clone());
        self.on_disk(move |book| {
            book.update(fingerprint, by, |peer| peer.removed = true)?;
            relay.lock().end_links_of(fingerprint, ByeReason::Removed, clock.now());
            Ok(())
        })
        .await?;
        Ok(to_json(&json!({ "host": name })))
    }
}

fn checked_address(address: &str) -> Result<String, Failure> {
    check_dialled(address)?;
    let whole = HostPort::with_default(address, DEFAULT_PORT);
    whole.map(|whole| whole.to_string()).map_err(|error| Failure::new(Code::InvalidRequest, error.to_string()))
}

/// Host and port as the original's clients say them; what is neither is taken for a host that will
/// not resolve.
fn split_port(text: &str) -> (&str, Option<u16>) {
    split_host_port(text).unwrap_or((text, None))
}

fn with_port(address: &str, port: u16) -> String {
    HostPort::with_default(address, port).map_or_else(|_| address.to_owned(), |whole| whole.to_string())
}
