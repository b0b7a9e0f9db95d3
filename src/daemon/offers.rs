//! The one pairing window that may be open at this daemon. Joining another's is [`super::joining`].

mod desk;
mod words;

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::book::Book;
use super::caller::caller;
use super::offered::offered;
use super::ports::Ports;
use super::{addresses, views};
use crate::control::server::Connected;
use crate::identity::{Fingerprint, random};
use crate::link::Context;
use crate::link::dialer::Dialer;
use crate::pairing::PairingCode;
use crate::pairing::message::Info;
use crate::pairing::ticket::{Secret, Ticket};
use crate::pairing::window::{AttemptId, DEFAULT_OPEN, Ending, FailedAttempt, Offer as Offering, Window};
use crate::relay::{ClientId, Shared};
use crate::tasks::Tasks;
use crate::trust::store::{Address, AddressSource, NewPeer};
use crate::trust::{Grant, Peer};
use crate::wire::PeerName;
use crate::wire::audit::Caller;
use crate::wire::control::{
    AttemptFailed, Offer, OfferKind, PairFailed, PairOffer, PairTerms, PeerView, ReplyTo, request_event_line,
};
use crate::wire::dates::as_said;
use crate::wire::error::{Code, Failure};
use crate::wire::link::to_json;
use crate::wire::rights::GrantTerms;
use words::{burned, expired, in_words, invalid, taken_back};

/// How long after pairing the link is waited for, so that the answer can show it.
const LINKING: Duration = Duration::from_secs(3);
/// Longest pause between two looks at the window: it goes by a clock that counts suspended time,
/// which timers do not.
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// Failed exchanges that are told one by one. A code has fewer attempts; a ticket's have no count.
const TOLD_EACH: u64 = 100;
/// How often the others are told of: who reads along is to see the ticket, and that somebody guesses.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Pairing's desk.
pub(super) struct Offers {
    slot: Mutex<Slot>,
    /// When the open window ends by itself, in nanoseconds of the clock; 0 where none is open. Every
    /// handshake asks this, and must not wait for the slot.
    open_until: AtomicU64,
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
    /// Joiners that have won and whose pins are being stored: until then the ports stay open for them.
    pinning: usize,
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
    /// When it was last told.
    told_at: Duration,
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
    /// How long the grant holds from the moment of pairing.
    lasts: Option<Duration>,
    /// Who has decided it.
    pub(super) by: Option<Caller>,
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
            open_until: AtomicU64::new(0),
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

    /// Whether a window is open. Waits for nothing.
    pub(super) fn is_open(&self) -> bool {
        nanoseconds(self.context.clock.now()) < self.open_until.load(Ordering::Acquire)
    }

    /// The ports listen for a window, and for those that have won one and are not pinned yet.
    fn window_closed(&self, slot: &Slot) {
        self.announced.send_replace(false);
        self.book.window_is(slot.pinning > 0);
    }

    /// Opens a window; what becomes of it is told to `client`.
    ///
    /// # Errors
    /// Another is open, or the terms cannot be kept; nothing is opened then.
    pub(super) async fn offer(
        self: &Arc<Self>,
        connected: Connected,
        reply: &ReplyTo,
        request: &PairOffer,
    ) -> Result<Offer, Failure> {
        let client = connected.id;
        self.ports.look_again(); // A tailnet that has just come up may be asked for before the next look.
        let terms = self.terms(&request.terms, caller(connected))?;
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
            return Err(taken_back());
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
        slot.open = Some(Open { window, kind, client, id, terms, told: 0, told_at: now, _keeper: Timer(keeper) });
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
        for failed in open.untold(now) {
            self.tell(open.client, open.id.as_ref(), "pair_attempt_failed", &to_json(&failed));
        }
        let why = match open.window.ending(now) {
            Some(Ending::Expired) => expired(open.kind),
            Some(Ending::Burned) => {
                // Said once the slot is let go: a log that nobody takes would hold up all pairing.
                self.tasks.spawn(async { tracing::warn!("a pairing code was burned: all attempts at it failed") });
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
        self.window_closed(slot);
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
    pub(super) fn terms(&self, terms: &PairTerms, by: Option<Caller>) -> Result<Terms, Failure> {
        let granted = GrantTerms {
            preset: Some(terms.grant.clone()),
            for_seconds: terms.for_seconds,
            until: terms.until.clone(),
            ..GrantTerms::default()
        };
        let grant = Grant::of_terms(&granted, self.context.clock.date())
            .map_err(|failure| self.book.blame_date(failure, &granted))?;
        let petname = terms.petname.as_deref().map(str::parse::<PeerName>).transpose();
        let petname = petname.map_err(|error| Failure::new(Code::InvalidRequest, error.to_string()))?;
        let replaces = match &terms.replace {
            Some(peer) => Some(self.book.store().find(peer)?.fingerprint),
            None => None,
        };
        Ok(Terms { petname, replaces, grant, lasts: terms.for_seconds.map(Duration::from_secs), by })
    }

    /// Refuses a given petname that another has, while it is not known yet who the other device is: a
    /// machine that is paired already keeps its name without one.
    ///
    /// # Errors
    /// `name_taken`.
    pub(super) fn check_petname(&self, terms: &Terms) -> Result<(), Failure> {
        if terms.petname.is_some() {
            let nobody = Fingerprint::from_bytes([0; 32]);
            self.book.store().petname_for(&terms.peer(
                nobody,
                "peer",
                Vec::new(),
                OfferKind::Code,
                SystemTime::UNIX_EPOCH,
            ))?;
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

    /// Held before the pins and the relay are, never after, and for no longer than it takes to look:
    /// neither over a write nor over a computation.
    fn lock(&self) -> Held<'_> {
        let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        Held { slot, open_until: &self.open_until }
    }
}

/// The slot, held; who lets go of it leaves behind until when a window is open.
struct Held<'a> {
    slot: MutexGuard<'a, Slot>,
    open_until: &'a AtomicU64,
}

impl Deref for Held<'_> {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let until = self.slot.open.as_ref().and_then(|open| open.window.ends_at()).map_or(0, nanoseconds);
        self.open_until.store(until, Ordering::Release);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Open {
    /// What is to be told of the exchanges that have failed since it was last: each of the first, then
    /// now and then the last with the number of the others.
    fn untold(&mut self, now: Duration) -> Vec<AttemptFailed> {
        let new = self.window.failures() - self.told;
        let each = self.window.failures() <= TOLD_EACH;
        if new == 0 || (!each && now < self.told_at.saturating_add(TOLD_EVERY)) {
            return Vec::new();
        }
        self.told += new;
        self.told_at = now;
        let told = if each { usize::try_from(new).unwrap_or(usize::MAX) } else { 1 };
        let remembered = self.window.failed().count();
        let failed = self.window.failed().skip(remembered.saturating_sub(told));
        let tell = |failed: &FailedAttempt| AttemptFailed {
            address: failed.from.to_string(),
            reason: in_words(failed.why, self.kind, if each { 0 } else { new - 1 }),
            attempts_left: self.window.attempts_left(),
        };
        failed.map(tell).collect()
    }
}

impl Terms {
    /// The peer that is pinned on these terms at this date.
    pub(super) fn peer(
        &self,
        fingerprint: Fingerprint,
        suggested: &str,
        addresses: Vec<Address>,
        kind: OfferKind,
        date: SystemTime,
    ) -> NewPeer {
        // What holds for a time holds from now on, not from when that was said.
        let expires =
            self.lasts.map_or(self.grant.expires, |lasts| Some(as_said(date.checked_add(lasts).unwrap_or(date))));
        NewPeer {
            fingerprint,
            petname: self.petname.clone(),
            suggested: PeerName::suggested(suggested),
            replaces: self.replaces,
            addresses,
            grant: Grant { expires, ..self.grant.clone() },
            via: match kind {
                OfferKind::Code => "code",
                OfferKind::Ticket => "ticket",
            },
        }
    }
}

/// Waits a moment for the first link to a new peer; without one by then, the answer says so.
pub(super) async fn wait_linked(relay: &Shared, peer: Fingerprint) {
    let _ = timeout(LINKING, poll_fn(|cx| relay.lock().poll_linked(peer, cx))).await;
}

pub(super) fn view(book: &Book, relay: &Shared, peer: &Peer) -> PeerView {
    let date = book.date();
    let store = book.store();
    views::peer_view(store.get(peer.fingerprint).unwrap_or(peer), &relay.lock(), date)
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
