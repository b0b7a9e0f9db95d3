//! The pinned peers of a running daemon: on disk, in the verifier, in the relay, all alike.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::addresses;
use crate::clock::{Clock, rfc3339};
use crate::identity::Fingerprint;
use crate::link::Keeper;
use crate::link::tls::Pins;
use crate::relay::{LinkFacts, Shared};
use crate::trust::store::{Address, AddressSource, NewPeer, add_address};
use crate::trust::{Peer, Store};
use crate::wire::error::Failure;
use crate::wire::link::Hello;

/// Where pins change, and with them who is let in and who is dialled.
pub(super) struct Book {
    store: Mutex<Store>,
    pins: Pins,
    relay: Shared,
    clock: Clock,
    listen: watch::Sender<bool>,
    window_is_open: AtomicBool,
    closed: AtomicBool,
    /// Where notes are written; kept, since the last come while the runtime ends.
    runtime: Handle,
}

impl Book {
    pub(super) fn new(store: Store, pins: Pins, relay: Shared, clock: Clock, listen: watch::Sender<bool>) -> Self {
        Self {
            store: Mutex::new(store),
            pins,
            relay,
            clock,
            listen,
            window_is_open: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            runtime: Handle::current(),
        }
    }

    /// The pins, for a look or a change; after a change, [`Book::publish`].
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pins that the verifier asks.
    pub(super) fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// Makes verifier and relay believe what is stored.
    pub(super) fn publish(&self) {
        let store = self.store();
        self.pins.replace(store.peers().iter().map(|peer| peer.fingerprint));
        let mut relay = self.relay.lock();
        for peer in store.peers() {
            relay.set_peer(peer.fingerprint, peer.name.clone(), peer.grant, peer.removed);
        }
        drop(relay);
        self.set_listening(&store);
    }

    /// Has the ports listen while anyone is pinned, or a pairing window is open.
    pub(super) fn window_is(&self, open: bool) {
        self.window_is_open.store(open, Ordering::Release);
        self.set_listening(&self.store());
    }

    /// Has the ports listen no more, whatever happens.
    pub(super) fn stop_listening(&self) {
        self.closed.store(true, Ordering::Release);
        self.set_listening(&self.store());
    }

    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.store().peers().iter().map(|peer| peer.fingerprint).collect()
    }

    /// Pins a peer that has proven its key.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub(super) fn pin(&self, new: NewPeer) -> Result<Peer, Failure> {
        let replaced = new.replaces.filter(|old| *old != new.fingerprint);
        let peer = self.store().pin(new, self.clock.wall())?;
        self.publish();
        let mut relay = self.relay.lock();
        // A reason from before the two were paired (again) says nothing any more.
        relay.set_why(peer.fingerprint, None);
        if let Some(old) = replaced {
            relay.unpin(old, self.clock.now());
        }
        Ok(peer)
    }

    /// Takes a pin away, tells the peer so on a live link and cuts it. Whether there was one.
    ///
    /// # Errors
    /// The disk's; the pin stays then.
    pub(super) fn unpin(&self, fingerprint: Fingerprint) -> Result<bool, Failure> {
        self.store().unpin(fingerprint)?;
        let cut = self.relay.lock().unpin(fingerprint, self.clock.now());
        self.publish();
        Ok(cut)
    }

    /// Changes what is kept of a peer.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub(super) fn update(&self, fingerprint: Fingerprint, change: impl FnOnce(&mut Peer)) -> Result<Peer, Failure> {
        let peer = self.store().update(fingerprint, change)?;
        self.publish();
        Ok(peer)
    }

    fn set_listening(&self, store: &Store) {
        let wanted = self.window_is_open.load(Ordering::Acquire) || !store.peers().is_empty();
        let wanted = wanted && !self.closed.load(Ordering::Acquire);
        self.listen.send_if_modified(|listen| std::mem::replace(listen, wanted) != wanted);
    }

    /// Notes what a link told, off the link's task, which must not wait for the disk. That it cannot
    /// be written changes nothing about the link.
    fn note(self: &Arc<Self>, peer: Fingerprint, change: impl FnOnce(&mut Peer) + Send + 'static) {
        let book = Arc::clone(self);
        self.runtime.spawn_blocking(move || {
            if book.store().get(peer).is_none() {
                return;
            }
            if let Err(error) = book.store().update(peer, change) {
                tracing::warn!(%error, "could not note what was seen of a peer");
            }
        });
    }
}

/// What links tell is kept here.
pub(super) struct Notes {
    pub(super) book: Arc<Book>,
    pub(super) ports: Vec<SocketAddr>,
}

impl Keeper for Notes {
    fn addresses(&self, peer: Fingerprint) -> Vec<String> {
        let store = self.book.store();
        let mut addresses = store.get(peer).map(|peer| peer.addresses.clone()).unwrap_or_default();
        addresses.sort_by_key(|address| Reverse(address.source));
        addresses.into_iter().map(|address| address.address).collect()
    }

    fn greeted(&self, peer: Fingerprint, hello: &Hello, facts: &LinkFacts, dialled: bool) {
        let now = rfc3339(self.book.clock.wall());
        let from = facts.address.ip();
        let own = |address: &String| address.parse().is_ok_and(|address| addresses::is_own(address, &self.ports));
        let mut told = addresses::of_peer(&hello.addresses, from);
        told.retain(|address| !own(address));
        // Whoever dialled in from there and listens may be reachable there.
        let seen = if dialled { facts.address } else { SocketAddr::new(from, hello.port) };
        let seen_is_far = seen.port() != 0 && !addresses::is_own(seen, &self.ports);
        let version: String = hello.version.chars().take(32).collect();
        self.book.note(peer, move |peer| {
            for address in told {
                add_address(&mut peer.addresses, Address { address, source: AddressSource::Hello });
            }
            if seen_is_far {
                add_address(&mut peer.addresses, Address { address: seen.to_string(), source: AddressSource::Seen });
            }
            peer.version = Some(version);
            peer.last_seen = Some(now);
        });
    }

    fn ended(&self, peer: Fingerprint) {
        let now = rfc3339(self.book.clock.wall());
        self.book.note(peer, |peer| peer.last_seen = Some(now));
    }
}
