//! The window as exchanges meet it. Whatever takes time is done while the slot is free.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Offers, Open, address, tell, view, wait_linked};
use crate::daemon::addresses;
use crate::identity::{Fingerprint, SeededRng};
use crate::link::pairing::{Begun, Desk, RECEIPT};
use crate::pairing::exchange::{Offerer, Parties, Reason};
use crate::pairing::message::Info;
use crate::pairing::window::{AttemptId, Offer};
use crate::trust::Peer;
use crate::trust::store::{AddressSource, NewPeer};
use crate::wire::control::Paired;
use crate::wire::error::{Code, Failure};
use crate::wire::link::{MAX_ADDRESSES, to_json};

impl Desk for Arc<Offers> {
    fn begin(&self, from: SocketAddr, hello: Duration, parties: &Parties<'_>, first: &[u8]) -> Option<Begun> {
        let (number, offer) = {
            let now = self.context.clock.now();
            let mut slot = self.lock();
            let open = slot.open.as_mut()?;
            let number = open.window.number();
            let offer = open.window.has_place(from.ip(), hello, now).ok().and_then(|()| open.window.offer(now));
            // Those that have stalled meanwhile are seen here first.
            self.attend(&mut slot, now);
            (number, offer?)
        };
        let (offerer, answer) = match &*offer {
            Offer::Code(code) => {
                let rng = SeededRng::new().inspect_err(|failure| tracing::error!(%failure, "cannot pair")).ok()?;
                let (offerer, answer) = Offerer::by_code(code, parties, first, rng).ok()?;
                (offerer, Some(answer))
            }
            Offer::Ticket(secret) => (Offerer::by_ticket(secret, parties, first).ok()?, None),
        };
        drop(offer);
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let open = slot.open.as_mut().filter(|open| open.window.number() == number)?;
        let attempt = open.window.begin(from.ip(), hello, now);
        self.attend(&mut slot, now);
        Some(Begun { attempt: attempt.ok()?, offerer, answer })
    }

    fn proven<'a>(
        &'a self,
        attempt: AttemptId,
        joiner: Fingerprint,
        info: &Info,
        from: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<Info, Failure>> + Send + 'a>> {
        let won = self.win(attempt);
        let info = info.clone();
        Box::pin(async move {
            let open = won?;
            let new = open.terms.peer(joiner, &info.name, known_at(&info, from), open.kind, self.context.clock.date());
            let offers = Arc::clone(self);
            // Goes on, and is told of, also when nobody waits for it any more.
            let stored = spawn_blocking(move || offers.store(attempt, open, new)).await;
            stored.unwrap_or_else(|error| Err(Failure::new(Code::Internal, error.to_string())))?;
            Ok(self.info())
        })
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

impl Offers {
    /// Closes the window to all but this exchange, exactly once.
    fn win(&self, attempt: AttemptId) -> Result<Open, Failure> {
        let now = self.context.clock.now();
        let mut slot = self.lock();
        let won = slot.open.take_if(|open| open.window.succeed(attempt, now).is_ok());
        let open = won.ok_or_else(|| Failure::new(Code::PairingExpired, "The window is closed"))?;
        slot.pinning += 1;
        self.window_closed(&slot);
        Ok(open)
    }

    /// Pins who has won, and tells of it. Waits for the disk.
    fn store(&self, attempt: AttemptId, open: Open, new: NewPeer) -> Result<(), Failure> {
        let joiner = new.fingerprint;
        let already = self.book.store().get(joiner).is_some();
        let pinned = self.book.pin(new, open.terms.by.clone());
        let mut slot = self.lock();
        slot.pinning -= 1;
        self.book.window_is(slot.open.is_some() || slot.pinning > 0);
        let peer = pinned.inspect_err(|failure| self.tell_failed(&open, failure))?;
        let (confirm, confirmed) = oneshot::channel();
        slot.won.retain(|_, confirm| !confirm.is_closed());
        slot.won.insert(attempt, confirm);
        drop(slot);
        self.dialer.kick(joiner);
        self.tasks.spawn(self.tell_paired(open, peer, already, confirmed));
        Ok(())
    }

    /// Tells that a peer is pinned, once it is known whether it has confirmed.
    fn tell_paired(
        &self,
        open: Open,
        peer: Peer,
        already: bool,
        confirmed: oneshot::Receiver<bool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (book, relay) = (Arc::clone(&self.book), self.context.relay.clone());
        async move {
            // Not confirmed either when the exchange was broken off and nobody says so.
            let confirmed = timeout(RECEIPT, confirmed).await.is_ok_and(|told| told == Ok(true));
            wait_linked(&relay, peer.fingerprint).await;
            let paired = Paired { peer: view(&book, &relay, &peer), confirmed, already };
            tell(&relay, open.client, open.id.as_ref(), "paired", &to_json(&paired));
        }
    }
}

/// Where a joiner is from now on: where it came from first, then where it says.
fn known_at(info: &Info, from: SocketAddr) -> Vec<crate::trust::store::Address> {
    let mut known = addresses::of_peer(&info.host_ports(), from.ip());
    if info.port != 0 {
        let seen = SocketAddr::new(from.ip(), info.port).to_string();
        known.retain(|address| *address != seen);
        known.insert(0, seen);
    }
    known.truncate(MAX_ADDRESSES);
    known.iter().map(|a| address(a, AddressSource::Hello)).collect()
}
