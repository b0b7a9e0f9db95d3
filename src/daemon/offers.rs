//! The one pairing window that may be open at this daemon. Joining another's is [`super::joining`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::book::Book;
use super::offered::offered;
use super::ports::Ports;
use super::{addresses, views};
use crate::identity::{Fingerprint, SeededRng, random};
use crate::link::Context;
use crate::link::dialer::Dialer;
use crate::link::pairing::{Begun, Desk};
use crate::pairing::PairingCode;
use crate::pairing::exchange::{Offerer, Parties, Reason};
use crate::pairing::message::Info;
use crate::pairing::ticket::{Secret, Ticket};
use crate::pairing::window::{
    ATTEMPTS, AttemptId, DEFAULT_OPEN, EXCHANGE_TIME, Ending, FailedAttempt, Offer as Offering, Window,
};
use crate::relay::{ClientId, Shared};
use crate::tasks::Tasks;
use crate::trust::store::{Address, AddressSource, NewPeer};
use crate::trust::{Grant, Peer};
use crate::wire::PeerName;
use crate::wire::control::{
    AttemptFailed, Offer, OfferKind, PairFailed, PairOffer, PairTerms, Paired, PeerView, ReplyTo, request_event_line,
};
use crate::wire::error::{Code, Failure};
use crate::wire::link::{MAX_ADDRESSES, to_json};

/// How long after pairing the link is waited for, so that the answer can show it.
const LINKING: Duration = Duration::from_secs(3);
/// Longest pause between two looks at the window: it goes by a clock that counts suspended time,
/// which timers do not.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// Most addresses named when a code is burned.
const NAMED: usize = 4;

/// Pairing's desk.
pub(super) struct Offers {
    slot: Mutex<Slot>,
    pub(super) book: Arc<Book>,
    pub(super) context: Context,
    pub(super) dialer: Dialer,
    pub(super) own: Fingerprint,
    pub(super) ports: Ports,
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
    kind: OfferKind,
    client: ClientId,
    id: Option<Bytes>,
    terms: Terms,
    /// Failed exchanges that the client was told of.
    told: u64,
    _keeper: Timer,
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
pub(super) struct Terms {
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
        self.ports.look_again(); // A tailnet that has just come up may be asked for before the next look.
        let terms = self.terms(&request.terms)?;
        self.check_petname(&terms)?;
        let open_for = request.window_seconds.map_or(DEFAULT_OPEN, Duration::from_secs);
        let (offering, code, ticket) = match request.kind {
            OfferKind::Code => {
                let code = PairingCode::from_random(&Zeroizing::new(random()?));
                let shown = code.shown().into();
                (Offering::Code(code), Some(shown), None)
            }
            OfferKind::Ticket => {
                let secret = Zeroizing::new(random()?);
                let addresses = addresses::own(&self.ports.all());
                let ticket = Ticket::new(self.own, Secret::from_bytes(&secret), addresses).map_err(invalid)?;
                (Offering::Ticket(Secret::from_bytes(&secret)), None, Some(ticket.encode().into()))
            }
        };
        let number = self.open_window(client, reply, offering, terms, open_for, request.no_lan)?;
        let listens = timeout(LINKING, self.listening.clone().wait_for(|ports| *ports > 0)).await.is_ok();
        if !listens {
            self.close(number, &Failure::new(Code::Io, "no port could be listened on"));
            return Err(self.ports.nowhere());
        }
        if !self.context.relay.lock().has_client(client) {
            // It went before there was a window that its going could close.
            self.cancel(client);
            return Err(Failure::new(Code::Interrupted, "The offer was taken back"));
        }
        let addresses = offered(&self.ports).await;
        Ok(Offer { pairing_code: code, ticket, expires_in_seconds: open_for.as_secs(), addresses })
    }

    /// Opens a window and gives its number.
    fn open_window(
        self: &Arc<Self>,
        client: ClientId,
        reply: &ReplyTo,
        offering: Offering,
        terms: Terms,
        open_for: Duration,
        no_lan: bool,
    ) -> Result<u64, Failure> {
        let mut slot = self.lock();
        let now = self.context.clock.now();
        // One whose time was over while its keeper slept with the machine.
        self.attend(&mut slot, now);
        if slot.open.is_some() {
            return Err(Failure::new(Code::PairingBusy, "A pairing window is open already")
                .hint("finish or interrupt the `pi-remote pair` that waits, then try again"));
        }
        // The window of a client that has gone would stay: its going closes only what is there by then.
        if !self.context.relay.lock().has_client(client) {
            return Err(taken_back());
        }
        let number = slot.windows;
        let kind = match offering {
            Offering::Code(_) => OfferKind::Code,
            Offering::Ticket(_) => OfferKind::Ticket,
        };
        let window = Window::open(number, offering, now, open_for).map_err(invalid)?;
        slot.windows += 1;
        let offers = Arc::clone(self);
        let keeper = self.tasks.spawn(async move { offers.keep_window(number).await });
        let id = reply.id.clone();
        slot.open = Some(Open { window, kind, client, id, terms, told: 0, _keeper: Timer(keeper) });
        self.book.window_is(true);
        self.announced.send_replace(!no_lan);
        Ok(number)
    }

    /// Looks after a window until it is over.
    async fn keep_window(&self, number: u64) {
        loop {
            let left = {
                let mut slot = self.lock();
                let now = self.context.clock.now();
                self.attend(&mut slot, now);
                let open = slot.open.as_ref().filter(|open| open.window.number() == number);
                let Some(open) = open else { return };
                open.window.deadline().saturating_sub(now)
            };
            sleep(left.min(LONGEST_LOOK)).await;
        }
    }

    /// Tells of the exchanges that have failed, and ends a window that is over by itself.
    fn attend(&self, slot: &mut Slot, now: Duration) {
        let Some(open) = slot.open.as_mut() else { return };
        open.window.settle(now);
        for failed in open.untold() {
            let attempts_left = open.window.attempts_left();
            let data = AttemptFailed {
                address: failed.from.to_string(),
                reason: in_words(failed.why, open.kind),
                attempts_left,
            };
            self.tell(open.client, open.id.as_ref(), "pair_attempt_failed", &to_json(&data));
        }
        let why = match open.window.ending(now) {
            Some(Ending::Expired) => expired(open.kind),
            Some(Ending::Burned) => {
                tracing::warn!("a pairing code was burned: all attempts at it failed");
                burned(&open.window)
            }
            // Who closes it in these ways says so.
            Some(Ending::Succeeded(_) | Ending::Cancelled) | None => return,
        };
        self.close_if(slot, |_| true, &why);
    }

    /// Closes the window that a client opened; false when it has none.
    pub(super) fn cancel(&self, client: ClientId) -> bool {
        self.close_if(&mut self.lock(), |open| open.client == client, &taken_back())
    }

    fn close(&self, number: u64, why: &Failure) -> bool {
        self.close_if(&mut self.lock(), |open| open.window.number() == number, why)
    }

    /// Ends the window, if it is one of these, and says why. Whether it was. One that was won is no
    /// window any more.
    fn close_if(&self, slot: &mut Slot, which: impl FnOnce(&mut Open) -> bool, why: &Failure) -> bool {
        let Some(open) = slot.open.take_if(which) else { return false };
        self.window_closed();
        self.tell_failed(&open, why);
        true
    }

    fn tell_failed(&self, open: &Open, why: &Failure) {
        self.tell(open.client, open.id.as_ref(), "pair_failed", &to_json(&PairFailed { error: why.clone() }));
    }

    /// What the user has decided, where it can be kept.
    ///
    /// # Errors
    /// An unknown grant, a name that is none, a peer that is not there.
    pub(super) fn terms(&self, terms: &PairTerms) -> Result<Terms, Failure> {
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

    /// Refuses a given petname that another has, while it is not known yet who the other device is: a
    /// machine that is paired already keeps its name without one.
    ///
    /// # Errors
    /// `name_taken`.
    pub(super) fn check_petname(&self, terms: &Terms) -> Result<(), Failure> {
        if terms.petname.is_some() {
            let nobody = Fingerprint::from_bytes([0; 32]);
            self.book.store().petname_for(&terms.peer(nobody, "peer", Vec::new(), OfferKind::Code))?;
        }
        Ok(())
    }

    /// What this device says of itself.
    pub(super) fn info(&self) -> Info {
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

impl Open {
    /// The exchanges that have failed since this was last asked.
    fn untold(&mut self) -> Vec<FailedAttempt> {
        let failures = self.window.failures();
        let new = usize::try_from(failures - self.told).unwrap_or(usize::MAX);
        self.told = failures;
        let remembered = self.window.failed().count();
        self.window.failed().skip(remembered.saturating_sub(new)).copied().collect()
    }
}

impl Terms {
    /// The peer that is pinned on these terms.
    pub(super) fn peer(
        &self,
        fingerprint: Fingerprint,
        suggested: &str,
        addresses: Vec<Address>,
        kind: OfferKind,
    ) -> NewPeer {
        NewPeer {
            fingerprint,
            petname: self.petname.clone(),
            suggested: PeerName::suggested(suggested),
            replaces: self.replaces,
            addresses,
            grant: self.grant,
            via: match kind {
                OfferKind::Code => "code",
                OfferKind::Ticket => "ticket",
            },
        }
    }
}

/// The daemon keeps its desk behind this, so that tasks can hold on to it.
impl Desk for Offers {
    fn begin(&self, from: SocketAddr, hello: Duration, parties: &Parties<'_>, first: &[u8]) -> Option<Begun> {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let open = slot.open.as_mut()?;
        let (offerer, answer) = match open.window.offer(now)? {
            Offering::Code(code) => {
                let rng = SeededRng::new().inspect_err(|failure| tracing::error!(%failure, "cannot pair")).ok()?;
                let (offerer, answer) = Offerer::by_code(code, parties, first, rng).ok()?;
                (offerer, Some(answer))
            }
            Offering::Ticket(secret) => (Offerer::by_ticket(secret, parties).ok()?, None),
        };
        let attempt = open.window.begin(from.ip(), hello, now);
        // Those that have stalled meanwhile are seen here first.
        self.attend(&mut slot, now);
        Some(Begun { attempt: attempt.ok()?, offerer, answer })
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
        let already = self.book.store().get(joiner).is_some();
        let pinned = self.book.pin(open.terms.peer(joiner, &info.name, known, open.kind));
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
            let paired = Paired { peer: view(&book, &relay, &peer), confirmed, already };
            tell(&relay, open.client, open.id.as_ref(), "paired", &to_json(&paired));
        });
        Ok(self.info())
    }

    fn done(&self, attempt: AttemptId, confirmed: bool) {
        if let Some(confirm) = self.lock().won.remove(&attempt) {
            // Nobody waits for it any more when it comes too late.
            let _ = confirm.send(confirmed);
        }
    }

    fn failed(&self, attempt: AttemptId, why: Reason) {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        if let Some(open) = slot.open.as_mut() {
            open.window.fail(attempt, why, now);
            self.attend(&mut slot, now);
        }
    }
}

/// Why an exchange failed, for the offerer. Whatever was a try at the secret, or may have been, says
/// what else it may have been.
fn in_words(why: Reason, kind: OfferKind) -> String {
    let secret = match kind {
        OfferKind::Code => "code",
        OfferKind::Ticket => "ticket",
    };
    match why {
        Reason::WrongProof => format!("a wrong {secret}, or somebody stands in between"),
        Reason::Refused => "it broke off: it may have met somebody in between".to_owned(),
        Reason::Disconnected | Reason::Stalled => {
            format!("{why}: it was given up, or somebody is guessing or stands in between")
        }
        Reason::WrongOfferer
        | Reason::WrongKind
        | Reason::BadElement
        | Reason::WrongVersion
        | Reason::OutOfOrder
        | Reason::Malformed
        | Reason::TooLong
        | Reason::Closed
        | Reason::Internal => why.to_string(),
    }
}

/// How a code is offered again, or a ticket.
fn again(kind: OfferKind) -> &'static str {
    match kind {
        OfferKind::Code => "`pi-remote pair` offers again, with a new code",
        OfferKind::Ticket => "`pi-remote pair --ticket` offers again, with a new ticket",
    }
}

fn invalid(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidRequest, error.to_string())
}

fn taken_back() -> Failure {
    Failure::new(Code::Interrupted, "The offer was taken back")
}

fn expired(kind: OfferKind) -> Failure {
    Failure::new(Code::PairingExpired, "Nobody paired before the window closed").hint(again(kind))
}

/// All attempts at a code have failed. Names who tried, the last first.
fn burned(window: &Window) -> Failure {
    let mut tried: Vec<IpAddr> = window.failed().map(|failed| failed.from).collect();
    tried.reverse();
    let mut named = Vec::new();
    for from in tried {
        if !named.contains(&from) {
            named.push(from);
        }
    }
    let more = if named.len() > NAMED { ", ..." } else { "" };
    let named: Vec<String> = named.iter().take(NAMED).map(IpAddr::to_string).collect();
    let message = format!(
        "The code is burned: {ATTEMPTS} attempts at it failed (from {}{more}). Nothing was paired. \
         If no machine of yours was there, somebody is guessing or stands in between",
        named.join(", ")
    );
    Failure::new(Code::PairingBurned, message).hint(
        "`pi-remote pair` makes a new code; where somebody keeps guessing, \
         `pi-remote pair --ticket` cannot be guessed and is not burned",
    )
}

/// Waits a moment for the first link to a new peer; without one by then, the answer says so.
pub(super) async fn wait_linked(relay: &Shared, peer: Fingerprint) {
    let _ = timeout(LINKING, poll_fn(|cx| relay.lock().poll_linked(peer, cx))).await;
}

pub(super) fn view(book: &Book, relay: &Shared, peer: &Peer) -> PeerView {
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

pub(super) fn address(text: &str, source: AddressSource) -> Address {
    Address { address: text.to_owned(), source }
}

#[cfg(test)]
pub(super) mod tests;
