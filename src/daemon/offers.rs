//! Pairing at this daemon: the one window that may be open, and joining another's.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::book::Book;
use super::ports::Ports;
use super::{addresses, views};
use crate::identity::{Fingerprint, random};
use crate::link::Context;
use crate::link::dialer::{DialError, Dialer};
use crate::link::pairing::{Desk, JoinError, join};
use crate::link::tls::{RefusedBy, TlsError};
use crate::pairing::exchange::{Offerer, Parties, Reason};
use crate::pairing::message::Info;
use crate::pairing::ticket::{Secret, Ticket};
use crate::pairing::window::{AttemptId, DEFAULT_OPEN, EXCHANGE_TIME, Offer as Offering, Refusal, Window};
use crate::relay::{ClientId, Shared};
use crate::tasks::Tasks;
use crate::trust::store::{Address, AddressSource, NewPeer};
use crate::trust::{Grant, Peer};
use crate::wire::PeerName;
use crate::wire::control::{
    Offer, OfferKind, PairCheck, PairChecked, PairFailed, PairJoin, PairOffer, PairTerms, Paired, PeerView, ReplyTo,
    request_event_line,
};
use crate::wire::error::{Code, Failure};
use crate::wire::link::{MAX_ADDRESSES, to_json};

/// How long after pairing the link is waited for, so that the answer can show it.
const LINKING: Duration = Duration::from_secs(3);

/// Pairing's desk.
pub(super) struct Offers {
    slot: Mutex<Slot>,
    book: Arc<Book>,
    context: Context,
    dialer: Dialer,
    own: Fingerprint,
    ports: Ports,
    listening: watch::Receiver<usize>,
    tasks: Tasks,
    /// Whether a window is open that may be announced on the local network.
    announced: watch::Sender<bool>,
}

/// The window, and those before it.
#[derive(Default)]
struct Slot {
    open: Option<Open>,
    /// How many windows there have been: each has a number, so that what was begun for one never
    /// meets another.
    windows: u64,
    /// Exchanges whose pin is stored, until it is known whether the joiner confirms.
    won: HashMap<AttemptId, oneshot::Sender<bool>>,
}

/// The open window and whom it concerns.
struct Open {
    window: Window,
    client: ClientId,
    id: Option<Bytes>,
    terms: Terms,
    _expiry: Timer,
}

/// A task that ends with what it belongs to.
struct Timer(Option<AbortHandle>);

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What the user has decided about the other device, checked.
#[derive(Clone)]
struct Terms {
    petname: Option<PeerName>,
    replaces: Option<Fingerprint>,
    grant: Grant,
}

impl Offers {
    pub(super) fn new(
        book: Arc<Book>,
        context: Context,
        dialer: Dialer,
        own: Fingerprint,
        ports: Ports,
        listening: watch::Receiver<usize>,
        tasks: Tasks,
    ) -> Self {
        Self {
            slot: Mutex::default(),
            book,
            context,
            dialer,
            own,
            ports,
            listening,
            tasks,
            announced: watch::Sender::new(false),
        }
    }

    /// Whether a window is open that may be announced on the local network.
    pub(super) fn announced(&self) -> watch::Receiver<bool> {
        self.announced.subscribe()
    }

    fn window_closed(&self) {
        self.book.window_is(false);
        self.announced.send_replace(false);
    }

    /// Whether a window is open.
    pub(super) fn is_open(&self) -> bool {
        let now = self.context.clock.now();
        self.lock().open.as_ref().is_some_and(|open| open.window.is_open(now))
    }

    /// Opens a window; what becomes of it is told to `client`.
    ///
    /// # Errors
    /// Another is open, or the terms cannot be kept; nothing is opened then.
    pub(super) async fn offer(
        self: &Arc<Self>,
        client: ClientId,
        reply: &ReplyTo,
        request: &PairOffer,
    ) -> Result<Offer, Failure> {
        let terms = self.terms(&request.terms)?;
        if terms.petname.is_some() {
            // Who will join is not known yet; a machine that is paired already keeps its name without.
            self.book.store().petname_for(&terms.peer(Fingerprint::from_bytes([0; 32]), "peer", Vec::new()))?;
        }
        let open_for = request.window_seconds.map_or(DEFAULT_OPEN, Duration::from_secs);
        let secret = Zeroizing::new(random::<16>()?);
        let addresses = addresses::own(&self.ports.all());
        let ticket = Ticket::new(self.own, Secret::from_bytes(&secret), addresses.clone()).map_err(invalid)?;
        let number = self.open_window(client, reply, Secret::from_bytes(&secret), terms, open_for, request.no_lan)?;
        let listens = timeout(LINKING, self.listening.clone().wait_for(|ports| *ports > 0)).await.is_ok();
        if !listens {
            self.close(number, &Failure::new(Code::Io, "no port could be listened on"));
            return Err(Failure::new(Code::Io, "cannot listen for the other machine: another program has the port")
                .hint("stop that program, or start the daemon with another --port"));
        }
        if !self.context.relay.lock().has_client(client) {
            // It went before there was a window that its going could close.
            self.cancel(client);
            return Err(Failure::new(Code::Interrupted, "The offer was taken back"));
        }
        Ok(Offer {
            pairing_code: None,
            ticket: Some(ticket.encode().into()),
            expires_in_seconds: open_for.as_secs(),
            addresses,
        })
    }

    /// Opens a window and gives its number.
    fn open_window(
        self: &Arc<Self>,
        client: ClientId,
        reply: &ReplyTo,
        secret: Secret,
        terms: Terms,
        open_for: Duration,
        no_lan: bool,
    ) -> Result<u64, Failure> {
        let mut slot = self.lock();
        let now = self.context.clock.now();
        if slot.open.as_ref().is_some_and(|open| open.window.is_open(now)) {
            return Err(Failure::new(Code::PairingBusy, "A pairing window is open already")
                .hint("finish or interrupt the `pi-remote pair` that waits, then try again"));
        }
        // The window of a client that has gone would stay: its going closes only what is there by then.
        if !self.context.relay.lock().has_client(client) {
            return Err(taken_back());
        }
        let number = slot.windows;
        let window = Window::open(number, Offering::Ticket(secret), now, open_for).map_err(invalid)?;
        slot.windows += 1;
        let offers = Arc::clone(self);
        let expiry = self.tasks.spawn(async move {
            sleep(open_for).await;
            offers.close(number, &expired());
        });
        let open = Open { window, client, id: reply.id.clone(), terms, _expiry: Timer(expiry) };
        // One whose time was over while its timer slept with the machine.
        if let Some(late) = slot.open.replace(open) {
            self.tell_failed(&late, &expired());
        }
        self.book.window_is(true);
        self.announced.send_replace(!no_lan);
        Ok(number)
    }

    /// Whether pairing could work, as far as is known here without a packet.
    ///
    /// # Errors
    /// What joining would end with.
    pub(super) fn check(&self, request: &PairCheck) -> Result<PairChecked, Failure> {
        self.terms(&request.terms)?;
        Ok(PairChecked::default())
    }

    /// Closes the window that a client opened; false when it has none.
    pub(super) fn cancel(&self, client: ClientId) -> bool {
        self.close_if(|open| open.client == client, &taken_back())
    }

    /// Pairs with who made a ticket.
    ///
    /// # Errors
    /// Whatever is in the way; nothing is stored then.
    pub(super) async fn join(&self, own_spki: &[u8], request: &PairJoin) -> Result<Paired, Failure> {
        let terms = self.terms(&request.terms)?;
        let ticket: Ticket = request
            .ticket
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|error: crate::pairing::ticket::TicketError| Failure::from(error))?;
        if ticket.offerer() == self.own {
            return Err(Failure::new(Code::InvalidRequest, "This ticket is of this very machine")
                .hint("use it on the other one"));
        }
        // Refused before anything is sent: the other side would be left with a pin of this one.
        self.book.store().petname_for(&terms.peer(ticket.offerer(), "peer", Vec::new()))?;
        let mut addresses: Vec<String> = request.address.iter().cloned().collect();
        addresses.extend(ticket.addresses().iter().cloned());
        let store = |offerer: Fingerprint, info: &Info, reached: &str| {
            let mut known = vec![address(reached, AddressSource::Ticket)];
            known
                .extend(ticket.addresses().iter().filter(|a| *a != reached).map(|a| address(a, AddressSource::Ticket)));
            known.truncate(MAX_ADDRESSES);
            let peer = self.book.pin(terms.peer(offerer, &info.name, known))?;
            self.dialer.kick(offerer);
            Ok(peer)
        };
        let own = self.info();
        let peer = join(&self.context, &ticket, &addresses, own_spki, &own, store).await.map_err(joining_failed)?;
        wait_linked(&self.context.relay, peer.fingerprint).await;
        Ok(Paired { peer: view(&self.book, &self.context.relay, &peer), confirmed: true, already: false })
    }

    fn close(&self, number: u64, why: &Failure) -> bool {
        self.close_if(|open| open.window.number() == number, why)
    }

    /// Ends the window, if it is one of these, and says why. Whether it was. One that was won is no
    /// window any more.
    fn close_if(&self, which: impl FnOnce(&mut Open) -> bool, why: &Failure) -> bool {
        let mut slot = self.lock();
        let Some(open) = slot.open.take_if(which) else { return false };
        self.window_closed();
        self.tell_failed(&open, why);
        true
    }

    fn tell_failed(&self, open: &Open, why: &Failure) {
        self.tell(open.client, open.id.as_ref(), "pair_failed", &to_json(&PairFailed { error: why.clone() }));
    }

    fn terms(&self, terms: &PairTerms) -> Result<Terms, Failure> {
        let grant = terms.grant.parse().map_err(|error: crate::trust::policy::UnknownGrant| {
            Failure::new(Code::InvalidRequest, error.to_string())
        })?;
        let petname = terms.petname.as_deref().map(str::parse::<PeerName>).transpose();
        let petname = petname.map_err(|error| Failure::new(Code::InvalidRequest, error.to_string()))?;
        let replaces = match &terms.replace {
            Some(peer) => Some(self.book.store().find(peer)?.fingerprint),
            None => None,
        };
        Ok(Terms { petname, replaces, grant })
    }

    fn info(&self) -> Info {
        Info {
            name: self.context.relay.lock().own_name().to_owned(),
            port: self.ports.number(),
            addresses: addresses::own(&self.ports.all()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn tell(&self, client: ClientId, id: Option<&Bytes>, event: &str, data: &[u8]) {
        tell(&self.context.relay, client, id, event, data);
    }

    /// Held before the pins and the relay are, never after.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terms {
    fn peer(&self, fingerprint: Fingerprint, suggested: &str, addresses: Vec<Address>) -> NewPeer {
        NewPeer {
            fingerprint,
            petname: self.petname.clone(),
            suggested: PeerName::suggested(suggested),
            replaces: self.replaces,
            addresses,
            grant: self.grant,
            via: "ticket",
        }
    }
}

/// The daemon keeps its desk behind this, so that tasks can hold on to it.
impl Desk for Offers {
    fn begin(&self, from: SocketAddr, hello: Duration, parties: &Parties<'_>) -> Result<(AttemptId, Offerer), Refusal> {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let open = slot.open.as_mut().ok_or(Refusal::Closed)?;
        let id = open.window.begin(from.ip(), hello, now)?;
        let Some(Offering::Ticket(secret)) = open.window.offer(now) else { return Err(Refusal::Closed) };
        let offerer = Offerer::by_ticket(secret, parties).map_err(|_| Refusal::Closed)?;
        Ok((id, offerer))
    }

    fn proven(&self, attempt: AttemptId, joiner: Fingerprint, info: &Info, from: SocketAddr) -> Result<Info, Failure> {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let won = slot.open.take_if(|open| open.window.succeed(attempt, now).is_ok());
        let open = won.ok_or_else(|| Failure::new(Code::PairingExpired, "The window is closed"))?;
        let mut known = addresses::of_peer(&info.host_ports(), from.ip());
        if info.port != 0 {
            let seen = SocketAddr::new(from.ip(), info.port).to_string();
            known.retain(|address| *address != seen);
            known.insert(0, seen);
        }
        known.truncate(MAX_ADDRESSES);
        let known = known.iter().map(|a| address(a, AddressSource::Hello)).collect();
        let pinned = self.book.pin(open.terms.peer(joiner, &info.name, known));
        self.window_closed();
        let peer = pinned.inspect_err(|failure| self.tell_failed(&open, failure))?;
        self.dialer.kick(joiner);
        let (confirm, confirmed) = oneshot::channel();
        slot.won.retain(|_, confirm| !confirm.is_closed());
        slot.won.insert(attempt, confirm);
        let (book, relay) = (Arc::clone(&self.book), self.context.relay.clone());
        self.tasks.spawn(async move {
            // Not confirmed either when the exchange was broken off and nobody says so.
            let confirmed = timeout(EXCHANGE_TIME, confirmed).await.is_ok_and(|told| told == Ok(true));
            wait_linked(&relay, joiner).await;
            let paired = Paired { peer: view(&book, &relay, &peer), confirmed, already: false };
            tell(&relay, open.client, open.id.as_ref(), "paired", &to_json(&paired));
        });
        Ok(self.info())
    }

    fn done(&self, attempt: AttemptId, _joiner: Fingerprint, confirmed: bool) {
        if let Some(confirm) = self.lock().won.remove(&attempt) {
            // Nobody waits for it any more when it comes too late.
            let _ = confirm.send(confirmed);
        }
    }

    fn failed(&self, attempt: AttemptId, why: Reason) {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let Some(open) = slot.open.as_mut() else { return };
        let Some(failed) = open.window.fail(attempt, why, now) else { return };
        let data = serde_json::json!({ "address": failed.from.to_string(), "reason": why.to_string() });
        self.tell(open.client, open.id.as_ref(), "pair_attempt_failed", &to_json(&data));
    }
}

fn invalid(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidRequest, error.to_string())
}

fn taken_back() -> Failure {
    Failure::new(Code::Interrupted, "The offer was taken back")
}

fn expired() -> Failure {
    Failure::new(Code::PairingExpired, "Nobody paired before the window closed")
        .hint("run `pi-remote pair --ticket` again")
}

/// Waits a moment for the first link to a new peer; without one by then, the answer says so.
async fn wait_linked(relay: &Shared, peer: Fingerprint) {
    let _ = timeout(LINKING, poll_fn(|cx| relay.lock().poll_linked(peer, cx))).await;
}

fn view(book: &Book, relay: &Shared, peer: &Peer) -> PeerView {
    let store = book.store();
    views::peer_view(store.get(peer.fingerprint).unwrap_or(peer), &relay.lock())
}

fn tell(relay: &Shared, client: ClientId, id: Option<&Bytes>, event: &str, data: &[u8]) {
    let line = request_event_line(event, id, data);
    let mut relay = relay.lock();
    if !relay.push_line(client, line) {
        relay.end_client(client, None);
    }
}

fn address(text: &str, source: AddressSource) -> Address {
    Address { address: text.to_owned(), source }
}

fn joining_failed(error: JoinError) -> Failure {
    match error {
        // The other side closes its pairing door by this alert: the ticket is late, not the program old.
        JoinError::Dial(DialError::Tls { source: TlsError::PeerRefusedUs(RefusedBy::Protocol), address }) => {
            let what = "no pairing window is open there: the ticket was used, taken back or is too old";
            Failure::new(Code::PairingFailed, format!("{address}: {what}"))
                .hint("`pi-remote pair --ticket` on the other machine prints a new one; else compare both versions")
        }
        JoinError::Dial(error) => {
            let refused =
                matches!(&error, DialError::Connect { source, .. } if source.kind() == ErrorKind::ConnectionRefused);
            let failure = error.into_failure();
            if !refused {
                return failure;
            }
            failure.hint("the ticket was used, taken back or is too old, or no daemon runs there: make a new one with `pi-remote pair --ticket`")
        }
        JoinError::Exchange(reason) => reason.failure(OfferKind::Ticket),
        JoinError::Here(failure) => failure,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::clock::Clock;
    use crate::daemon::book::Notes;
    use crate::identity::DeviceKey;
    use crate::link::tls::{Pins, TlsIdentity};
    use crate::relay::{Limits, Me, Relay};
    use crate::state_dir::StateDir;
    use crate::trust::Store;
    use crate::wire::link::Hello;

    /// The desk of a daemon that listens, and its clock.
    pub(in crate::daemon) fn desk() -> (tempfile::TempDir, Arc<Offers>, Clock) {
        let temp = tempfile::tempdir().unwrap();
        let key = DeviceKey::generate().unwrap();
        let clock = Clock::manual(SystemTime::UNIX_EPOCH);
        let hello = Hello {
            instance: 1,
            version: "1".into(),
            name: "here".into(),
            port: 0,
            addresses: Vec::new(),
            heartbeat_interval: 15,
            message_limit: 1 << 20,
            features: Vec::new(),
            allows: Vec::new(),
            dial: 0,
            contested: false,
            sessions: Vec::new(),
        };
        let me = Me { fingerprint: key.fingerprint(), host: "here".into(), hello };
        let relay = Shared::new(Relay::new(me, Limits::for_messages_of(65536)));
        let store = Store::load(StateDir::open(&temp.path().join("s")).unwrap()).unwrap();
        let (pins, listen) = (Pins::default(), watch::channel(false).0);
        let book = Arc::new(Book::new(store, pins, relay.clone(), clock.clone(), listen));
        let keeper = Arc::new(Notes { book: Arc::clone(&book), ports: Ports::new(Vec::new()) });
        let context = Context { relay, clock: clock.clone(), tls: TlsIdentity::new(&key).unwrap(), keeper };
        let tasks = Tasks::default();
        let dialer = Dialer::new(context.clone(), tasks.clone(), watch::channel(false).1);
        let ports = Ports::new(vec!["127.0.0.1:7433".parse().unwrap()]);
        let offers = Offers::new(book, context, dialer, key.fingerprint(), ports, watch::channel(1).1, tasks);
        (temp, Arc::new(offers), clock)
    }

    impl Offers {
        pub(in crate::daemon) fn book(&self) -> Arc<Book> {
            Arc::clone(&self.book)
        }
    }

    async fn open(offers: &Arc<Offers>, seconds: u64) -> ClientId {
        let client = offers.context.relay.lock().open_client();
        let terms = PairTerms { petname: None, replace: None, grant: "full".into() };
        let request = PairOffer { window_seconds: Some(seconds), terms, ..PairOffer::default() };
        offers.offer(client, &ReplyTo::default(), &request).await.unwrap();
        client
    }

    async fn line(offers: &Offers, client: ClientId) -> String {
        let lines = poll_fn(|cx| offers.context.relay.lock().poll_client(client, 1, cx)).await.unwrap();
        String::from_utf8_lossy(&lines[0]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_of_a_window_that_expired_in_a_suspend_leaves_the_next_one_open() {
        let (_temp, offers, clock) = desk();
        let first = open(&offers, 60).await;
        // The clock that counts suspended time is ahead of the timers.
        clock.advance(Duration::from_secs(61));
        let second = open(&offers, 600).await;
        assert!(line(&offers, first).await.contains("pairing_expired"));
        sleep(Duration::from_secs(120)).await;
        assert!(offers.is_open());
        assert!(!offers.cancel(first) && offers.cancel(second) && !offers.is_open());
    }

    #[tokio::test]
    async fn no_window_opens_for_a_client_that_has_gone() {
        let (_temp, offers, clock) = desk();
        let client = open(&offers, 60).await;
        assert!(offers.cancel(client));
        offers.context.relay.lock().close_client(client, clock.now());
        let terms = PairTerms { petname: None, replace: None, grant: "full".into() };
        let request = PairOffer { terms, ..PairOffer::default() };
        assert!(offers.offer(client, &ReplyTo::default(), &request).await.is_err());
        assert!(!offers.is_open());
    }
}
