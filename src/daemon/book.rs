//! The pinned peers of a running daemon: on disk, in the verifier, in the relay, all alike.

mod rights;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::addresses;
use super::ports::Ports;
use super::views::{grant_view, peer_ref};
use crate::clock::{Clock, rfc3339};
use crate::identity::Fingerprint;
use crate::link::Keeper;
use crate::link::tls::Pins;
use crate::relay::{LinkFacts, Relay, Shared, Standing};
use crate::state_dir::StateDir;
use crate::trust::store::{Address, AddressSource, Change, NewPeer, add_address};
use crate::trust::{GrantId, Peer, Store};
use crate::wire::PeerName;
use crate::wire::audit::{Action, Caller, Entry};
use crate::wire::control::PeerRef;
use crate::wire::error::Failure;
use crate::wire::link::Hello;

/// How often it is saved when peers were last seen.
const SAVE_SEEN: Duration = Duration::from_secs(30);
/// Most addresses of one peer that one note holds.
const MAX_MET: usize = 32;

/// Where pins change, and with them who is let in and who is dialled.
pub(super) struct Book {
    /// As it is believed; who looks at it holds nobody up.
    store: Mutex<Arc<Store>>,
    pins: Pins,
    relay: Shared,
    clock: Clock,
    listen: watch::Sender<bool>,
    window_is_open: AtomicBool,
    closed: AtomicBool,
    /// Held while the pins change and from before they are written until they are believed. The pins
    /// themselves are not held for that long: links ask for them.
    changing: Mutex<Unsaved>,
    /// Held while verifier and relay are told, so that what is newest is told last.
    publishing: Mutex<()>,
    notes: Mutex<HashMap<Fingerprint, Note>>,
    noted: Notify,
    /// Peers that are trusted no more although the disk would not take it: they stay cut off.
    revoked: Mutex<HashSet<Fingerprint>>,
    /// Grants that are being taken away: they hold no more, however long the disk takes.
    withdrawn: Mutex<HashSet<GrantId>>,
    /// Requests to lock that the disk has not taken yet: they hold already.
    locking: AtomicUsize,
    /// What peers may do has changed, and with it when the next grant ends.
    granted: Notify,
}

/// Whether something is in memory that is not on the disk: notes, and what was taken from a peer while
/// the disk would not take it. Who is trusted with more always is.
#[derive(Debug, Default)]
struct Unsaved(bool);

/// What links have told of a peer since it was last taken into the pins.
#[derive(Debug, Default)]
struct Note {
    addresses: Vec<Address>,
    /// A hello was heard: of the addresses that were only told, those of the newest hello count.
    told: bool,
    version: Option<String>,
    last_seen: Option<String>,
    /// Where links have met it.
    met: Vec<IpAddr>,
}

impl Note {
    fn told(&mut self, addresses: Vec<String>) {
        self.told = true;
        self.addresses.retain(|known| known.source != AddressSource::Hello);
        for address in addresses {
            add_address(&mut self.addresses, Address { address, source: AddressSource::Hello });
        }
    }

    fn met(&mut self, at: IpAddr) {
        if self.met.len() < MAX_MET && !self.met.contains(&at) {
            self.met.push(at);
        }
    }

    /// Gives the addresses back at which the peer was never met before.
    fn apply(self, peer: &mut Peer) -> Vec<IpAddr> {
        let new = self.met.into_iter().filter(|at| peer.is_new_at(*at)).collect();
        if self.told {
            let still = |known: &Address| self.addresses.iter().any(|told| told.address == known.address);
            peer.addresses.retain(|known| known.source != AddressSource::Hello || still(known));
        }
        for address in self.addresses {
            add_address(&mut peer.addresses, address);
        }
        peer.version = self.version.or(peer.version.take());
        peer.last_seen = self.last_seen.or(peer.last_seen.take());
        new
    }
}

impl Book {
    pub(super) fn new(store: Store, pins: Pins, relay: Shared, clock: Clock, listen: watch::Sender<bool>) -> Self {
        Self {
            store: Mutex::new(Arc::new(store)),
            pins,
            relay,
            clock,
            listen,
            window_is_open: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            changing: Mutex::default(),
            publishing: Mutex::default(),
            notes: Mutex::default(),
            noted: Notify::new(),
            revoked: Mutex::default(),
            withdrawn: Mutex::default(),
            locking: AtomicUsize::new(0),
            granted: Notify::new(),
        }
    }

    /// Keeps pins from changing, as a slow disk does.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> impl Drop + '_ {
        lock(&self.changing)
    }

    /// The pins as they are now.
    pub(super) fn store(&self) -> Arc<Store> {
        Arc::clone(&lock(&self.store))
    }

    /// This device's own name, which no peer is to be called from now on.
    pub(super) fn keep_for_itself(&self, own_name: PeerName) {
        Arc::make_mut(&mut lock(&self.store)).keep_for_itself(own_name);
    }

    /// The pins and the file that should hold the same, with no change under way: one is written before
    /// it is believed.
    /// Whether something is known that could not be written is the third.
    pub(super) fn beside_the_file(&self, dir: &StateDir) -> (Arc<Store>, Result<Store, Failure>, bool) {
        let unsaved = lock(&self.changing);
        let believed = self.store();
        (believed, Store::load(dir.clone()), unsaved.0)
    }

    /// The pins that the verifier asks.
    pub(super) fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// Makes verifier and relay believe what is stored.
    pub(super) fn publish(&self) {
        let _turn = lock(&self.publishing);
        let store = self.store();
        let revoked = lock(&self.revoked).clone();
        let trusted = || store.peers().iter().filter(|peer| !revoked.contains(&peer.fingerprint));
        self.pins.replace(trusted().map(|peer| peer.fingerprint));
        let withdrawn = lock(&self.withdrawn).clone();
        let locked = store.is_locked() || self.locking.load(Ordering::Acquire) > 0;
        let standing: Vec<_> = trusted().map(|peer| (peer.fingerprint, standing(peer, &withdrawn))).collect();
        let mut relay = self.relay.lock();
        let now = self.clock.now();
        relay.set_date(self.clock.date(), now);
        if relay.is_locked() != locked {
            relay.set_locked(locked, now);
        }
        for (peer, standing) in standing {
            relay.set_peer(peer, standing, now);
        }
        drop(relay);
        self.granted.notify_one();
        self.set_listening();
    }

    /// Has the ports listen while anyone is pinned, or a pairing window is open.
    pub(super) fn window_is(&self, open: bool) {
        self.window_is_open.store(open, Ordering::Release);
        self.set_listening();
    }

    /// Has the ports listen no more, whatever happens.
    pub(super) fn stop_listening(&self) {
        self.closed.store(true, Ordering::Release);
        self.set_listening();
    }

    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        self.store().peers().iter().map(|peer| peer.fingerprint).collect()
    }

    /// Pins a peer that has proven its key.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub(super) fn pin(&self, new: NewPeer, by: Option<Caller>) -> Result<Peer, Failure> {
        let (via, fingerprint) = (new.via, new.fingerprint);
        let replaces = new.replaces.filter(|old| *old != fingerprint);
        let was_revoked = lock(&self.revoked).remove(&fingerprint);
        let make = |store: &Store| {
            let replaced = replaces.and_then(|old| store.get(old).cloned());
            let (peer, change) = store.pin(new, self.clock.wall())?;
            Ok(((peer, replaced), change))
        };
        let tell = |relay: &mut Relay, (peer, replaced): &(Peer, Option<Peer>)| {
            // A reason from before the two were paired (again) says nothing any more.
            relay.set_why(fingerprint, None, self.clock.now());
            if let Some(old) = replaced {
                relay.unpin(old.fingerprint, self.clock.now());
            }
            let replaced = replaced.as_ref().map(peer_ref);
            let grants: Vec<_> = peer.grants.iter().map(|grant| grant_view(peer, grant)).collect();
            let data = serde_json::json!({ "via": via, "replaced": replaced, "grants": grants });
            relay.emit("peer_paired", &PeerPaired { peer: peer_ref(peer), replaced });
            vec![Entry { data: Some(data), ..entry(Action::Pair, peer, by) }]
        };
        let (peer, replaced) = self.change(make, tell).inspect_err(|_| {
            if was_revoked {
                lock(&self.revoked).insert(fingerprint);
            }
        })?;
        let replaced = replaced.map(|old| old.fingerprint.to_string());
        tracing::info!(peer = %peer.name, %fingerprint, via, replaced, "paired");
        Ok(peer)
    }

    /// Takes a pin away, tells the peer so on a live link and cuts it. Whether there was one. What
    /// narrows trust holds at once, whatever the disk says.
    ///
    /// # Errors
    /// The disk's: the peer is cut off, but would be trusted again after a restart.
    pub(super) fn unpin(&self, fingerprint: Fingerprint, by: Option<Caller>) -> Result<bool, Failure> {
        lock(&self.revoked).insert(fingerprint);
        self.publish();
        let cut = self.relay.lock().unpin(fingerprint, self.clock.now());
        let known = self.store().get(fingerprint).cloned();
        let refused_by = by.clone();
        let tell = |relay: &mut Relay, peer: &Option<Peer>| {
            let Some(peer) = peer else { return Vec::new() };
            relay.emit("peer_unpaired", &json!({ "peer": peer_ref(peer) }));
            vec![entry(Action::Unpair, peer, by)]
        };
        let make = |store: &Store| Ok((store.get(fingerprint).cloned(), store.unpin(fingerprint)));
        let unpinned = self.change(make, tell).map_err(|failure| {
            if let Some(peer) = known {
                let failed = Some((failure.code, failure.message.clone()));
                self.relay.lock().record(Entry { failed, ..entry(Action::Unpair, &peer, refused_by) });
            }
            let message = format!("it is cut off now, but would be trusted again after a restart: {}", failure.message);
            Failure { message, ..failure }.hint("make room on that disk, then unpair it again")
        })?;
        lock(&self.revoked).remove(&fingerprint);
        if let Some(peer) = unpinned {
            tracing::info!(peer = %peer.name, %fingerprint, link_cut = cut, "unpaired");
        }
        Ok(cut)
    }

    /// Changes what is kept of a peer, but for its grants.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub(super) fn update(
        &self,
        fingerprint: Fingerprint,
        by: Option<Caller>,
        change: impl FnOnce(&mut Peer),
    ) -> Result<Peer, Failure> {
        let make = |store: &Store| {
            let before = store.get(fingerprint).cloned();
            let (after, change) = store.update(fingerprint, change)?;
            Ok(((before, after), change))
        };
        let tell = |_: &mut Relay, (before, after): &(Option<Peer>, Peer)| {
            let data = before.as_ref().and_then(|before| rights::differences(before, after));
            data.map(|data| Entry { data: Some(data), ..entry(Action::Peer, after, by) }).into_iter().collect()
        };
        Ok(self.change(make, tell)?.1)
    }

    /// Writes a change, believes it, publishes it and tells of it; nobody tells of another in between.
    ///
    /// # Errors
    /// The disk's; nothing has changed then.
    fn change<T>(
        &self,
        make: impl FnOnce(&Store) -> Result<(T, Change), Failure>,
        tell: impl FnOnce(&mut Relay, &T) -> Vec<Entry>,
    ) -> Result<T, Failure> {
        self.settle(make, |_| false, tell, |_| ())
    }

    /// As [`Book::change`]; what takes from a peer, as `narrows` says of it, holds also when the disk
    /// will not take it, and is written as soon as the disk does. `tell` logs nothing: a log that nobody
    /// takes would hold up whoever waits for the pins or the relay. `say` does, with nothing held.
    fn settle<T>(
        &self,
        make: impl FnOnce(&Store) -> Result<(T, Change), Failure>,
        narrows: impl FnOnce(&T) -> bool,
        tell: impl FnOnce(&mut Relay, &T) -> Vec<Entry>,
        say: impl FnOnce(&T),
    ) -> Result<T, Failure> {
        let mut unsaved = lock(&self.changing);
        let (made, mut change) = make(&self.store())?;
        change.date(self.clock.date());
        let refused = match change.write() {
            Ok(()) => None,
            Err(failure) if narrows(&made) => Some(failure),
            Err(failure) => return Err(failure),
        };
        unsaved.0 = refused.is_some();
        self.believe(change);
        let failed = refused.as_ref().map(|failure| (failure.code, failure.message.clone()));
        let mut relay = self.relay.lock();
        for entry in tell(&mut relay, &made) {
            relay.record(Entry { failed: failed.clone(), ..entry });
        }
        drop(relay);
        drop(unsaved);
        say(&made);
        let Some(failure) = refused else { return Ok(made) };
        let message = format!("it holds now, but a restart would undo it: {}", failure.message);
        Err(Failure { message, ..failure }.hint("make room on that disk: it is written as soon as that can be"))
    }

    fn believe(&self, change: Change) {
        self.remember(change);
        self.publish();
    }

    fn remember(&self, change: Change) {
        let mut store = lock(&self.store);
        let after = Arc::new(store.after(change));
        let before = std::mem::replace(&mut *store, after);
        drop(store);
        drop(before);
    }

    fn set_listening(&self) {
        // Held, so that what was wanted before is not what is said last.
        let store = lock(&self.store);
        let wanted = self.window_is_open.load(Ordering::Acquire) || !store.peers().is_empty();
        let wanted = wanted && !self.closed.load(Ordering::Acquire);
        self.listen.send_if_modified(|listen| std::mem::replace(listen, wanted) != wanted);
    }

    /// Notes what a link told; it is taken into the pins by [`Book::keep_notes`], since the link's
    /// task must not wait for the disk. What several links of a peer tell meanwhile is one note.
    fn note(&self, peer: Fingerprint, note: impl FnOnce(&mut Note)) {
        note(lock(&self.notes).entry(peer).or_default());
        self.noted.notify_one();
    }

    /// Takes notes into the pins, one write at a time, for as long as it is polled.
    pub(super) async fn keep_notes(self: Arc<Self>) {
        let mut seen_saved = Instant::now();
        loop {
            tokio::select! {
                () = self.noted.notified() => {}
                () = sleep_until(seen_saved + SAVE_SEEN) => {}
            }
            let save_seen = seen_saved.elapsed() >= SAVE_SEEN;
            if save_seen {
                seen_saved = Instant::now();
            }
            let book = Arc::clone(&self);
            if let Err(error) = spawn_blocking(move || book.take_notes(save_seen)).await {
                tracing::warn!(%error, "what was seen of peers could not be kept");
            }
        }
    }

    /// Takes the notes into the pins. Only what a later start needs to reach a peer is written at once;
    /// when peers were last seen, if `save_seen` says so.
    pub(super) fn take_notes(&self, save_seen: bool) {
        let mut unsaved = lock(&self.changing);
        let mut notes = std::mem::take(&mut *lock(&self.notes));
        let store = self.store();
        let mut save = save_seen;
        let mut written = Ok(());
        let mut moved = Vec::new();
        let mut change = store.with(|peer| {
            let Some(note) = notes.remove(&peer.fingerprint) else { return };
            let before = peer.clone();
            let new = note.apply(peer);
            moved.extend(new.into_iter().map(|at| (peer.clone(), at)));
            save |= before.addresses != peer.addresses
                || before.version != peer.version
                || before.seen_from != peer.seen_from;
            unsaved.0 |= before != *peer;
        });
        if save && unsaved.0 {
            change.date(self.clock.date());
            // That it cannot be written changes nothing about the links.
            written = change.write();
            unsaved.0 = written.is_err();
        }
        self.remember(change);
        drop(unsaved);
        if let Err(error) = written {
            tracing::warn!(%error, "could not note what was seen of a peer");
        }
        moved.into_iter().for_each(|(peer, at)| self.tell_of_move(&peer, at));
    }

    /// A peer's link has a far address at which it was never met: whoever has its key may be elsewhere.
    fn tell_of_move(&self, peer: &Peer, at: IpAddr) {
        let (name, fingerprint) = (&peer.name, peer.fingerprint);
        let line = self.relay.lock().line_about(fingerprint, self.clock.now());
        if let Some(unwritten) = line {
            tracing::info!(peer = %name, %fingerprint, address = %at, unwritten, "a peer is at a new address");
        }
        let mut relay = self.relay.lock();
        relay.emit("peer_new_address", &json!({ "host": peer.name, "peer": peer_ref(peer), "address": at }));
        relay.record(Entry {
            peer: Some(peer.name.to_string()),
            fingerprint: Some(peer.fingerprint.to_string()),
            data: Some(json!({ "address": at })),
            ..Entry::new(Action::NewAddress)
        });
    }
}

/// A peer as the relay is to know it.
fn standing(peer: &Peer, withdrawn: &HashSet<GrantId>) -> Standing {
    Standing {
        name: peer.name.clone(),
        grants: peer.grants.iter().filter(|grant| !withdrawn.contains(&grant.id)).cloned().collect(),
        removed: peer.removed,
        calls_per_minute: peer.calls_per_minute,
    }
}

/// What the audit log says of a peer.
fn entry(action: Action, peer: &Peer, caller: Option<Caller>) -> Entry {
    let (name, fingerprint) = (peer.name.to_string(), peer.fingerprint.to_string());
    Entry { peer: Some(name), fingerprint: Some(fingerprint), caller, ..Entry::new(action) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Data of the event `peer_paired`.
#[derive(Serialize)]
struct PeerPaired {
    peer: PeerRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<PeerRef>,
}

/// What links tell is kept here.
pub(super) struct Notes {
    pub(super) book: Arc<Book>,
    pub(super) ports: Ports,
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
        let own = |address: &String| address.parse().is_ok_and(|address| addresses::is_own(address, &self.ports.all()));
        let mut told = addresses::of_peer(&hello.addresses, from);
        told.retain(|address| !own(address));
        // Whoever dialled in from there and listens may be reachable there.
        let seen = if dialled { facts.address } else { SocketAddr::new(from, hello.port) };
        let seen_is_far = seen.port() != 0 && !addresses::is_own(seen, &self.ports.all());
        self.book.note(peer, |note| {
            note.met(from);
            note.told(told);
            if seen_is_far {
                add_address(&mut note.addresses, Address { address: seen.to_string(), source: AddressSource::Seen });
            }
            note.version = Some(hello.version.clone());
            note.last_seen = Some(now);
        });
    }

    fn ended(&self, peer: Fingerprint) {
        let now = rfc3339(self.book.clock.wall());
        self.book.note(peer, |note| note.last_seen = Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::offers::tests::desk;
    use crate::trust::{Grant, Preset};

    #[test]
    fn what_a_peer_only_told_is_replaced_by_what_it_tells_next_and_the_rest_stays() {
        use AddressSource::{Hello, Seen, User};
        let address = |n: u8, source| Address { address: format!("192.0.2.{n}:7433"), source };
        let mut peer = Peer {
            name: "p".parse().unwrap(),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            addresses: vec![address(1, User), address(2, Seen), address(3, Hello), address(4, Hello)],
            grants: vec![],
            calls_per_minute: None,
            paired_at: String::new(),
            paired_via: "code".into(),
            last_seen: None,
            version: None,
            seen_from: vec![],
            removed: false,
        };
        let told = |ns: &[u8]| ns.iter().map(|n| format!("192.0.2.{n}:7433")).collect::<Vec<_>>();
        let mut note = Note::default();
        note.told(told(&[7, 8]));
        note.told(told(&[4, 5]));
        note.apply(&mut peer);
        let expected = [address(1, User), address(2, Seen), address(4, Hello), address(5, Hello)];
        assert_eq!(peer.addresses, expected);
        // A note of something else takes nothing away.
        Note::default().apply(&mut peer);
        assert_eq!(peer.addresses, expected);
    }

    pub(super) fn new_peer(fingerprint: Fingerprint) -> NewPeer {
        NewPeer {
            fingerprint,
            petname: None,
            suggested: PeerName::suggested("p"),
            replaces: None,
            addresses: vec![],
            grant: Grant::of_preset(GrantId(0), Preset::Full),
            via: "ticket",
        }
    }

    #[tokio::test]
    async fn the_file_is_never_taken_for_changed_while_a_note_is_written() {
        let (temp, offers, _) = desk();
        let (book, dir) = (Arc::clone(&offers.book), StateDir::open(&temp.path().join("s")).unwrap());
        let peer = Fingerprint::from_bytes([1; 32]);
        book.pin(new_peer(peer), None).unwrap();
        let writer = std::thread::spawn(move || {
            for n in 0..50 {
                book.note(peer, |note| note.version = Some(n.to_string()));
                book.take_notes(false);
            }
        });
        while !writer.is_finished() {
            let (believed, stored, _) = offers.book.beside_the_file(&dir);
            assert_eq!(stored.unwrap().peers(), believed.peers());
        }
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn what_many_links_tell_is_one_note_and_when_a_peer_was_seen_is_written_seldom() {
        let (temp, offers, _) = desk();
        let book = Arc::clone(&offers.book);
        let peer = Fingerprint::from_bytes([1; 32]);
        book.pin(new_peer(peer), None).unwrap();
        let file = temp.path().join("s/peers.json");
        let before = std::fs::read(&file).unwrap();
        for n in 0..1000 {
            book.note(peer, |note| note.last_seen = Some(n.to_string()));
            book.note(Fingerprint::from_bytes([2; 32]), |note| note.last_seen = Some(n.to_string()));
        }
        assert_eq!(lock(&book.notes).len(), 2);
        book.take_notes(false);
        assert_eq!(book.store().get(peer).unwrap().last_seen.as_deref(), Some("999"));
        assert_eq!(std::fs::read(&file).unwrap(), before);
        book.take_notes(true);
        assert!(String::from_utf8(std::fs::read(&file).unwrap()).unwrap().contains("999"));
        // Where it is and what it runs is written at once, and a pin that has gone comes not back.
        book.note(peer, |note| note.version = Some("7.7.7".into()));
        book.take_notes(false);
        assert!(String::from_utf8(std::fs::read(&file).unwrap()).unwrap().contains("7.7.7"));
        book.note(peer, |note| note.version = Some("8".into()));
        book.unpin(peer, None).unwrap();
        book.take_notes(true);
        assert!(book.store().peers().is_empty());
    }
}
