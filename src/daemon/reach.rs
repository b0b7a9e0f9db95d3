//! The way to a peer and back, checked step by step.

use std::cmp::Reverse;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::findings::{self, Findings};
use super::office::Office;
use crate::clock::rfc3339;
use crate::link::way::{Found, Tried, try_ways};
use crate::relay::CheckWork;
use crate::trust::Peer;
use crate::trust::store::{Address, AddressSource};
use crate::wire::check::Checks;
use crate::wire::error::Failure;
use crate::wire::link::Checked;

/// How long a link may take to come up once the way to the peer was found open.
const LINKING: Duration = Duration::from_millis(1500);
/// How long the peer may take to answer over the link.
const ANSWERING: Duration = Duration::from_millis(4500);
/// How many of a peer's addresses are tried when it asks for that.
const TRIED_FOR_PEER: usize = 4;
/// Pause between two checks made for one peer.
const PAUSE: Duration = Duration::from_secs(1);

impl Office {
    /// Checks the way to a peer, and from it to this machine.
    ///
    /// # Errors
    /// When there is no such peer; what is found wrong on the way is in the checks.
    pub(super) async fn check_peer(&self, peer: &str) -> Result<Checks, Failure> {
        let peer = self.book.store().find(peer)?.clone();
        let fingerprint = peer.fingerprint;
        if peer.removed {
            return Ok(findings::cut_here(&peer));
        }
        let addresses: Vec<String> = peer.addresses.iter().map(|known| known.address.clone()).collect();
        let relay = &self.context.relay;
        let (tried, over_the_link) = if relay.lock().is_linked(fingerprint) {
            tokio::join!(try_ways(&self.context.tls, fingerprint, &addresses), self.over_the_link(&peer))
        } else {
            let tried = try_ways(&self.context.tls, fingerprint, &addresses).await;
            if tried.iter().any(|tried| tried.found == Found::Reached) {
                self.dialer.kick(fingerprint);
                let _ = timeout(LINKING, poll_fn(|cx| relay.lock().poll_linked(fingerprint, cx))).await;
            }
            (tried, self.over_the_link(&peer).await)
        };
        let (link, why) = {
            let relay = relay.lock();
            (relay.link_of(fingerprint), relay.peer_facts(fingerprint).and_then(|facts| facts.why))
        };
        let mut checks = Findings::new(&peer, &tried, link.as_ref(), why.as_ref()).way_there();
        checks.extend(over_the_link.checks);
        Ok(Checks { checks, ..over_the_link })
    }

    /// What the live link tells: version, round trip, the way back and the peer's clock.
    async fn over_the_link(&self, peer: &Peer) -> Checks {
        let (relay, clock) = (&self.context.relay, &self.context.clock);
        let measuring = relay.lock().measure(peer.fingerprint, clock.now());
        let Some(measuring) = measuring else { return findings::no_link(peer) };
        let asked = relay.lock().ask_check(peer.fingerprint, clock.now());
        let measured = poll_fn(|cx| relay.lock().poll_measured(measuring, cx));
        let answer = async {
            let asked = asked?;
            let checked = poll_fn(|cx| relay.lock().poll_checked(asked, cx)).await?;
            Some((checked, clock.wall()))
        };
        let (round_trip, answer) = tokio::join!(timeout(ANSWERING, measured), timeout(ANSWERING, answer));
        let (round_trip, answer) = (round_trip.ok().flatten(), answer.ok().flatten());
        let (link, facts) = {
            let relay = relay.lock();
            (relay.link_of(peer.fingerprint), relay.peer_facts(peer.fingerprint))
        };
        // What ended meanwhile is no link that does not answer.
        let Some(link) = link else { return findings::no_link(peer) };
        let checks = vec![
            findings::version(peer, &facts.and_then(|facts| facts.version).unwrap_or_default()),
            findings::round_trip(peer, round_trip, &link),
            findings::way_back(peer, asked.is_some(), answer.as_ref().map(|(checked, _)| checked)),
        ];
        let clock_ahead_ms =
            answer.and_then(|(checked, at)| findings::clock_ahead(&checked.time, at, round_trip.unwrap_or_default()));
        Checks { checks, clock_ahead_ms }
    }

    /// Tries the ways to peers that ask for that, one at a time for each: where the one that asks is
    /// on the link already and where this machine's user has placed it, but not where it only says
    /// that it is; and tells it nothing of what is there besides itself.
    pub(super) async fn answer_checks(self: Arc<Self>) {
        let relay = &self.context.relay;
        loop {
            let work = poll_fn(|cx| relay.lock().poll_check(cx)).await;
            let office = Arc::clone(&self);
            self.tasks.spawn(async move {
                let checked = office.checked(work).await;
                office.context.relay.lock().check_made(work, checked);
                sleep(PAUSE).await;
                office.context.relay.lock().check_over(work.peer);
            });
        }
    }

    async fn checked(&self, work: CheckWork) -> Checked {
        let from = self.context.relay.lock().link_of(work.peer).map(|link| link.facts.address.ip());
        let known = self.book.store().get(work.peer).map(|peer| peer.addresses.clone()).unwrap_or_default();
        let addresses = tried_for_peer(known, from);
        let tried = try_ways(&self.context.tls, work.peer, &addresses).await;
        let results = tried.into_iter().map(Tried::for_peer).collect();
        let time = rfc3339(self.context.clock.wall());
        Checked { id: work.id, time, version: env!("CARGO_PKG_VERSION").to_owned(), results }
    }
}

/// Where a peer that is on a link from an IP address is tried when it asks for that, the likeliest first.
fn tried_for_peer(mut known: Vec<Address>, from: Option<IpAddr>) -> Vec<String> {
    known.retain(|known| match known.source {
        AddressSource::User | AddressSource::Ticket => true,
        AddressSource::Hello | AddressSource::Seen => {
            let ip = known.address.parse().map(|at: SocketAddr| at.ip().to_canonical()).ok();
            ip.is_some() && ip == from.map(|from| from.to_canonical())
        }
    });
    known.sort_by_key(|known| Reverse(known.source));
    known.into_iter().take(TRIED_FOR_PEER).map(|known| known.address).collect()
}
