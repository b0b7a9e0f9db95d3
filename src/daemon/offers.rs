//! Pairing at this daemon: the one window that may be open, and joining another's.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::book::Book;
use super::{addresses, views};
use crate::identity::{Fingerprint, random};
use crate::link::Context;
use crate::link::dialer::{DialError, Dialer};
use crate::link::pairing::{Desk, JoinError, join};
use crate::link::tls::{RefusedBy, TlsError};
use crate::pairing::exchange::{Offerer, Parties, Reason};
use crate::pairing::message::Info;
use crate::pairing::ticket::{Secret, Ticket};
use crate::pairing::window::{AttemptId, DEFAULT_OPEN, Ending, Offer as Offering, Refusal, Window};
use crate::relay::{ClientId, Shared};
use crate::trust::store::{Address, AddressSource, NewPeer};
use crate::trust::{Grant, Peer};
use crate::wire::PeerName;
use crate::wire::control::{
    Offer, PairFailed, PairJoin, PairOffer, PairTerms, Paired, PeerView, ReplyTo, request_event_line,
};
use crate::wire::error::{Code, Failure};
use crate::wire::link::{MAX_ADDRESSES, to_json};

/// How long after pairing the link is waited for, so that the answer can show it.
const LINKING: Duration = Duration::from_secs(3);

/// Pairing's desk.
pub(super) struct Offers {
    open: Mutex<Option<Open>>,
    book: Arc<Book>,
    context: Context,
    dialer: Dialer,
    own: Fingerprint,
    ports: Vec<SocketAddr>,
    listening: watch::Receiver<usize>,
}

/// The open window and whom it concerns.
struct Open {
    window: Window,
    client: ClientId,
    id: Option<Bytes>,
    terms: Terms,
    expiry: Option<AbortHandle>,
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
        ports: Vec<SocketAddr>,
        listening: watch::Receiver<usize>,
    ) -> Self {
        Self { open: Mutex::new(None), book, context, dialer, own, ports, listening }
    }

    /// Whether a window is open.
    pub(super) fn is_open(&self) -> bool {
        let now = self.context.clock.now();
        self.lock().as_ref().is_some_and(|open| open.window.is_open(now))
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
        let now = self.context.clock.now();
        let open_for = request.window_seconds.map_or(DEFAULT_OPEN, Duration::from_secs);
        let secret = Zeroizing::new(random::<16>()?);
        let addresses = addresses::own(&self.ports);
        let invalid = |error: &dyn std::fmt::Display| Failure::new(Code::InvalidRequest, error.to_string());
        let ticket = Ticket::new(self.own, Secret::from_bytes(&secret), addresses.clone()).map_err(|e| invalid(&e))?;
        let window =
            Window::open(Offering::Ticket(Secret::from_bytes(&secret)), now, open_for).map_err(|e| invalid(&e))?;
        self.open_window(client, reply, window, terms, open_for)?;
        self.book.window_is(true);
        let listens = timeout(LINKING, self.listening.clone().wait_for(|ports| *ports > 0)).await.is_ok();
        if !listens {
            self.close(&Failure::new(Code::Io, "no port could be listened on"));
            return Err(Failure::new(Code::Io, "cannot listen for the other machine: another program has the port")
                .hint("stop that program, or start the daemon with another --port"));
        }
        if !self.context.relay.lock().has_client(client) {
            // It went before there was a window that its going could close.
            self.cancel(client);
            return Err(Failure::new(Code::Interrupted, "The offer was taken back"));
        }
        Ok(Offer { ticket: ticket.encode().into(), expires_in_seconds: open_for.as_secs(), addresses })
    }

    fn open_window(
        self: &Arc<Self>,
        client: ClientId,
        reply: &ReplyTo,
        window: Window,
        terms: Terms,
        open_for: Duration,
    ) -> Result<(), Failure> {
        let mut slot = self.lock();
        let expired = |open: &Open| open.window.ending(self.context.clock.now()) == Some(Ending::Expired);
        if slot.as_ref().is_some_and(|open| !expired(open)) {
            return Err(Failure::new(Code::PairingBusy, "A pairing window is open already")
                .hint("finish or interrupt the `pi-remote pair` that waits, then try again"));
        }
        let offers = Arc::clone(self);
        let expiry = tokio::spawn(async move {
            sleep(open_for).await;
            offers.close(
                &Failure::new(Code::PairingExpired, "Nobody paired before the window closed")
                    .hint("run `pi-remote pair --ticket` again"),
            );
        });
        *slot = Some(Open { window, client, id: reply.id.clone(), terms, expiry: Some(expiry.abort_handle()) });
        Ok(())
    }

    /// Closes the window that a client opened; false when it has none.
    pub(super) fn cancel(&self, client: ClientId) -> bool {
        let mine = self.lock().as_ref().is_some_and(|open| open.client == client);
        mine && self.close(&Failure::new(Code::Interrupted, "The offer was taken back"))
    }

    /// Pairs with who made a ticket.
    ///
    /// # Errors
    /// Whatever is in the way; nothing is stored then.
    pub(super) async fn join(&self, own_spki: &[u8], request: &PairJoin) -> Result<Paired, Failure> {
        let terms = self.terms(&request.terms)?;
        let ticket: Ticket =
            request.ticket.parse().map_err(|error: crate::pairing::ticket::TicketError| Failure::from(error))?;
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
            self.book.pin(terms.peer(offerer, &info.name, known))
        };
        let own = self.info();
        let peer = join(&self.context, &ticket, &addresses, own_spki, &own, store).await.map_err(joining_failed)?;
        self.dialer.kick(peer.fingerprint);
        wait_linked(&self.context.relay, peer.fingerprint).await;
        Ok(Paired { peer: view(&self.book, &self.context.relay, &peer), confirmed: true })
    }

    /// Ends the window, if one is open, and says why. Whether one was.
    fn close(&self, why: &Failure) -> bool {
        let Some(mut open) = self.lock().take() else { return false };
        let was_open = open.window.cancel(self.context.clock.now()) || why.code == Code::PairingExpired;
        if let Some(expiry) = open.expiry.take().filter(|_| why.code != Code::PairingExpired) {
            expiry.abort();
        }
        self.book.window_is(false);
        if was_open {
            self.tell(open.client, open.id.as_ref(), "pair_failed", &to_json(&PairFailed { error: why.clone() }));
        }
        was_open
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
            port: self.ports.first().map_or(0, SocketAddr::port),
            addresses: addresses::own(&self.ports),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn tell(&self, client: ClientId, id: Option<&Bytes>, event: &str, data: &[u8]) {
        tell(&self.context.relay, client, id, event, data);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
        let open = slot.as_mut().ok_or(Refusal::Closed)?;
        let id = open.window.begin(from.ip(), hello, now)?;
        let Some(Offering::Ticket(secret)) = open.window.offer(now) else { return Err(Refusal::Closed) };
        let offerer = Offerer::by_ticket(secret, parties).map_err(|_| Refusal::Closed)?;
        Ok((id, offerer))
    }

    fn proven(&self, attempt: AttemptId, joiner: Fingerprint, info: &Info, from: SocketAddr) -> Result<Info, Failure> {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let closed = || Failure::new(Code::PairingExpired, "The window is closed");
        let open = slot.as_mut().ok_or_else(closed)?;
        open.window.succeed(attempt, now).map_err(|_| closed())?;
        if let Some(expiry) = open.expiry.take() {
            expiry.abort();
        }
        let mut known = addresses::of_peer(&info.host_ports(), from.ip());
        if info.port != 0 {
            let seen = SocketAddr::new(from.ip(), info.port).to_string();
            known.retain(|address| *address != seen);
            known.insert(0, seen);
        }
        known.truncate(MAX_ADDRESSES);
        let known = known.iter().map(|a| address(a, AddressSource::Hello)).collect();
        let pinned = self.book.pin(open.terms.peer(joiner, &info.name, known));
        if let Err(failure) = pinned {
            let (client, id) = (open.client, open.id.clone());
            *slot = None;
            drop(slot);
            self.book.window_is(false);
            self.tell(client, id.as_ref(), "pair_failed", &to_json(&PairFailed { error: failure.clone() }));
            return Err(failure);
        }
        Ok(self.info())
    }

    fn done(&self, _attempt: AttemptId, joiner: Fingerprint, confirmed: bool) {
        let Some(open) = self.lock().take() else { return };
        self.book.window_is(false);
        let Some(peer) = self.book.store().get(joiner).cloned() else { return };
        self.dialer.kick(joiner);
        let (book, relay) = (Arc::clone(&self.book), self.context.relay.clone());
        tokio::spawn(async move {
            wait_linked(&relay, joiner).await;
            let paired = Paired { peer: view(&book, &relay, &peer), confirmed };
            tell(&relay, open.client, open.id.as_ref(), "paired", &to_json(&paired));
        });
    }

    fn failed(&self, attempt: AttemptId, why: Reason) {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let Some(open) = slot.as_mut() else { return };
        let Some(failed) = open.window.fail(attempt, why, now) else { return };
        let (client, id) = (open.client, open.id.clone());
        drop(slot);
        let data = serde_json::json!({ "address": failed.from.to_string(), "reason": why.to_string() });
        self.tell(client, id.as_ref(), "pair_attempt_failed", &to_json(&data));
    }
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
        JoinError::Dial(error) => error.into_failure(),
        JoinError::Exchange(reason) => Failure::from(reason),
        JoinError::Here(failure) => failure,
    }
}
